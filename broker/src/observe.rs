//! What a harness that runs the broker in its own process may look at.

use std::fmt::Debug;

use headwater_consensus::{Group, Observation};
use headwater_core::Machine;
use headwater_proto::types::GroupId;
use headwater_storage::log::LogId;

use crate::node::Node;

impl Node {
    /// Every replica that is open here, of the metadata and of partitions.
    #[must_use]
    pub fn observe(&self) -> Vec<Observation> {
        let partitions = self.registry().open_partitions();
        let metadata = self.controller().group().observe();
        std::iter::once(metadata)
            .chain(partitions.iter().map(|partition| partition.group().observe()))
            .collect()
    }

    /// Why the broker must not go on, once it is so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.host().failure()
    }

    /// What each replica built from the entries up to the one named: equal on all brokers.
    #[must_use]
    pub fn states(&self) -> Vec<(GroupId, LogId, String)> {
        let partitions = self.registry().open_partitions();
        let metadata = state(self.controller().group());
        std::iter::once(metadata).chain(partitions.iter().map(|partition| state(partition.group()))).collect()
    }
}

fn state<M: Machine + Debug>(group: &Group<M>) -> (GroupId, LogId, String) {
    let (applied, state) = group.shown_state();
    (group.id(), applied, state)
}
