//! Admin requests.

mod types;

pub use types::{
    Cluster, ListedOffset, NewTopic, OffsetSpec, PartitionOffset, PerPartition, PerTopic, Topic,
    TopicCreated, TopicPartitionInfo,
};

use crate::{ClientError, ConfigDescription, PartitionDescription, TopicPartition};

/// Asks about the cluster and changes it. Cheap to clone.
///
/// The outer error says that nothing could be asked (or, for a change, that its outcome is unknown);
/// the inner ones are the broker's answers, one for each topic or partition.
#[derive(Clone)]
pub struct Admin {}

impl Admin {
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        unimplemented!()
    }

    /// All topics, by name.
    pub async fn list_topics(&self) -> Result<Vec<Topic>, ClientError> {
        unimplemented!()
    }

    pub async fn describe_topics<S: Into<String>>(
        &self,
        _topics: impl IntoIterator<Item = S>,
    ) -> Result<PerTopic<Topic>, ClientError> {
        unimplemented!()
    }

    /// Creates topics, or only checks whether they could be.
    pub async fn create_topics(
        &self,
        _topics: Vec<NewTopic>,
        _validate_only: bool,
    ) -> Result<PerTopic<TopicCreated>, ClientError> {
        unimplemented!()
    }

    pub async fn delete_topics<S: Into<String>>(
        &self,
        _topics: impl IntoIterator<Item = S>,
    ) -> Result<PerTopic<()>, ClientError> {
        unimplemented!()
    }

    /// Raises the number of partitions of each topic to a new total.
    pub async fn create_partitions(
        &self,
        _totals: Vec<(String, i32)>,
        _validate_only: bool,
    ) -> Result<PerTopic<()>, ClientError> {
        unimplemented!()
    }

    /// Every config of each topic, with value, default and documentation.
    pub async fn describe_configs<S: Into<String>>(
        &self,
        _topics: impl IntoIterator<Item = S>,
    ) -> Result<PerTopic<Vec<ConfigDescription>>, ClientError> {
        unimplemented!()
    }

    /// Sets configs of one topic; `None` resets one to its default.
    pub async fn alter_configs(
        &self,
        _topic: &str,
        _configs: Vec<(String, Option<String>)>,
        _validate_only: bool,
    ) -> Result<(), ClientError> {
        unimplemented!()
    }

    /// Moves log starts: what lies below an offset is gone. `None` deletes all there is. Gives the
    /// new log starts.
    pub async fn delete_records(
        &self,
        _below: Vec<(TopicPartition, Option<i64>)>,
    ) -> Result<PerPartition<i64>, ClientError> {
        unimplemented!()
    }

    pub async fn list_offsets(
        &self,
        _asked: Vec<(TopicPartition, OffsetSpec)>,
    ) -> Result<PerPartition<ListedOffset>, ClientError> {
        unimplemented!()
    }

    /// Sizes, offsets and segments of each partition of the topics, at its leader.
    pub async fn describe_partitions<S: Into<String>>(
        &self,
        _topics: impl IntoIterator<Item = S>,
    ) -> Result<Vec<PartitionDescription>, ClientError> {
        unimplemented!()
    }
}
