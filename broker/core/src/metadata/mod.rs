//! The state of the cluster: brokers, topics with their assignments and configs, producer-id blocks.
//!
//! Invariants: a topic id and a replica id are never used twice; every partition of a topic has at least
//! one replica. The controller asks [`MetadataState::check`] before it proposes. Applying looks only at
//! this state, never at tables that differ between versions: a command that lost a race is answered with
//! its error and changes nothing, on every replica alike.

mod command;
mod error;
mod wire;

use std::collections::BTreeMap;

use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::types::{BrokerId, Incarnation, Offset, PartitionId, ProducerId, ReplicaId, TopicId};

pub use command::{Command, command_batch};
pub use error::MetadataError;

use crate::log_state::LogState;
use crate::machine::{ApplyError, DecodeError, Entry, EntryBody, Machine};
use crate::topic_config::{Overrides, TopicConfig};
use crate::topic_name::{check_topic_name, collision_key};

/// Replica ids below this one name the voters with which the metadata group itself is initialized.
pub const FIRST_ALLOCATED_REPLICA_ID: ReplicaId = ReplicaId(1_000);

/// Partitions that one topic can have.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 10_000;

/// Replicas that one partition can have.
pub const REPLICAS_MAX: usize = 7;

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub id: BrokerId,
    /// The data directory that it runs on.
    pub incarnation: Incarnation,
    /// Advertised addresses, HOST:PORT.
    pub grpc_address: String,
    pub kafka_address: String,
    pub peer_address: String,
    pub rack: String,
    pub version: String,
}

/// One replica of a partition, bound to the data directory that its broker had when it was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub id: ReplicaId,
    pub broker: BrokerId,
    pub incarnation: Incarnation,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    /// Replicas by partition number.
    pub partitions: Vec<Vec<Replica>>,
    pub overrides: Overrides,
}

impl Topic {
    /// The partitions with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (PartitionId, &[Replica])> {
        (0..).map(PartitionId).zip(self.partitions.iter().map(Vec::as_slice))
    }

    /// Replicas of each partition; the same for all of a topic.
    #[must_use]
    pub fn replica_count(&self) -> usize {
        self.partitions.first().map_or(0, Vec::len)
    }
}

/// What a command that was accepted did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An entry of Headwater's own, without effect on this state.
    None,
    BrokerRegistered,
    TopicCreated,
    TopicDeleted,
    PartitionsCreated,
    ConfigsAltered,
    /// The ids from `first` on are the requester's.
    ProducerIds {
        first: ProducerId,
        count: u32,
    },
}

