//! What admin requests take and give.

use std::collections::BTreeMap;

use headwater_proto::v1;

use crate::{Broker, ClientError, TopicPartition};

/// One result for each topic that was asked for, in the order asked.
pub type PerTopic<T> = Vec<(String, Result<T, ClientError>)>;

/// One result for each partition that was asked for.
pub type PerPartition<T> = BTreeMap<TopicPartition, Result<T, ClientError>>;

/// The cluster as one of its brokers sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub cluster_id: String,
    /// Broker id of the leader of the metadata; -1 while there is none.
    pub controller_id: i32,
    pub brokers: Vec<Broker>,
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// 32 hexadecimal digits.
    pub topic_id: String,
    /// The broker's own, as `__consumer_offsets`.
    pub internal: bool,
    /// In order of their numbers.
    pub partitions: Vec<TopicPartitionInfo>,
}

/// Who has a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartitionInfo {
    pub partition: i32,
    /// `None` while it has none.
    pub leader_id: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

/// A topic to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// `None`: the broker's default.
    pub partitions: Option<i32>,
    /// `None`: the broker's default.
    pub replicas: Option<i32>,
    /// Names and values, as Kafka's topic configs.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    #[must_use]
    pub const fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }

    pub(super) fn into_wire(self) -> v1::NewTopic {
        let entry = |(name, value)| v1::ConfigEntry { name, value: Some(value) };
        v1::NewTopic {
            name: self.name,
            partitions: self.partitions.unwrap_or(0),
            replicas: self.replicas.unwrap_or(0),
            configs: self.configs.into_iter().map(entry).collect(),
        }
    }
}

/// A topic as it was created, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCreated {
    /// 32 hexadecimal digits; empty where only validated.
    pub topic_id: String,
    pub partitions: i32,
    pub replicas: i32,
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first record that there is.
    LogStart,
    /// The next record to come: the high watermark.
    HighWatermark,
    /// The record with the greatest timestamp.
    MaxTimestamp,
    /// The first record with this timestamp (milliseconds since the Unix epoch) or a later one.
    Timestamp(i64),
}

impl OffsetSpec {
    pub(crate) const fn to_wire(self) -> i64 {
        match self {
            Self::HighWatermark => -1,
            Self::LogStart => -2,
            Self::MaxTimestamp => -3,
            Self::Timestamp(timestamp_ms) => timestamp_ms,
        }
    }
}

/// The answer to an [`OffsetSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// `None`: no such record.
    pub offset: Option<i64>,
    /// -1 where the question was not about a timestamp.
    pub timestamp_ms: i64,
    pub leader_epoch: i32,
}
