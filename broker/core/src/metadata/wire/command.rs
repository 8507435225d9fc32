//! The encoding of metadata commands.

use headwater_proto::types::{BrokerId, PartitionId, ReplicaId, Term, TopicId};
use prost::{Message, Oneof};

use super::{
    BrokerRow, ConfigRow, broker_state, broker_state_number, config_rows, identity, malformed, overrides,
};
use crate::machine::DecodeError;
use crate::metadata::{Command, FIRST_REPLICA_ID, Survivor};

const VERSION: u32 = 1;
const WHAT: &str = "metadata command";

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Body {
    /// Written by brokers that knew no others, and no longer.
    #[prost(message, tag = "2")]
    RegisterLoneBroker(BrokerRow),
    #[prost(message, tag = "3")]
    CreateTopic(CreateTopic),
    #[prost(bytes = "vec", tag = "4")]
    DeleteTopic(Vec<u8>),
    #[prost(message, tag = "5")]
    CreatePartitions(CreatePartitions),
    #[prost(message, tag = "6")]
    AlterConfigs(AlterConfigs),
    #[prost(uint32, tag = "7")]
    AllocateProducerIds(u32),
    #[prost(message, tag = "8")]
    RegisterBroker(RegisterBroker),
    #[prost(message, tag = "9")]
    SetBrokerState(SetBrokerState),
    #[prost(int32, tag = "10")]
    UnregisterBroker(i32),
    #[prost(message, tag = "11")]
    Reassign(Reassign),
    #[prost(message, tag = "12")]
    RebuildReplica(RebuildReplica),
    #[prost(message, tag = "13")]
    CompleteReassign(CompleteReassign),
    #[prost(message, tag = "14")]
    RecoverPartition(RecoverPartition),
    #[prost(message, tag = "15")]
    RecoverMetadata(RecoverMetadata),
}

#[derive(Clone, PartialEq, Message)]
struct CreateTopic {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    assignments: Vec<Assignment>,
    #[prost(message, repeated, tag = "4")]
    overrides: Vec<ConfigRow>,
}

#[derive(Clone, PartialEq, Message)]
struct CreatePartitions {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    before: u32,
    #[prost(message, repeated, tag = "3")]
    assignments: Vec<Assignment>,
}

#[derive(Clone, PartialEq, Message)]
struct Assignment {
    #[prost(int32, repeated, tag = "1")]
    brokers: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct AlterConfigs {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<ConfigRow>,
}

#[derive(Clone, PartialEq, Message)]
struct RegisterBroker {
    #[prost(message, optional, tag = "1")]
    broker: Option<BrokerRow>,
    #[prost(uint64, optional, tag = "2")]
    metadata_replica: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct SetBrokerState {
    #[prost(int32, tag = "1")]
    id: i32,
    #[prost(uint32, tag = "2")]
    state: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Reassign {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(uint32, tag = "3")]
    epoch: u32,
    #[prost(int32, repeated, tag = "4")]
    brokers: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct RebuildReplica {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(uint64, tag = "3")]
    replica: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CompleteReassign {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(uint32, tag = "3")]
    epoch: u32,
    #[prost(uint64, repeated, tag = "4")]
    removed: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct RecoverPartition {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(uint32, tag = "3")]
    epoch: u32,
    #[prost(uint64, tag = "4")]
    above: u64,
    #[prost(oneof = "SurvivorRow", tags = "5, 6")]
    survivor: Option<SurvivorRow>,
    #[prost(int32, repeated, tag = "7")]
    others: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct RecoverMetadata {
    #[prost(uint64, tag = "1")]
    survivor: u64,
    #[prost(uint64, tag = "2")]
    above: u64,
}

#[derive(Clone, PartialEq, Oneof)]
enum SurvivorRow {
    #[prost(uint64, tag = "5")]
    Replica(u64),
    #[prost(int32, tag = "6")]
    Empty(i32),
}

pub(in crate::metadata) fn encode(command: &Command) -> Vec<u8> {
    Envelope { version: VERSION, body: Some(Body::of(command)) }.encode_to_vec()
}

pub(in crate::metadata) fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
    let envelope = Envelope::decode(bytes).map_err(|e| malformed(WHAT, e.to_string()))?;
    if envelope.version != VERSION {
        return Err(DecodeError::Version { what: WHAT, found: envelope.version, supported: VERSION });
    }
    envelope.body.ok_or_else(|| malformed(WHAT, "it is of no known kind".to_owned()))?.read()
}

impl Body {
    fn of(command: &Command) -> Self {
        match command {
            Command::RegisterBroker { broker, metadata_replica } => Self::RegisterBroker(RegisterBroker {
                broker: Some(BrokerRow::of(broker)),
                metadata_replica: metadata_replica.map(ReplicaId::get),
            }),
            Command::SetBrokerState { id, state } => {
                Self::SetBrokerState(SetBrokerState { id: id.get(), state: broker_state_number(*state) })
            }
            Command::UnregisterBroker { id } => Self::UnregisterBroker(id.get()),
            Command::CreateTopic { id, name, assignments, overrides } => Self::CreateTopic(CreateTopic {
                id: id.0.to_vec(),
                name: name.clone(),
                assignments: assignment_rows(assignments),
                overrides: config_rows(overrides),
            }),
            Command::DeleteTopic { id } => Self::DeleteTopic(id.0.to_vec()),
            Command::CreatePartitions { id, before, assignments } => {
                Self::CreatePartitions(CreatePartitions {
                    id: id.0.to_vec(),
                    before: u32::try_from(*before).unwrap_or(u32::MAX),
                    assignments: assignment_rows(assignments),
                })
            }
            Command::AlterConfigs { id, changes } => Self::AlterConfigs(AlterConfigs {
                id: id.0.to_vec(),
                changes: changes
                    .iter()
                    .map(|(name, value)| ConfigRow { name: name.clone(), value: value.clone() })
                    .collect(),
            }),
            Command::AllocateProducerIds { count } => Self::AllocateProducerIds(*count),
            Command::Reassign { topic, partition, epoch, brokers } => Self::Reassign(Reassign {
                topic: topic.0.to_vec(),
                partition: partition.get(),
                epoch: *epoch,
                brokers: broker_numbers(brokers),
            }),
            Command::RebuildReplica { topic, partition, replica } => Self::RebuildReplica(RebuildReplica {
                topic: topic.0.to_vec(),
                partition: partition.get(),
                replica: replica.get(),
            }),
            Command::CompleteReassign { topic, partition, epoch, removed } => {
                Self::CompleteReassign(CompleteReassign {
                    topic: topic.0.to_vec(),
                    partition: partition.get(),
                    epoch: *epoch,
                    removed: removed.iter().map(|replica| replica.get()).collect(),
                })
            }
            Command::RecoverPartition { topic, partition, epoch, survivor, above, others } => {
                Self::RecoverPartition(RecoverPartition {
                    topic: topic.0.to_vec(),
                    partition: partition.get(),
                    epoch: *epoch,
                    above: above.get(),
                    survivor: Some(SurvivorRow::of(survivor)),
                    others: others.iter().map(|broker| broker.get()).collect(),
                })
            }
            Command::RecoverMetadata { survivor, above } => {
                Self::RecoverMetadata(RecoverMetadata { survivor: survivor.get(), above: above.get() })
            }
        }
    }

