//! The encodings of the metadata commands and of the metadata state: protobuf messages.
//!
//! Invariants: numbers keep their field for ever; anything that an older version would misread raises
//! its version; equal states have equal encodings (all rows are in the order of their keys).

use headwater_proto::types::{BrokerId, Incarnation, ProducerId, ReplicaId, TopicId};
use prost::{Message, Oneof};

use super::{Broker, Command, MetadataState, Replica, Topic};
use crate::machine::DecodeError;
use crate::partition::wire::LogSection;
use crate::topic_config::Overrides;

const STATE_VERSION: u32 = 1;
const STATE: &str = "metadata tables";
const COMMAND_VERSION: u32 = 1;
const COMMAND: &str = "metadata command";

#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    log: Option<LogSection>,
    #[prost(message, repeated, tag = "3")]
    brokers: Vec<BrokerRow>,
    #[prost(message, repeated, tag = "4")]
    topics: Vec<TopicRow>,
    #[prost(uint64, tag = "5")]
    next_replica_id: u64,
    #[prost(int64, tag = "6")]
    next_producer_id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct BrokerRow {
    #[prost(int32, tag = "1")]
    id: i32,
    #[prost(bytes = "vec", tag = "2")]
    incarnation: Vec<u8>,
    #[prost(string, tag = "3")]
    grpc_address: String,
    #[prost(string, tag = "4")]
    kafka_address: String,
    #[prost(string, tag = "5")]
    peer_address: String,
    #[prost(string, tag = "6")]
    rack: String,
    #[prost(string, tag = "7")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct TopicRow {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    partitions: Vec<PartitionRow>,
    #[prost(message, repeated, tag = "4")]
    overrides: Vec<ConfigRow>,
}

#[derive(Clone, PartialEq, Message)]
struct PartitionRow {
    #[prost(message, repeated, tag = "1")]
    replicas: Vec<ReplicaRow>,
}

