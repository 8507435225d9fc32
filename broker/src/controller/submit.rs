//! Changing the metadata from any broker: the leader of the metadata group decides, wherever it is.
//!
//! Invariants: a command is checked against the applied state of a leader and proposed only if that lets it pass;
//! **it is made again only if it is certainly in no log, or if making it twice changes nothing**; who is told that
//! a change is made finds it in this broker's state.

use std::time::Duration;

use futures_util::future::BoxFuture;
use headwater_consensus::ConsensusError;
use headwater_consensus::peer::CallError;
use headwater_consensus::transport::{NodeRequest, NodeResponse};
use headwater_core::metadata::{Command, Effect, MetadataState, command_batch};
use headwater_proto::ErrorCode;
use headwater_proto::types::{BrokerId, LogIndex};
use headwater_proto::v1;
use headwater_proto::v1::{read_index_reply, submitted};
use tokio::time::Instant;

use super::Controller;
use crate::error::RequestError;

/// Between two attempts while nobody leads the metadata group.
const ATTEMPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// One attempt at a leader on another broker: after it, another one may have been elected.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
/// Commands whose caller names no time.
const SUBMIT_WITHIN: Duration = Duration::from_secs(30);

/// What became of one attempt.
#[derive(Debug)]
pub enum Attempt {
    /// It is applied at or below this index.
    Applied(Effect, LogIndex),
    /// It was refused: it is in no log, and would be refused again.
    Refused(RequestError),
    /// It is in no log, and may be made again.
    NotAppended(RequestError),
    /// It may be in the log.
    Unknown(RequestError),
}

impl Controller {
    /// Makes a change, and waits until this broker's state shows it.
    ///
    /// # Errors
    /// It was refused; or nobody led the metadata group for too long; or, reported as such, its outcome is unknown.
    pub async fn submit(&self, command: Command) -> Result<Effect, RequestError> {
        self.submit_within(command, SUBMIT_WITHIN).await
    }

    /// As [`Controller::submit`], with a bound on the attempts.
    pub fn submit_within(
        &self,
        command: Command,
        within: Duration,
    ) -> BoxFuture<'_, Result<Effect, RequestError>> {
        // Boxed: it is deep, and so are its callers.
        Box::pin(self.attempt_until(command, Instant::now() + within))
    }

    async fn attempt_until(&self, command: Command, deadline: Instant) -> Result<Effect, RequestError> {
        let mut doubt: Option<RequestError> = None;
        loop {
            let error = match self.attempt(&command, deadline).await {
                Attempt::Applied(effect, index) => {
                    self.wait_applied(index, deadline).await?;
                    return Ok(effect);
                }
                // What was in doubt may be why it is refused now.
                Attempt::Refused(error) => match doubt {
                    None => return Err(error),
                    Some(doubt) => return self.settle(&command, doubt, deadline).await,
                },
                Attempt::NotAppended(error) => error,
                Attempt::Unknown(error) if may_be_repeated(&command) => {
                    doubt = Some(error.clone());
                    error
                }
                Attempt::Unknown(error) => return Err(error),
            };
            if Instant::now() + ATTEMPT_AGAIN_AFTER >= deadline {
                return Err(doubt.unwrap_or(error));
            }
            tokio::time::sleep(ATTEMPT_AGAIN_AFTER).await;
        }
    }

    /// Brings this broker's state up to everything that was acknowledged before the call.
    ///
    /// # Errors
    /// Nobody who leads the metadata group answered in time.
    pub async fn catch_up(&self, within: Duration) -> Result<(), RequestError> {
        let deadline = Instant::now() + within;
        loop {
            match self.current_index(deadline).await {
                Ok(index) => return self.wait_applied(index, deadline).await,
                Err(error) if Instant::now() + ATTEMPT_AGAIN_AFTER >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(ATTEMPT_AGAIN_AFTER).await,
            }
        }
    }

    /// Has the leader on this broker decide.
    pub async fn decide(&self, command: &Command) -> Attempt {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        if self.group().leadership().is_none() {
            return Attempt::NotAppended(RequestError::NotLeader);
        }
        if let Err(error) = self.check(command) {
            return Attempt::Refused(error);
        }
        let batch = match command_batch(command, self.env.clock.now()) {
            Ok(batch) => batch,
            Err(error) => return Attempt::Refused(error.into()),
        };
        let receipt = match self.proposer.propose_plain(batch).await {
            Ok(receipt) => receipt,
            Err(error @ (RequestError::NotLeader | RequestError::Retry | RequestError::Refused(_))) => {
                return Attempt::NotAppended(error);
            }
            Err(error @ RequestError::Unknown(_)) => return Attempt::Unknown(error),
            Err(error) => return Attempt::Refused(error),
        };
        match receipt.outcome().await {
            Ok(Ok(Ok(effect))) => Attempt::Applied(effect, self.applied_index()),
            Ok(Ok(Err(error))) => Attempt::Refused(error.into()),
            Ok(Err(_)) => {
                Attempt::Unknown(RequestError::Internal("a metadata command is no duplicate".to_owned()))
            }
            Err(error @ (RequestError::NotLeader | RequestError::Retry)) => Attempt::NotAppended(error),
            Err(error) => Attempt::Unknown(error),
        }
    }

    /// Up to where a state must be applied to be current, by the word of the leader on this broker.
    pub async fn read_index(&self) -> Result<LogIndex, ConsensusError> {
        self.group().read_index().await.map(|progress| progress.applied.index)
    }

    /// The broker that leads the metadata group, as far as this one knows.
    pub fn leader(&self) -> Option<BrokerId> {
        let group = self.group();
        let leader = group.leader()?;
        if leader == group.replica_id() {
            return Some(self.broker_id());
        }
        group.membership().peers.get(&leader).map(|peer| peer.broker_id)
    }

    pub fn applied_index(&self) -> LogIndex {
        self.group().progress().borrow().applied.index
    }

    async fn attempt(&self, command: &Command, deadline: Instant) -> Attempt {
        if self.group().leadership().is_some() {
            return self.decide(command).await;
        }
        let Some(leader) = self.leader().filter(|leader| *leader != self.broker_id()) else {
            return Attempt::NotAppended(RequestError::NoMetadataLeader);
        };
        let within = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT_WITHIN);
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let request = NodeRequest::Submit(v1::Submit { command: command.encode().into(), within_ms });
        match self.transport.node_call(leader, request, within).await {
            Ok(NodeResponse::Submit(answer)) => attempt_elsewhere(answer),
            Ok(_) => Attempt::Unknown(RequestError::Internal("the answer is to another question".to_owned())),
            // The broker refuses what is meant for another data directory before anything looks at it.
            Err(CallError::Refused(refusal)) => {
                Attempt::NotAppended(RequestError::Unreachable(refusal.to_string()))
            }
            Err(error) => Attempt::Unknown(RequestError::Unknown(error.to_string())),
        }
    }

    async fn current_index(&self, deadline: Instant) -> Result<LogIndex, RequestError> {
        if self.group().leadership().is_some() {
            return self.read_index().await.map_err(|_| RequestError::NoMetadataLeader);
        }
        let Some(leader) = self.leader().filter(|leader| *leader != self.broker_id()) else {
            return Err(RequestError::NoMetadataLeader);
        };
        let within = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT_WITHIN);
        let request = NodeRequest::ReadIndex(v1::ReadIndex {});
        match self.transport.node_call(leader, request, within).await {
            Ok(NodeResponse::ReadIndex(reply)) => match reply.outcome {
                Some(read_index_reply::Outcome::Index(index)) => Ok(LogIndex(index)),
                _ => Err(RequestError::NoMetadataLeader),
            },
            Ok(_) => Err(RequestError::Internal("the answer is to another question".to_owned())),
            Err(error) => Err(RequestError::Unreachable(error.to_string())),
        }
    }

    async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> Result<(), RequestError> {
        let mut progress = self.group().progress();
        let applied = progress.wait_for(|progress| progress.applied.index >= index);
        match tokio::time::timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Stopping),
            Err(_) => Err(RequestError::Lagging),
        }
    }

    /// Whether a command whose outcome is in doubt was applied, when it is refused the second time.
    async fn settle(
        &self,
        command: &Command,
        doubt: RequestError,
        deadline: Instant,
    ) -> Result<Effect, RequestError> {
        self.catch_up(deadline.saturating_duration_since(Instant::now())).await?;
        self.with_state(|state| effect_in(state, command)).ok_or(doubt)
    }
}

