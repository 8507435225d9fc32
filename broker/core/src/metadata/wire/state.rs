//! The encoding of the metadata state.

use headwater_proto::types::{BrokerId, Incarnation, ProducerId, ReplicaId, Term, TopicId};
use prost::Message;

use super::{BrokerRow, ConfigRow, ReplicaRow, config_rows, identity, malformed, overrides};
use crate::machine::DecodeError;
use crate::metadata::{FIRST_REPLICA_ID, MetadataState, Partition, Replica, Topic};
use crate::partition::wire::LogSection;

const VERSION: u32 = 2;
/// That of brokers which knew no others: without states, moves and replicas of the metadata group.
const LONE_BROKER: u32 = 1;
const WHAT: &str = "metadata tables";

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
    #[prost(message, optional, tag = "7")]
    metadata: Option<PartitionRow>,
    #[prost(message, repeated, tag = "8")]
    retired: Vec<RetiredRow>,
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
    /// Absent: the same as `replicas`.
    #[prost(message, optional, tag = "2")]
    created_with: Option<ReplicaRows>,
    #[prost(message, repeated, tag = "3")]
    leaving: Vec<ReplicaRow>,
    #[prost(uint32, tag = "4")]
    epoch: u32,
    #[prost(uint64, optional, tag = "5")]
    recovered_above: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct ReplicaRows {
    #[prost(message, repeated, tag = "1")]
    replicas: Vec<ReplicaRow>,
}

#[derive(Clone, PartialEq, Message)]
struct RetiredRow {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(bytes = "vec", repeated, tag = "2")]
    incarnations: Vec<Vec<u8>>,
}

pub(in crate::metadata) fn encode(state: &MetadataState) -> Vec<u8> {
    let retired_row = |(broker, incarnations): (&BrokerId, &std::collections::BTreeSet<Incarnation>)| {
        let incarnations = incarnations.iter().map(|incarnation| incarnation.0.to_vec()).collect();
        RetiredRow { broker: broker.get(), incarnations }
    };
    State {
        version: VERSION,
        log: Some(LogSection::of(&state.log)),
        brokers: state.brokers.values().map(BrokerRow::of).collect(),
        topics: state.topics.values().map(TopicRow::of).collect(),
        next_replica_id: state.next_replica_id.get(),
        next_producer_id: state.next_producer_id.get(),
        metadata: Some(PartitionRow::of(&state.metadata)),
        retired: state.retired.iter().map(retired_row).collect(),
    }
    .encode_to_vec()
}

pub(in crate::metadata) fn decode(bytes: &[u8]) -> Result<MetadataState, DecodeError> {
    let row = State::decode(bytes).map_err(|e| malformed(WHAT, e.to_string()))?;
    if row.version != VERSION && row.version != LONE_BROKER {
        return Err(DecodeError::Version { what: WHAT, found: row.version, supported: VERSION });
    }
    let log = row.log.ok_or_else(|| malformed(WHAT, "the log section is missing".to_owned()))?.read()?;
    let mut state = MetadataState {
        log,
        next_replica_id: ReplicaId(row.next_replica_id),
        next_producer_id: ProducerId(row.next_producer_id),
        ..MetadataState::default()
    };
    for row in row.brokers {
        let broker = row.read(WHAT)?;
        state.brokers.insert(broker.id, broker);
    }
    state.metadata = match row.metadata {
        Some(row) => row.read()?,
        None => lone_voter(&state)?,
    };
    for row in row.topics {
        let topic = row.read()?;
        let name = topic.name.clone();
        let twice = state.names.insert(name.clone(), topic.id).is_some();
        if state.topics.insert(topic.id, topic).is_some() || twice {
            return Err(malformed(WHAT, format!("topic '{name}' or its id is there twice")));
        }
    }
    for row in row.retired {
        let read = |bytes: &Vec<u8>| identity(bytes, WHAT).map(Incarnation);
        let incarnations = row.incarnations.iter().map(read).collect::<Result<_, _>>()?;
        state.retired.insert(BrokerId(row.broker), incarnations);
    }
    Ok(state)
}

/// The metadata group of a cluster of one, whose state did not say it: one voter, under the first replica id.
fn lone_voter(state: &MetadataState) -> Result<Partition, DecodeError> {
    let mut brokers = state.brokers.values();
    let (first, more) = (brokers.next(), brokers.next());
    if more.is_some() {
        return Err(malformed(WHAT, "several brokers, and none holds the metadata".to_owned()));
    }
    let replica = |b: &crate::metadata::Broker| Replica {
        id: FIRST_REPLICA_ID,
        broker: b.id,
        incarnation: b.incarnation,
    };
    // As a replay of the log would have it: registering the broker was the first change.
    Ok(Partition {
        epoch: first.map_or(0, |_| 1),
        ..Partition::created(first.map(replica).into_iter().collect())
    })
}

impl TopicRow {
    fn of(topic: &Topic) -> Self {
        Self {
            id: topic.id.0.to_vec(),
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(PartitionRow::of).collect(),
            overrides: config_rows(&topic.overrides),
        }
    }

    fn read(self) -> Result<Topic, DecodeError> {
        Ok(Topic {
            id: TopicId(identity(&self.id, WHAT)?),
            name: self.name,
            partitions: self.partitions.into_iter().map(PartitionRow::read).collect::<Result<_, _>>()?,
            overrides: overrides(self.overrides),
        })
    }
}

impl PartitionRow {
    fn of(partition: &Partition) -> Self {
        let rows = |replicas: &[Replica]| replicas.iter().map(ReplicaRow::of).collect();
        let changed = partition.created_with != partition.replicas;
        Self {
            replicas: rows(&partition.replicas),
            created_with: changed.then(|| ReplicaRows { replicas: rows(&partition.created_with) }),
            leaving: rows(&partition.leaving),
            epoch: partition.epoch,
            recovered_above: partition.recovered_above.map(Term::get),
        }
    }

    fn read(self) -> Result<Partition, DecodeError> {
        let replicas = read_replicas(self.replicas)?;
        let created_with = match self.created_with {
            Some(rows) => read_replicas(rows.replicas)?,
            None => replicas.clone(),
        };
        let leaving = read_replicas(self.leaving)?;
        let recovered_above = self.recovered_above.map(Term);
        Ok(Partition { created_with, replicas, leaving, epoch: self.epoch, recovered_above })
    }
}

fn read_replicas(rows: Vec<ReplicaRow>) -> Result<Vec<Replica>, DecodeError> {
    rows.into_iter().map(|row| row.read(WHAT)).collect()
}
