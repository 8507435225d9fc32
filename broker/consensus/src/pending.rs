//! The answers to a proposal, when they come: that it is durable here, and that it was applied.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use headwater_proto::types::Offset;
use headwater_storage::log::LogId;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::OneshotReceiverOf;
use tokio::sync::oneshot;

use crate::error::ProposeError;
use crate::types::{Outcome, Types, from_raft};

/// An entry that was committed and applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed<R> {
    pub log_id: LogId,
    pub reply: R,
}

/// How a leader's log tells the proposer that its entry is durable there.
#[derive(Clone)]
pub(crate) struct LocalSignal(Arc<Mutex<Option<oneshot::Sender<Offset>>>>);

impl fmt::Debug for LocalSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalSignal")
    }
}

impl LocalSignal {
    pub(crate) fn new() -> (Self, LocallyDurable) {
        let (signal, durable) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(signal)))), durable)
    }

    pub(crate) fn send(&self, base_offset: Offset) {
        if let Some(signal) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Nobody listens any more where the client went away.
            let _ = signal.send(base_offset);
        }
    }
}

/// Resolves to the base offset of a proposal once it is durable in its leader's log, which no other replica need hold:
/// it may yet be lost with the leader. An error if it was not stored, or only as a void entry.
pub type LocallyDurable = oneshot::Receiver<Offset>;

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
