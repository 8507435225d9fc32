//! Async client of Headwater: producer, consumer by assignment, and admin.
//!
//! Everything starts at [`Client::connect`]; [`Client::producer`], [`Client::consumer`] and
//! [`Client::admin`] share its connections and its view of the cluster. The examples of this crate
//! (`produce`, `consume`, `admin`) are complete programs.
//!
//! Invariants:
//! - **An outcome that is not known is never reported as a failure.** [`DeliveryError::Unknown`] and
//!   [`ClientError::is_outcome_unknown`] keep the two apart.
//! - **An idempotent producer neither loses, doubles nor reorders** a partition's records, through
//!   lost connections and restarts of the broker.
//! - **A consumer neither skips nor repeats** a record, except where its offset policy says so.
//! - **Memory is bounded** by the configuration, not by what peers send.
//! - Clock, entropy and connections are injected by [`ClientConfig`]; their defaults are all in
//!   `ambient`. No thread is started.

mod addresses;
mod admin;
mod ambient;
mod backoff;
mod client;
mod config;
mod connection;
mod consumer;
mod error;
mod faults;
mod metadata;
mod producer;

pub use admin::{
    Admin, Cluster, ListedOffset, NewTopic, OffsetSpec, PerPartition, PerTopic, Topic, TopicCreated,
    TopicPartitionInfo,
};
pub use client::Client;
pub use config::{Backoff, BoxedConnection, ClientConfig, Clock, Connect, ConnectFuture, Connector};
pub use consumer::{
    ConsumedBatch, ConsumedRecord, ConsumedRecords, Consumer, ConsumerConfig, OffsetPolicy, Position,
};
pub use error::{ClientError, ConsumeError, DeliveryError, SendError};
pub use headwater_proto::ErrorCode;
pub use headwater_proto::record::{Compression, Header, Record, RecordBatch, RecordError};
pub use headwater_proto::v1::{
    BalancedLeader, Broker, BrokerState, BrokerStatus, ClusterStatusResponse, ConfigDescription, NodeResult,
    PartitionDescription, PartitionStatus, RecoverPartitionResponse, ReplicaStatus, Survivor,
};
pub use producer::{
    Acks, Delivered, Delivery, Producer, ProducerConfig, ProducerRecord, ProducerStats, partition_for_key,
};

/// One partition of one topic. Ordered by topic, then partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: std::sync::Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    #[must_use]
    pub fn new(topic: impl Into<std::sync::Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

/// `TOPIC/PARTITION`, as `streamctl` takes it.
impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
