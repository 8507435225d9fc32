//! The steward's decisions, on metadata as commands leave it.

#![allow(clippy::unwrap_used)]

mod leaders;
mod model;
mod moves;
mod voters;

use std::collections::BTreeSet;

use headwater_core::MetadataState;
use headwater_core::machine::{Entry, EntryBody, Machine};
use headwater_core::metadata::{Broker, BrokerState, Command, MetadataError, Partition, command_batch};
use headwater_core::topic_config::Overrides;
use headwater_proto::record::RecordBatch;
use headwater_proto::types::{
    BrokerId, GroupId, Incarnation, PartitionId, ReplicaId, Term, TimestampMs, TopicId,
};

const TOPIC: TopicId = TopicId([7; 16]);
const FIRST: PartitionId = PartitionId(0);
const GROUP: GroupId = GroupId { topic_id: TOPIC, partition: FIRST };

fn apply(state: &mut MetadataState, command: &Command) -> Result<(), MetadataError> {
    let bytes = command_batch(command, TimestampMs(1)).unwrap();
    let batch = RecordBatch::trusted(bytes.clone()).unwrap();
    let entry = Entry {
        index: state.log.applied_index.next(),
        term: Term(1),
        base_offset: state.log.next_offset,
        header: batch.header(),
        body: EntryBody::Records(&bytes),
    };
    state.apply(entry).unwrap().map(|_| ())
}

fn broker(id: i32, disk: u8) -> Broker {
    Broker {
        id: BrokerId(id),
        incarnation: Incarnation([disk * 16 + id as u8; 16]),
        grpc_address: String::new(),
        kafka_address: String::new(),
        peer_address: String::new(),
        rack: String::new(),
        version: String::new(),
        state: BrokerState::Active,
    }
}

fn register(state: &mut MetadataState, id: i32, disk: u8, bootstrap: Option<u64>) {
    let metadata_replica = bootstrap.map(ReplicaId);
    apply(state, &Command::RegisterBroker { broker: broker(id, disk), metadata_replica }).unwrap();
}

fn set(state: &mut MetadataState, id: i32, to: BrokerState) {
    apply(state, &Command::SetBrokerState { id: BrokerId(id), state: to }).unwrap();
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// Five brokers, and a partition on some of them.
fn cluster(on: &[i32]) -> MetadataState {
    let mut state = MetadataState::default();
    (1..=5).for_each(|id| register(&mut state, id, 0, Some(id as u64)));
    let create = Command::CreateTopic {
        id: TOPIC,
        name: "a".to_owned(),
        assignments: vec![brokers(on)],
        overrides: Overrides::new(),
    };
    apply(&mut state, &create).unwrap();
    state
}

fn assigned(state: &MetadataState) -> &Partition {
    state.group(GROUP).unwrap()
}

fn reassign(state: &mut MetadataState, to: &[i32]) {
    let epoch = assigned(state).epoch;
    let command = Command::Reassign { topic: TOPIC, partition: FIRST, epoch, brokers: brokers(to) };
    apply(state, &command).unwrap();
}

fn replica_ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}