    fn read(self) -> Result<Command, DecodeError> {
        let missing = |field: &str| malformed(WHAT, format!("its {field} is missing"));
        Ok(match self {
            Self::RegisterLoneBroker(row) => {
                Command::RegisterBroker { broker: row.read(WHAT)?, metadata_replica: Some(FIRST_REPLICA_ID) }
            }
            Self::RegisterBroker(row) => Command::RegisterBroker {
                broker: row.broker.ok_or_else(|| missing("broker"))?.read(WHAT)?,
                metadata_replica: row.metadata_replica.map(ReplicaId),
            },
            Self::SetBrokerState(row) => {
                Command::SetBrokerState { id: BrokerId(row.id), state: broker_state(row.state, WHAT)? }
            }
            Self::UnregisterBroker(id) => Command::UnregisterBroker { id: BrokerId(id) },
            Self::CreateTopic(row) => Command::CreateTopic {
                id: topic_id(&row.id)?,
                name: row.name,
                assignments: assignments(row.assignments),
                overrides: overrides(row.overrides),
            },
            Self::DeleteTopic(id) => Command::DeleteTopic { id: topic_id(&id)? },
            Self::CreatePartitions(row) => Command::CreatePartitions {
                id: topic_id(&row.id)?,
                before: row.before as usize,
                assignments: assignments(row.assignments),
            },
            Self::AlterConfigs(row) => Command::AlterConfigs {
                id: topic_id(&row.id)?,
                changes: row.changes.into_iter().map(|change| (change.name, change.value)).collect(),
            },
            Self::AllocateProducerIds(count) => Command::AllocateProducerIds { count },
            Self::Reassign(row) => Command::Reassign {
                topic: topic_id(&row.topic)?,
                partition: PartitionId(row.partition),
                epoch: row.epoch,
                brokers: row.brokers.into_iter().map(BrokerId).collect(),
            },
            Self::RebuildReplica(row) => Command::RebuildReplica {
                topic: topic_id(&row.topic)?,
                partition: PartitionId(row.partition),
                replica: ReplicaId(row.replica),
            },
            Self::CompleteReassign(row) => Command::CompleteReassign {
                topic: topic_id(&row.topic)?,
                partition: PartitionId(row.partition),
                epoch: row.epoch,
                removed: row.removed.into_iter().map(ReplicaId).collect(),
            },
            Self::RecoverPartition(row) => Command::RecoverPartition {
                topic: topic_id(&row.topic)?,
                partition: PartitionId(row.partition),
                epoch: row.epoch,
                survivor: row.survivor.ok_or_else(|| missing("survivor"))?.read(),
                above: Term(row.above),
                others: row.others.into_iter().map(BrokerId).collect(),
            },
            Self::RecoverMetadata(row) => {
                Command::RecoverMetadata { survivor: ReplicaId(row.survivor), above: Term(row.above) }
            }
        })
    }
}

impl SurvivorRow {
    const fn of(survivor: &Survivor) -> Self {
        match survivor {
            Survivor::Replica(id) => Self::Replica(id.get()),
            Survivor::Empty(broker) => Self::Empty(broker.get()),
        }
    }

    const fn read(self) -> Survivor {
        match self {
            Self::Replica(id) => Survivor::Replica(ReplicaId(id)),
            Self::Empty(broker) => Survivor::Empty(BrokerId(broker)),
        }
    }
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, DecodeError> {
    identity(bytes, WHAT).map(TopicId)
}

fn assignment_rows(assignments: &[Vec<BrokerId>]) -> Vec<Assignment> {
    let row = |brokers: &Vec<BrokerId>| Assignment { brokers: broker_numbers(brokers) };
    assignments.iter().map(row).collect()
}

fn broker_numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.get()).collect()
}

fn assignments(rows: Vec<Assignment>) -> Vec<Vec<BrokerId>> {
    rows.into_iter().map(|row| row.brokers.into_iter().map(BrokerId).collect()).collect()
}