/// The cluster as of the last applied entry of the metadata group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataState {
    pub log: LogState,
    brokers: BTreeMap<BrokerId, Broker>,
    topics: BTreeMap<TopicId, Topic>,
    names: BTreeMap<String, TopicId>,
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
        wire::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode(bytes)
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

    /// Whether the controller may propose a command: everything that applying would refuse, and what
    /// this version's rules for names, configs and limits refuse.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, command: &Command) -> Result<(), MetadataError> {
        match command {
            Command::CreateTopic { name, assignments, overrides, .. } => {
                check_topic_name(name)?;
                check_partition_count(assignments.len())?;
                let replicas = assignments.first().map_or(0, Vec::len);
                if replicas > REPLICAS_MAX {
                    return Err(MetadataError::ReplicationFactor { replicas, brokers: self.brokers.len() });
                }
                TopicConfig::resolve(overrides, replicas)?;
            }
            Command::CreatePartitions { before, assignments, .. } => {
                check_partition_count(before.saturating_add(assignments.len()))?;
            }
            Command::AlterConfigs { id, .. } => {
                let topic = self.topics.get(id).ok_or(MetadataError::UnknownTopicId(*id))?;
                TopicConfig::resolve(&command.overrides_after(&topic.overrides), topic.replica_count())?;
            }
            Command::RegisterBroker(_)
            | Command::DeleteTopic { .. }
            | Command::AllocateProducerIds { .. } => {}
        }
        self.check_against_state(command)
    }

    fn check_against_state(&self, command: &Command) -> Result<(), MetadataError> {
        match command {
            Command::RegisterBroker(_) => Ok(()),
            Command::CreateTopic { id, name, assignments, .. } => {
                self.check_name_is_free(name)?;
                if self.topics.contains_key(id) {
                    return Err(MetadataError::TopicIdInUse(*id));
                }
                self.check_assignments(assignments)
            }
            Command::DeleteTopic { id } | Command::AlterConfigs { id, .. } => {
                self.topics.contains_key(id).then_some(()).ok_or(MetadataError::UnknownTopicId(*id))
            }
            Command::CreatePartitions { id, before, assignments } => {
                let topic = self.topics.get(id).ok_or(MetadataError::UnknownTopicId(*id))?;
                let found = topic.partitions.len();
                if found != *before {
                    return Err(MetadataError::PartitionsChanged { expected: *before, found });
                }
                self.check_assignments(assignments)
            }
            Command::AllocateProducerIds { count } => {
                let enough = self.next_producer_id.get().checked_add(i64::from(*count)).is_some();
                enough.then_some(()).ok_or(MetadataError::ProducerIdsExhausted)
            }
        }
    }

    fn check_name_is_free(&self, name: &str) -> Result<(), MetadataError> {
        if self.names.contains_key(name) {
            return Err(MetadataError::TopicExists(name.to_owned()));
        }
        let key = collision_key(name);
        match self.names.keys().find(|other| collision_key(other) == key) {
            Some(other) => Err(MetadataError::NameCollision { name: name.to_owned(), other: other.clone() }),
            None => Ok(()),
        }
    }

    fn check_assignments(&self, assignments: &[Vec<BrokerId>]) -> Result<(), MetadataError> {
        check_partition_count(assignments.len())?;
        for brokers in assignments {
            let distinct: std::collections::BTreeSet<_> = brokers.iter().collect();
            if brokers.is_empty() || distinct.len() != brokers.len() {
                return Err(MetadataError::ReplicationFactor {
                    replicas: brokers.len(),
                    brokers: self.brokers.len(),
                });
            }
            if let Some(unknown) = brokers.iter().find(|id| !self.brokers.contains_key(id)) {
                return Err(MetadataError::UnknownBroker(*unknown));
            }
        }
        Ok(())
    }

    /// Executes a command that the state allows.
    fn execute(&mut self, command: Command) -> Effect {
        match command {
            Command::RegisterBroker(broker) => {
                self.brokers.insert(broker.id, broker);
                Effect::BrokerRegistered
            }
            Command::CreateTopic { id, name, assignments, overrides } => {
                let partitions = assignments.iter().map(|brokers| self.bind(brokers)).collect();
                self.names.insert(name.clone(), id);
                self.topics.insert(id, Topic { id, name, partitions, overrides });
                Effect::TopicCreated
            }
            Command::DeleteTopic { id } => {
                if let Some(topic) = self.topics.remove(&id) {
                    self.names.remove(&topic.name);
                }
                Effect::TopicDeleted
            }
            Command::CreatePartitions { id, assignments, .. } => {
                let added: Vec<_> = assignments.iter().map(|brokers| self.bind(brokers)).collect();
                if let Some(topic) = self.topics.get_mut(&id) {
                    topic.partitions.extend(added);
                }
                Effect::PartitionsCreated
            }
            Command::AlterConfigs { id, .. } => {
                if let Some(topic) = self.topics.get_mut(&id) {
                    topic.overrides = command.overrides_after(&topic.overrides);
                }
                Effect::ConfigsAltered
            }
            Command::AllocateProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id = ProducerId(first.get() + i64::from(count));
                Effect::ProducerIds { first, count }
            }
        }
    }

    /// Gives each broker of a partition a replica id of its own.
    fn bind(&mut self, brokers: &[BrokerId]) -> Vec<Replica> {
        let mut replicas = Vec::with_capacity(brokers.len());
        for broker in brokers {
            let incarnation = self.brokers.get(broker).map_or(Incarnation::NONE, |b| b.incarnation);
            replicas.push(Replica { id: self.next_replica_id, broker: *broker, incarnation });
            self.next_replica_id = ReplicaId(self.next_replica_id.get() + 1);
        }
        replicas
    }
}

const fn check_partition_count(partitions: usize) -> Result<(), MetadataError> {
    if partitions == 0 || partitions > PARTITIONS_PER_TOPIC_MAX {
        return Err(MetadataError::PartitionCount { partitions });
    }
    Ok(())
}

fn read_command(batch: &RecordBatch) -> Result<Command, String> {
    let mut records = batch.records(&Limits::default()).map_err(|e| e.to_string())?;
    let record = records.next().ok_or("its batch is empty")?.map_err(|e| e.to_string())?;
    let value = record.value.ok_or("its record has no value")?;
    Command::decode(&value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
