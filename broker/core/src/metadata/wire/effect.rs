//! The encoding of effects: what the metadata leader answers to the broker that sent a command.

use headwater_proto::types::{ProducerId, ReplicaId};
use prost::{Message, Oneof};

use super::{ReplicaRow, malformed};
use crate::machine::DecodeError;
use crate::metadata::Effect;

const WHAT: &str = "metadata effect";

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Body {
    #[prost(message, tag = "1")]
    None(Nothing),
    /// The broker's replica of the metadata group.
    #[prost(uint64, tag = "2")]
    BrokerRegistered(u64),
    #[prost(message, tag = "3")]
    BrokerStateSet(Nothing),
    #[prost(message, tag = "4")]
    BrokerUnregistered(Nothing),
    #[prost(message, tag = "5")]
    TopicCreated(Nothing),
    #[prost(message, tag = "6")]
    TopicDeleted(Nothing),
    #[prost(message, tag = "7")]
    PartitionsCreated(Nothing),
    #[prost(message, tag = "8")]
    ConfigsAltered(Nothing),
    #[prost(message, tag = "9")]
    ProducerIds(ProducerIds),
    /// The assignment's epoch.
    #[prost(uint32, tag = "10")]
    Reassigned(u32),
    #[prost(message, tag = "11")]
    ReplicaRebuilt(ReplicaRow),
    #[prost(message, tag = "12")]
    ReassignCompleted(Nothing),
    #[prost(message, tag = "13")]
    PartitionRecovered(ReplicaRow),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, Copy, PartialEq, Message)]
struct ProducerIds {
    #[prost(int64, tag = "1")]
    first: i64,
    #[prost(uint32, tag = "2")]
    count: u32,
}

pub(in crate::metadata) fn encode(effect: &Effect) -> Vec<u8> {
    let body = match effect {
        Effect::None => Body::None(Nothing {}),
        Effect::BrokerRegistered { metadata_replica } => Body::BrokerRegistered(metadata_replica.get()),
        Effect::BrokerStateSet => Body::BrokerStateSet(Nothing {}),
        Effect::BrokerUnregistered => Body::BrokerUnregistered(Nothing {}),
        Effect::TopicCreated => Body::TopicCreated(Nothing {}),
        Effect::TopicDeleted => Body::TopicDeleted(Nothing {}),
        Effect::PartitionsCreated => Body::PartitionsCreated(Nothing {}),
        Effect::ConfigsAltered => Body::ConfigsAltered(Nothing {}),
        Effect::ProducerIds { first, count } => {
            Body::ProducerIds(ProducerIds { first: first.get(), count: *count })
        }
        Effect::Reassigned { epoch } => Body::Reassigned(*epoch),
        Effect::ReplicaRebuilt { replica } => Body::ReplicaRebuilt(ReplicaRow::of(replica)),
        Effect::ReassignCompleted => Body::ReassignCompleted(Nothing {}),
        Effect::PartitionRecovered { replica } => Body::PartitionRecovered(ReplicaRow::of(replica)),
    };
    Envelope { body: Some(body) }.encode_to_vec()
}

pub(in crate::metadata) fn decode(bytes: &[u8]) -> Result<Effect, DecodeError> {
    let envelope = Envelope::decode(bytes).map_err(|e| malformed(WHAT, e.to_string()))?;
    let body = envelope.body.ok_or_else(|| malformed(WHAT, "it is of no known kind".to_owned()))?;
    Ok(match body {
        Body::None(_) => Effect::None,
        Body::BrokerRegistered(id) => Effect::BrokerRegistered { metadata_replica: ReplicaId(id) },
        Body::BrokerStateSet(_) => Effect::BrokerStateSet,
        Body::BrokerUnregistered(_) => Effect::BrokerUnregistered,
        Body::TopicCreated(_) => Effect::TopicCreated,
        Body::TopicDeleted(_) => Effect::TopicDeleted,
        Body::PartitionsCreated(_) => Effect::PartitionsCreated,
        Body::ConfigsAltered(_) => Effect::ConfigsAltered,
        Body::ProducerIds(row) => Effect::ProducerIds { first: ProducerId(row.first), count: row.count },
        Body::Reassigned(epoch) => Effect::Reassigned { epoch },
        Body::ReplicaRebuilt(row) => Effect::ReplicaRebuilt { replica: row.read(WHAT)? },
        Body::ReassignCompleted(_) => Effect::ReassignCompleted,
        Body::PartitionRecovered(row) => Effect::PartitionRecovered { replica: row.read(WHAT)? },
    })
}
