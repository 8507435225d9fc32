//! One step of one group, carried out.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::metadata::Command;
use headwater_proto::types::{GroupId, LogIndex, ReplicaId};
use tokio::time::Instant;

use super::decide::{Step, View, next_step};
use super::guided::Guided;
use super::{StewardSettings, assigned, is_there};
use crate::error::RequestError;
use crate::node::Node;

/// Metadata must be current within so long.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(5);
/// The next leader must lead within so long: writes are held back meanwhile.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(1_500);
/// A change of members that is not committed within so long is looked at anew.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    Step(Step),
    /// Another replica should lead.
    HandOver(ReplicaId),
}

/// Carries a task of one group out.
pub struct CarryOut {
    pub node: Arc<Node>,
    pub group: Arc<dyn Guided>,
    pub settings: StewardSettings,
    pub led_since: Instant,
    pub caught_up_at: Option<LogIndex>,
}

impl CarryOut {
    /// Whether it succeeded, or was found to be superseded.
    pub async fn run(self, task: Task) -> bool {
        let stop = self.node.stop().clone();
        let group = self.group.id();
        let done = tokio::select! {
            done = self.carry_out(&task) => done,
            () = stop.cancelled() => return false,
        };
        if let Err(error) = &done {
            tracing::debug!(%group, ?task, %error, "not done, and tried again");
        }
        done.is_ok()
    }

    async fn carry_out(&self, task: &Task) -> Result<(), RequestError> {
        match task {
            Task::HandOver(to) => self.hand_over(*to).await,
            Task::Step(step) => {
                self.node.controller().catch_up(CATCH_UP_WITHIN).await?;
                if self.next_step().as_ref() != Some(step) {
                    return Ok(());
                }
                let made = tokio::time::timeout(CHANGE_WITHIN, self.make(step)).await;
                made.unwrap_or_else(|_| {
                    let timeout_ms = u64::try_from(CHANGE_WITHIN.as_millis()).unwrap_or(u64::MAX);
                    Err(RequestError::NotFinished { timeout_ms })
                })
            }
        }
    }

    /// The step that comes next as metadata is now.
    fn next_step(&self) -> Option<Step> {
        let patience = self.settings.replace_voter_after;
        let there = |broker| is_there(&self.node, broker, self.led_since, patience);
        let (members, followers) = (self.group.membership(), self.group.followers());
        let known = || members.clone();
        let controller = self.node.controller();
        let now = controller.with_state(|state| assigned(state, self.group.id(), known, there))?;
        let view = View {
            own: self.group.replica_id(),
            members: &members,
            followers: &followers,
            caught_up_at: self.caught_up_at,
            alive: &|broker| self.node.cluster().alive(broker),
            // It was given room when it was begun.
            has_room: true,
        };
        Some(next_step(&now.wanted, &view))
    }

    async fn make(&self, step: &Step) -> Result<(), RequestError> {
        let group = self.group.id();
        tracing::info!(%group, ?step, "changing the members of a group");
        match step {
            Step::Settled | Step::Wait(_) => {}
            Step::AddLearner(replica, peer) => self.group.add_learner(*replica, *peer).await?,
            Step::RemoveLearner(replica) => self.group.remove_learner(*replica).await?,
            Step::ChangeVoters(voters) => self.group.change_voters(voters.clone()).await?,
            Step::HandOver(to) => self.hand_over(*to).await?,
            Step::Complete { epoch, removed } => {
                let GroupId { topic_id: topic, partition } = group;
                let removed = removed.clone();
                let complete = Command::CompleteReassign { topic, partition, epoch: *epoch, removed };
                self.node.controller().submit(complete).await?;
            }
        }
        Ok(())
    }

    async fn hand_over(&self, to: ReplicaId) -> Result<(), RequestError> {
        tracing::info!(group = %self.group.id(), %to, "handing leadership over");
        Ok(self.group.transfer_leadership(to, HAND_OVER_WITHIN).await?)
    }
}
