//! What does not concern the members of one group alone: the commands of the metadata's leader, and damaged replicas.

use headwater_consensus::Health;
use headwater_core::metadata::Command;
use headwater_proto::types::GroupId;
use tokio::time::{Duration, Instant};

use super::{Done, Steward, voters};
use crate::partition::Partition;

/// The same rebuild is asked for no more often. Damage is looked for in every round: where nobody says yet who is in
/// sync, as after a start, the next round may know, and until then a copy is missing.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

impl Steward {
    /// Issues the commands that follow from the state of the metadata, where this broker leads it. Whether there are any.
    pub(super) fn command(&mut self) -> bool {
        if self.commanding || !self.watched.contains_key(&GroupId::METADATA) {
            return self.commanding;
        }
        let (own, cluster) = (self.own, self.node.cluster());
        let commands = self.node.controller().with_state(|state| {
            // Nothing follows from a state that nothing followed from.
            let applied = state.log.applied_index;
            if self.commanded == Some(applied) {
                return Vec::new();
            }
            let commands = voters::commands(state, own, |broker| cluster.alive(broker));
            self.commanded = commands.is_empty().then_some(applied);
            commands
        });
        if commands.is_empty() {
            return false;
        }
        self.commanding = true;
        let node = std::sync::Arc::clone(&self.node);
        self.tasks.spawn(async move {
            for command in commands {
                tracing::info!(?command, "the state of the cluster asks for it");
                if let Err(error) = node.controller().submit(command).await {
                    tracing::debug!(%error, "not done, and decided anew");
                }
            }
            Done::Commands
        });
        true
    }

    /// Has damaged replicas built anew where others can build them.
    pub(super) fn repair(&mut self, now: Instant) {
        self.rebuilds.retain(|_, at| now.saturating_duration_since(*at) < ASK_AGAIN_AFTER);
        for partition in self.node.registry().open_partitions() {
            let damaged = matches!(partition.group().health(), Health::Damaged(_));
            if damaged && !self.rebuilds.contains_key(&partition.id()) && self.others_can_build(&partition) {
                self.rebuilds.insert(partition.id(), now);
                let GroupId { topic_id: topic, partition: number } = partition.id();
                let rebuild =
                    Command::RebuildReplica { topic, partition: number, replica: partition.replica_id() };
                let node = std::sync::Arc::clone(&self.node);
                self.tasks.spawn(async move {
                    tracing::warn!(group = %partition.id(), "a damaged replica is to be built anew");
                    if let Err(error) = node.controller().submit(rebuild).await {
                        tracing::warn!(group = %partition.id(), %error, "it stays damaged for now");
                    }
                    Done::Repair
                });
            }
        }
    }

    /// Whether a majority of the replicas is whole without this one, under a leader that says so: what this one holds
    /// can then be given up.
    fn others_can_build(&self, partition: &Partition) -> bool {
        let (group, own) = (partition.id(), partition.replica_id());
        let replicas = self.node.controller().with_state(|state| {
            let assigned = state.group(group)?;
            let is_assigned = assigned.replicas.iter().any(|replica| replica.id == own);
            is_assigned.then_some(assigned.replicas.len())
        });
        let in_sync = self.node.cluster().in_sync(group);
        let others = in_sync.iter().filter(|broker| **broker != self.own).count();
        replicas.is_some_and(|replicas| others > replicas / 2)
    }
}
