//! The producer.

mod config;
mod delivery;
mod partitioner;

pub use config::{Acks, ProducerConfig, ProducerRecord};
pub use delivery::{Delivered, Delivery};
pub use partitioner::partition_for_key;

use crate::{Client, ClientError, SendError};

/// Counters since the producer was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records accepted by `send`.
    pub records_accepted: u64,
    pub records_delivered: u64,
    /// Records that are certainly not stored.
    pub records_failed: u64,
    /// Records that may or may not be stored.
    pub records_unknown: u64,
    /// Bytes of delivered batches, as sent.
    pub bytes_delivered: u64,
    pub batches_delivered: u64,
    /// Batches that had to be sent again.
    pub batches_retried: u64,
    /// Bytes of the buffer in use now.
    pub buffered_bytes: usize,
}

/// Sends records. Cheap to clone: all clones share one buffer and one set of connections.
#[derive(Clone)]
pub struct Producer {}

impl Producer {
    pub(crate) async fn start(_client: Client, _config: ProducerConfig) -> Result<Self, ClientError> {
        unimplemented!()
    }

    /// Accepts a record; waits for room in the buffer.
    pub async fn send(&self, _record: ProducerRecord) -> Result<Delivery, SendError> {
        unimplemented!()
    }

    /// As [`Producer::send`], from borrowed parts: the value is copied once, into its batch.
    pub async fn send_parts(
        &self,
        _topic: &str,
        _partition: Option<i32>,
        _key: Option<&[u8]>,
        _value: Option<&[u8]>,
        _headers: &[(&str, Option<&[u8]>)],
        _timestamp_ms: Option<i64>,
    ) -> Result<Delivery, SendError> {
        unimplemented!()
    }

    /// Sends what is buffered without waiting for linger, and returns when every record accepted
    /// before the call is resolved.
    pub async fn flush(&self) {
        unimplemented!()
    }

    /// Refuses further records, flushes, and ends the producer's tasks.
    pub async fn close(&self) {
        unimplemented!()
    }

    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        unimplemented!()
    }

    /// The number of partitions of a topic, from the metadata cache.
    pub async fn partitions(&self, _topic: &str) -> Result<i32, ClientError> {
        unimplemented!()
    }
}
