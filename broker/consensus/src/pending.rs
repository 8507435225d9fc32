//! The answer to a proposal, when it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use headwater_storage::log::LogId;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::OneshotReceiverOf;

use crate::error::ProposeError;
use crate::types::{Outcome, Types, from_raft};

/// An entry that was committed and applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed<R> {
    pub log_id: LogId,
    pub reply: R,
}

/// Resolves when the proposal was applied, or never will be. Dropping it forgets the answer, not the proposal.
pub struct Pending<R: Send + Sync + 'static> {
    answer: OneshotReceiverOf<Types<R>, ClientWriteResult<Types<R>>>,
}

impl<R: Send + Sync + 'static> Pending<R> {
    pub(crate) fn new(answer: OneshotReceiverOf<Types<R>, ClientWriteResult<Types<R>>>) -> Self {
        Self { answer }
    }
}

impl<R: Send + Sync + 'static> Future for Pending<R> {
    type Output = Result<Committed<R>, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| match answer {
            Ok(Ok(written)) => match written.data {
                Outcome::Applied(reply) => Ok(Committed { log_id: from_raft(&written.log_id), reply }),
                Outcome::Void => Err(ProposeError::Retry),
            },
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => Err(ProposeError::Stopped("it was shut down, or its log failed".to_owned())),
        })
    }
}

fn refused<R: Send + Sync + 'static>(error: ClientWriteError<Types<R>>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, reason, .. }) => match reason {
            ForwardReason::NotLeader => ProposeError::NotLeader { leader: leader_id },
            ForwardReason::LeadershipTransfer | ForwardReason::LeaseExpired => ProposeError::Retry,
        },
        ClientWriteError::LogEntryDiscarded(forward) => ProposeError::Unknown { leader: forward.leader_id },
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ProposeError::Retry
        }
    }
}
