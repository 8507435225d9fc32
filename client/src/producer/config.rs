//! Settings of a producer, and what it is given to send.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_proto::record::Compression;

use crate::ClientError;

/// Batches of one producer id that a broker can tell from duplicates: Kafka's window.
pub const IDEMPOTENT_IN_FLIGHT_MAX: usize = 5;

/// Bytes of one request that holds more than one batch.
pub const REQUEST_BYTES: usize = 1 << 20;

/// What a producer waits for before a record counts as delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Acks {
    /// -1: durable on a quorum.
    #[default]
    All,
    /// 1: durable on the leader.
    Leader,
    /// 0: handed to the connection. The offset of such a record is not known.
    None,
}

impl Acks {
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::All => -1,
            Self::Leader => 1,
            Self::None => 0,
        }
    }
}

/// Settings of a [`Producer`](super::Producer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerConfig {
    /// Default [`Acks::All`].
    pub acks: Acks,
    /// Each record is stored once, in order, whatever has to be sent again. Needs [`Acks::All`] and
    /// at most five batches in flight. Default true.
    pub idempotent: bool,
    /// Default none.
    pub compression: Compression,
    /// The codec's own scale; `None` is its default.
    pub compression_level: Option<i32>,
    /// A batch is sent when it has this many bytes (before compression). Default 256 KiB; 1 B to 32 MiB.
    pub batch_bytes: usize,
    /// A batch is sent when it has this many records. Default no limit.
    pub batch_records: Option<usize>,
    /// How long a batch waits for more records before it is sent as it is. Zero sends what is there
    /// as soon as the partition can take another batch. Default 5 ms.
    pub linger: Duration,
    /// Bound on the bytes of all records that are accepted and not yet resolved. Default 32 MiB.
    /// A sender that finds no room waits.
    pub buffer_bytes: usize,
    /// Bound on one record before compression; at most `buffer_bytes`. Default 16 MiB.
    pub record_bytes_max: usize,
    /// Batches of one partition that are sent and not yet answered. Default 5.
    pub max_in_flight_per_partition: usize,
    /// How long [`Producer::send`](super::Producer::send) waits for room. Default 60 s.
    pub max_block: Duration,
    /// From the acceptance of a batch's first record to its resolution. Default 120 s.
    pub delivery_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            compression: Compression::None,
            compression_level: None,
            batch_bytes: 256 << 10,
            batch_records: None,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 << 20,
            record_bytes_max: 16 << 20,
            max_in_flight_per_partition: IDEMPOTENT_IN_FLIGHT_MAX,
            max_block: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

impl ProducerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |what: &str| Err(ClientError::Config { what: what.to_owned() });
        if !(1..=32 << 20).contains(&self.batch_bytes) {
            return refuse("batch_bytes must be from 1 B to 32 MiB");
        }
        if self.batch_records == Some(0) || self.max_in_flight_per_partition == 0 {
            return refuse("batch_records and max_in_flight_per_partition must be at least 1");
        }
        if self.record_bytes_max > 32 << 20 {
            return refuse("record_bytes_max must be at most 32 MiB");
        }
        if self.record_bytes_max > self.buffer_bytes {
            return refuse("record_bytes_max must not exceed buffer_bytes");
        }
        if self.delivery_timeout <= self.linger {
            return refuse("delivery_timeout must exceed linger");
        }
        if self.idempotent && self.acks != Acks::All {
            return refuse("idempotent production needs acks -1 (all); set idempotent = false for others");
        }
        if self.idempotent && self.max_in_flight_per_partition > IDEMPOTENT_IN_FLIGHT_MAX {
            return refuse("idempotent production allows at most 5 batches in flight per partition");
        }
        Ok(())
    }
}

/// A record to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerRecord {
    /// Cheap to clone: keep one for all records of a topic.
    pub topic: Arc<str>,
    /// `None`: by the key's hash, as Kafka's clients do; without a key, any.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch; `None` takes the client's clock.
    pub timestamp_ms: Option<i64>,
}

impl ProducerRecord {
    /// A record without a key.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp_ms: None,
        }
    }

    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    #[must_use]
    pub const fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    #[must_use]
    pub const fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}
