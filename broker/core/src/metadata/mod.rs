//! The state of the cluster: brokers, topics with their assignments and configs, producer-id blocks.
//!
//! Invariants: a topic id and a replica id are never used twice; every partition of a topic has at least
//! one replica. The controller asks [`MetadataState::check`] before it proposes. Applying looks only at
//! this state, never at tables that differ between versions: a command that lost a race is answered with
//! its error and changes nothing, on every replica alike.

mod check;
mod command;
mod error;
mod execute;
mod types;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::types::{
    BrokerId, GroupId, Incarnation, Offset, PartitionId, ProducerId, ReplicaId, TopicId,
};

pub use command::{Command, Effect, Survivor, command_batch};
pub use error::MetadataError;
pub use types::{Broker, BrokerState, Partition, Replica, Topic};

use crate::log_state::LogState;
use crate::machine::{ApplyError, DecodeError, Entry, EntryBody, Machine};

/// The metadata group's replica on the broker that initializes it.
pub const FIRST_REPLICA_ID: ReplicaId = ReplicaId(1);

/// Replica ids below this one name the voters with which the metadata group itself is initialized.
pub const FIRST_ALLOCATED_REPLICA_ID: ReplicaId = ReplicaId(1_000);

/// Partitions that one topic can have.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 10_000;

/// Replicas that one partition can have.
pub const REPLICAS_MAX: usize = 7;

/// The cluster as of the last applied entry of the metadata group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataState {
    pub log: LogState,
    brokers: BTreeMap<BrokerId, Broker>,
    topics: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, TopicId>,
    /// The metadata group itself: one replica on every broker, in the order of the brokers.
    metadata: Partition,
    /// Data directories that were replaced or removed, which are never admitted again.
    retired: BTreeMap<BrokerId, BTreeSet<Incarnation>>,
    next_replica_id: ReplicaId,
    next_producer_id: ProducerId,
}

impl Default for MetadataState {
    fn default() -> Self {
        Self {
            log: LogState::default(),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            metadata: Partition::default(),
            retired: BTreeMap::new(),
            next_replica_id: FIRST_ALLOCATED_REPLICA_ID,
            next_producer_id: ProducerId(0),
        }
    }
}

impl Machine for MetadataState {
    type Reply = Result<Effect, MetadataError>;

    fn apply(&mut self, entry: Entry<'_>) -> Result<Self::Reply, ApplyError> {
        self.log.check(&entry)?;
        let reply = match entry.body {
            EntryBody::Control(_) => Ok(Effect::None),
            EntryBody::Records(bytes) => {
                let unreadable = |reason: String| ApplyError::Command { index: entry.index, reason };
                let batch = RecordBatch::trusted(bytes.clone()).map_err(|e| unreadable(e.to_string()))?;
                let command = read_command(&batch).map_err(unreadable)?;
                self.check_against_state(&command).map(|()| self.execute(command))
            }
        };
        self.log.advance(&entry);
        Ok(reply)
    }

    fn encode(&self) -> Vec<u8> {
        wire::state::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::state::decode(bytes)
    }

    fn next_offset(&self) -> Offset {
        self.log.next_offset
    }

    fn log_start(&self) -> Offset {
        self.log.log_start
    }
}

impl MetadataState {
    /// Brokers by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// Topics by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }

    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id)
    }

    /// Every group with its assignment: the metadata group, then the partitions by topic name and number.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Partition)> {
        let partitions = self.topics().flat_map(|topic| {
            let group = |partition| GroupId { topic_id: topic.id, partition };
            topic.numbered().map(move |(number, partition)| (group(number), partition))
        });
        std::iter::once((GroupId::METADATA, &self.metadata)).chain(partitions)
    }

    /// The assignment of a group; the metadata group's own for [`GroupId::METADATA`].
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&Partition> {
        if group == GroupId::METADATA {
            return Some(&self.metadata);
        }
        self.partition(group.topic_id, group.partition)
    }

    #[must_use]
    pub fn partition(&self, topic: TopicId, number: PartitionId) -> Option<&Partition> {
        self.topics.get(&topic)?.partition(number)
    }

    /// The metadata group's replica on a broker.
    #[must_use]
    pub fn metadata_replica(&self, broker: BrokerId) -> Option<Replica> {
        self.metadata.replicas.iter().find(|replica| replica.broker == broker).copied()
    }

    /// Replicas of partitions that a broker holds or is to hold, under whatever incarnation; those that are leaving
    /// count, the metadata group's own does not.
    #[must_use]
    pub fn replicas_of(&self, broker: BrokerId) -> usize {
        let partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        partitions.flat_map(Partition::holders).filter(|replica| replica.broker == broker).count()
    }

    /// Whether a data directory was replaced by another one, or its broker removed.
    #[must_use]
    pub fn is_retired(&self, broker: BrokerId, incarnation: Incarnation) -> bool {
        self.retired.get(&broker).is_some_and(|retired| retired.contains(&incarnation))
    }

    /// Whether a broker would register as what is known of it.
    #[must_use]
    pub fn is_registered(&self, broker: &Broker) -> bool {
        let known = self.brokers.get(&broker.id);
        known.is_some_and(|known| Broker { state: broker.state, ..known.clone() } == *broker)
    }
}

fn read_command(batch: &RecordBatch) -> Result<Command, String> {
    let mut records = batch.records(&Limits::default()).map_err(|e| e.to_string())?;
    let record = records.next().ok_or("its batch is empty")?.map_err(|e| e.to_string())?;
    let value = record.value.ok_or("its record has no value")?;
    Command::decode(&value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
