//! What a harness that runs the broker in its own process may look at.

use headwater_consensus::Observation;

use crate::node::Node;

impl Node {
    /// Every replica that is open here, of the metadata and of partitions.
    #[must_use]
    pub fn observe(&self) -> Vec<Observation> {
        let partitions = self.registry().open_partitions();
        let metadata = self.controller().group().observe();
        std::iter::once(metadata).chain(partitions.iter().map(|partition| partition.group().observe())).collect()
    }
}