#[derive(Clone, PartialEq, Message)]
struct ReplicaRow {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int32, tag = "2")]
    broker: i32,
    #[prost(bytes = "vec", tag = "3")]
    incarnation: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Body {
    #[prost(message, tag = "2")]
    RegisterBroker(BrokerRow),
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

pub(super) fn encode(state: &MetadataState) -> Vec<u8> {
    State {
        version: STATE_VERSION,
        log: Some(LogSection::of(&state.log)),
        brokers: state.brokers.values().map(broker_row).collect(),
        topics: state.topics.values().map(topic_row).collect(),
        next_replica_id: state.next_replica_id.get(),
        next_producer_id: state.next_producer_id.get(),
    }
    .encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<MetadataState, DecodeError> {
    let malformed = |reason: String| DecodeError::Malformed { what: STATE, reason };
    let row = State::decode(bytes).map_err(|e| malformed(e.to_string()))?;
    if row.version != STATE_VERSION {
        return Err(DecodeError::Version { what: STATE, found: row.version, supported: STATE_VERSION });
    }
    let log = row.log.ok_or_else(|| malformed("the log section is missing".to_owned()))?.read()?;
    let mut state = MetadataState {
        log,
        next_replica_id: ReplicaId(row.next_replica_id),
        next_producer_id: ProducerId(row.next_producer_id),
        ..MetadataState::default()
    };
    for row in row.brokers {
        let broker = broker(row, STATE)?;
        state.brokers.insert(broker.id, broker);
    }
    for row in row.topics {
        let topic = topic(row)?;
        let name = topic.name.clone();
        let twice = state.names.insert(name.clone(), topic.id).is_some();
        if state.topics.insert(topic.id, topic).is_some() || twice {
            return Err(malformed(format!("topic '{name}' or its id is there twice")));
        }
    }
    Ok(state)
}

pub(super) fn encode_command(command: &Command) -> Vec<u8> {
    let body = match command {
        Command::RegisterBroker(broker) => Body::RegisterBroker(broker_row(broker)),
        Command::CreateTopic { id, name, assignments, overrides } => Body::CreateTopic(CreateTopic {
            id: id.0.to_vec(),
            name: name.clone(),
            assignments: assignment_rows(assignments),
            overrides: config_rows(overrides),
        }),
        Command::DeleteTopic { id } => Body::DeleteTopic(id.0.to_vec()),
        Command::CreatePartitions { id, before, assignments } => Body::CreatePartitions(CreatePartitions {
            id: id.0.to_vec(),
            before: u32::try_from(*before).unwrap_or(u32::MAX),
            assignments: assignment_rows(assignments),
        }),
        Command::AlterConfigs { id, changes } => Body::AlterConfigs(AlterConfigs {
            id: id.0.to_vec(),
            changes: changes
                .iter()
                .map(|(name, value)| ConfigRow { name: name.clone(), value: value.clone() })
                .collect(),
        }),
        Command::AllocateProducerIds { count } => Body::AllocateProducerIds(*count),
    };
    Envelope { version: COMMAND_VERSION, body: Some(body) }.encode_to_vec()
}

pub(super) fn decode_command(bytes: &[u8]) -> Result<Command, DecodeError> {
    let malformed = |reason: String| DecodeError::Malformed { what: COMMAND, reason };
    let envelope = Envelope::decode(bytes).map_err(|e| malformed(e.to_string()))?;
    if envelope.version != COMMAND_VERSION {
        return Err(DecodeError::Version {
            what: COMMAND,
            found: envelope.version,
            supported: COMMAND_VERSION,
        });
    }
    let body = envelope.body.ok_or_else(|| malformed("it is of no known kind".to_owned()))?;
    Ok(match body {
        Body::RegisterBroker(row) => Command::RegisterBroker(broker(row, COMMAND)?),
        Body::CreateTopic(row) => Command::CreateTopic {
            id: TopicId(identity(&row.id, COMMAND)?),
            name: row.name,
            assignments: assignments(row.assignments),
            overrides: overrides(row.overrides),
        },
        Body::DeleteTopic(id) => Command::DeleteTopic { id: TopicId(identity(&id, COMMAND)?) },
        Body::CreatePartitions(row) => Command::CreatePartitions {
            id: TopicId(identity(&row.id, COMMAND)?),
            before: row.before as usize,
            assignments: assignments(row.assignments),
        },
        Body::AlterConfigs(row) => Command::AlterConfigs {
            id: TopicId(identity(&row.id, COMMAND)?),
            changes: row.changes.into_iter().map(|change| (change.name, change.value)).collect(),
        },
        Body::AllocateProducerIds(count) => Command::AllocateProducerIds { count },
    })
}

fn broker_row(broker: &Broker) -> BrokerRow {
    BrokerRow {
        id: broker.id.get(),
        incarnation: broker.incarnation.0.to_vec(),
        grpc_address: broker.grpc_address.clone(),
        kafka_address: broker.kafka_address.clone(),
        peer_address: broker.peer_address.clone(),
        rack: broker.rack.clone(),
        version: broker.version.clone(),
    }
}

fn broker(row: BrokerRow, what: &'static str) -> Result<Broker, DecodeError> {
    Ok(Broker {
        id: BrokerId(row.id),
        incarnation: Incarnation(identity(&row.incarnation, what)?),
        grpc_address: row.grpc_address,
        kafka_address: row.kafka_address,
        peer_address: row.peer_address,
        rack: row.rack,
        version: row.version,
    })
}

fn topic_row(topic: &Topic) -> TopicRow {
    let replica_row = |replica: &Replica| ReplicaRow {
        id: replica.id.get(),
        broker: replica.broker.get(),
        incarnation: replica.incarnation.0.to_vec(),
    };
    let partition_row =
        |replicas: &Vec<Replica>| PartitionRow { replicas: replicas.iter().map(replica_row).collect() };
    TopicRow {
        id: topic.id.0.to_vec(),
        name: topic.name.clone(),
        partitions: topic.partitions.iter().map(partition_row).collect(),
        overrides: config_rows(&topic.overrides),
    }
}

fn topic(row: TopicRow) -> Result<Topic, DecodeError> {
    let mut partitions = Vec::new();
    for partition in row.partitions {
        let mut replicas = Vec::new();
        for replica in partition.replicas {
            replicas.push(Replica {
                id: ReplicaId(replica.id),
                broker: BrokerId(replica.broker),
                incarnation: Incarnation(identity(&replica.incarnation, STATE)?),
            });
        }
        partitions.push(replicas);
    }
    Ok(Topic {
        id: TopicId(identity(&row.id, STATE)?),
        name: row.name,
        partitions,
        overrides: overrides(row.overrides),
    })
}

fn config_rows(overrides: &Overrides) -> Vec<ConfigRow> {
    overrides
        .iter()
        .map(|(name, value)| ConfigRow { name: name.clone(), value: Some(value.clone()) })
        .collect()
}

fn overrides(rows: Vec<ConfigRow>) -> Overrides {
    rows.into_iter().filter_map(|row| row.value.map(|value| (row.name, value))).collect()
}

fn assignment_rows(assignments: &[Vec<BrokerId>]) -> Vec<Assignment> {
    let row = |brokers: &Vec<BrokerId>| Assignment { brokers: brokers.iter().map(|id| id.get()).collect() };
    assignments.iter().map(row).collect()
}

fn assignments(rows: Vec<Assignment>) -> Vec<Vec<BrokerId>> {
    rows.into_iter().map(|row| row.brokers.into_iter().map(BrokerId).collect()).collect()
}

fn identity(bytes: &[u8], what: &'static str) -> Result<[u8; 16], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Malformed {
        what,
        reason: format!("an identity has 16 bytes, not {}", bytes.len()),
    })
}
