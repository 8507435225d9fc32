//! The consumer, by assignment.

mod batch;
mod config;

pub use batch::{ConsumedBatch, ConsumedRecord, ConsumedRecords};
pub use config::{ConsumerConfig, OffsetPolicy, Position};

use crate::{Client, ClientError, ConsumeError, TopicPartition};

/// Reads the partitions that it is assigned.
pub struct Consumer {}

impl Consumer {
    pub(crate) fn start(_client: Client, _config: ConsumerConfig) -> Result<Self, ClientError> {
        unimplemented!()
    }

    /// Replaces the assignment. Resolves the positions before it returns; what was prefetched for
    /// partitions that stay assigned is dropped.
    pub async fn assign(
        &mut self,
        _partitions: impl IntoIterator<Item = (TopicPartition, Position)>,
    ) -> Result<(), ConsumeError> {
        unimplemented!()
    }

    /// Goes on elsewhere in a partition.
    pub async fn seek(&mut self, _partition: &TopicPartition, _to: Position) -> Result<(), ConsumeError> {
        unimplemented!()
    }

    /// Stops the partition's records until [`Consumer::resume`]; none is lost.
    pub fn pause(&mut self, _partition: &TopicPartition) -> Result<(), ConsumeError> {
        unimplemented!()
    }

    pub fn resume(&mut self, _partition: &TopicPartition) -> Result<(), ConsumeError> {
        unimplemented!()
    }

    /// The offset of the next record that will be returned; `None` for a partition not assigned.
    #[must_use]
    pub fn position(&self, _partition: &TopicPartition) -> Option<i64> {
        unimplemented!()
    }

    /// The partition's end as the broker last told it; `None` for a partition not assigned.
    #[must_use]
    pub fn high_watermark(&self, _partition: &TopicPartition) -> Option<i64> {
        unimplemented!()
    }

    /// Whether each assigned partition's position has reached its last known high watermark.
    #[must_use]
    pub fn at_end(&self) -> bool {
        unimplemented!()
    }

    /// The assigned partitions, in order.
    pub fn assignment(&self) -> impl Iterator<Item = &TopicPartition> {
        std::iter::empty()
    }

    /// The next batch of any partition, its records not decoded; waits for one. Cancel safe.
    pub async fn next_batch(&mut self) -> Result<ConsumedBatch, ConsumeError> {
        unimplemented!()
    }

    /// The next record of any partition; waits for one. Cancel safe. May be mixed with
    /// [`Consumer::next_batch`], which then returns the rest of a batch.
    pub async fn next(&mut self) -> Result<ConsumedRecord, ConsumeError> {
        unimplemented!()
    }
}