/// What a command that is made twice leaves as if it had been made once: those that carry ids or epochs of their own.
const fn may_be_repeated(command: &Command) -> bool {
    // Made again, it would undo what somebody else has set meanwhile.
    !matches!(command, Command::AlterConfigs { .. })
}

/// The effect that a command has left in the state, as far as that can be told.
fn effect_in(state: &MetadataState, command: &Command) -> Option<Effect> {
    match command {
        Command::CreateTopic { id, .. } => state.topic_by_id(*id).map(|_| Effect::TopicCreated),
        Command::DeleteTopic { id } => state.topic_by_id(*id).is_none().then_some(Effect::TopicDeleted),
        Command::CreatePartitions { id, before, assignments } => {
            let partitions = state.topic_by_id(*id)?.partitions.len();
            (partitions == before + assignments.len()).then_some(Effect::PartitionsCreated)
        }
        Command::UnregisterBroker { id } => state.broker(*id).is_none().then_some(Effect::BrokerUnregistered),
        _ => None,
    }
}

/// An attempt as it is told to the broker that asked for it.
pub fn to_proto(attempt: Attempt, leader: Option<BrokerId>) -> v1::Submitted {
    let failed = |error: &RequestError, not_appended| {
        let code = error.code().number().into();
        submitted::Outcome::Failed(v1::SubmitFailed { code, message: error.to_string(), not_appended })
    };
    let outcome = match attempt {
        Attempt::Applied(effect, index) => {
            let effect = effect.encode().into();
            submitted::Outcome::Applied(v1::SubmitApplied { effect, index: index.get() })
        }
        Attempt::Refused(error) => failed(&error, true),
        Attempt::NotAppended(_) => submitted::Outcome::LeaderId(leader.map_or(-1, BrokerId::get)),
        Attempt::Unknown(error) => failed(&error, false),
    };
    v1::Submitted { outcome: Some(outcome) }
}

fn attempt_elsewhere(answer: v1::Submitted) -> Attempt {
    match answer.outcome {
        Some(submitted::Outcome::Applied(applied)) => match Effect::decode(&applied.effect) {
            Ok(effect) => Attempt::Applied(effect, LogIndex(applied.index)),
            Err(error) => Attempt::Unknown(RequestError::Unknown(error.to_string())),
        },
        Some(submitted::Outcome::Failed(failed)) => {
            let code = ErrorCode::from_number(failed.code).unwrap_or(ErrorCode::UnknownServerError);
            let error = RequestError::Elsewhere { code, message: failed.message };
            if failed.not_appended { Attempt::Refused(error) } else { Attempt::Unknown(error) }
        }
        Some(submitted::Outcome::LeaderId(_)) => Attempt::NotAppended(RequestError::NoMetadataLeader),
        None => Attempt::Unknown(RequestError::Unknown("the leader's answer cannot be read".to_owned())),
    }
}
