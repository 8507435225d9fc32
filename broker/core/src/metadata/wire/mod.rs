//! The encodings of the metadata commands, their effects and the metadata state: protobuf messages.
//!
//! Invariants: numbers keep their field for ever; anything that an older version would misread raises
//! its version, or has a field of its own that an older version does not know; equal states have equal
//! encodings (all rows are in the order of their keys).

pub(super) mod command;
pub(super) mod effect;
pub(super) mod state;

use headwater_proto::types::{BrokerId, Incarnation, ReplicaId};
use prost::Message;

use super::{Broker, BrokerState, Replica};
use crate::machine::DecodeError;
use crate::topic_config::Overrides;

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
    #[prost(uint32, tag = "8")]
    state: u32,
}

impl BrokerRow {
    fn of(broker: &Broker) -> Self {
        Self {
            id: broker.id.get(),
            incarnation: broker.incarnation.0.to_vec(),
            grpc_address: broker.grpc_address.clone(),
            kafka_address: broker.kafka_address.clone(),
            peer_address: broker.peer_address.clone(),
            rack: broker.rack.clone(),
            version: broker.version.clone(),
            state: broker_state_number(broker.state),
        }
    }

    fn read(self, what: &'static str) -> Result<Broker, DecodeError> {
        Ok(Broker {
            id: BrokerId(self.id),
            incarnation: Incarnation(identity(&self.incarnation, what)?),
            grpc_address: self.grpc_address,
            kafka_address: self.kafka_address,
            peer_address: self.peer_address,
            rack: self.rack,
            version: self.version,
            state: broker_state(self.state, what)?,
        })
    }
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

impl ReplicaRow {
    fn of(replica: &Replica) -> Self {
        Self {
            id: replica.id.get(),
            broker: replica.broker.get(),
            incarnation: replica.incarnation.0.to_vec(),
        }
    }

    fn read(self, what: &'static str) -> Result<Replica, DecodeError> {
        Ok(Replica {
            id: ReplicaId(self.id),
            broker: BrokerId(self.broker),
            incarnation: Incarnation(identity(&self.incarnation, what)?),
        })
    }
}

#[derive(Clone, PartialEq, Message)]
struct ConfigRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
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

const fn broker_state_number(state: BrokerState) -> u32 {
    match state {
        BrokerState::Active => 0,
        BrokerState::Draining => 1,
        BrokerState::Leaving => 2,
    }
}

fn broker_state(number: u32, what: &'static str) -> Result<BrokerState, DecodeError> {
    match number {
        0 => Ok(BrokerState::Active),
        1 => Ok(BrokerState::Draining),
        2 => Ok(BrokerState::Leaving),
        _ => Err(malformed(what, format!("there is no broker state {number}"))),
    }
}

fn identity(bytes: &[u8], what: &'static str) -> Result<[u8; 16], DecodeError> {
    bytes.try_into().map_err(|_| malformed(what, format!("an identity has 16 bytes, not {}", bytes.len())))
}

const fn malformed(what: &'static str, reason: String) -> DecodeError {
    DecodeError::Malformed { what, reason }
}
