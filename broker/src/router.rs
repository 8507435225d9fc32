//! Which replica answers: the leader, unless the request lets a follower read.
//!
//! Invariant: a broker that does not lead a partition says who does, if it knows.

use std::sync::Arc;

use headwater_core::metadata::Partition as Assignment;
use headwater_proto::types::{BrokerId, GroupId, PartitionId};

use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Partition, Readers};

/// The leader of a partition, as a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    pub broker: BrokerId,
    pub epoch: i32,
    /// Advertised address of its gRPC listener.
    pub address: String,
}

impl Node {
    /// A partition as metadata has it.
    pub fn assignment(&self, topic: &str, partition: i32) -> Option<(GroupId, Assignment)> {
        let partition = PartitionId(partition);
        self.controller().with_state(|state| {
            let topic = state.topic(topic)?;
            Some((GroupId { topic_id: topic.id, partition }, topic.partition(partition)?.clone()))
        })
    }

    /// Who leads a partition, if that is known; else one that rests without a leader is woken.
    pub fn leader_hint(&self, topic: &str, partition: i32) -> Option<LeaderHint> {
        let (group, _) = self.assignment(topic, partition)?;
        let Some(leader) = self.cluster().leader(group) else {
            self.cluster().want_leader(group);
            return None;
        };
        let address = self
            .controller()
            .with_state(|state| state.broker(leader.broker).map(|broker| broker.grpc_address.clone()))?;
        let epoch = i32::try_from(leader.term.get()).unwrap_or(i32::MAX);
        Some(LeaderHint { broker: leader.broker, epoch, address })
    }

    /// The replica here from which records are read, and for whom.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn replica(
        &self,
        topic: &str,
        partition: i32,
        allow_follower: bool,
    ) -> Result<(Arc<Partition>, Readers), RequestError> {
        let replica = self.partition(topic, partition)?;
        if allow_follower {
            return Ok((replica, Readers::Followers));
        }
        // What is damaged leads nothing, and is still read where nobody else has it.
        let own = self.controller().broker_id();
        let alone = self
            .assignment(topic, partition)
            .is_some_and(|(_, assigned)| assigned.replicas.iter().all(|other| other.broker == own));
        Ok((replica, if alone { Readers::OfTheOnlyReplica } else { Readers::OfTheLeader }))
    }
}
