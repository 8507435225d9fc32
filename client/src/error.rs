//! What can go wrong at this crate's boundary: each error says what failed, to what, and what to do.

use std::time::Duration;

use headwater_proto::record::RecordError;
use headwater_proto::{ErrorCode, v1};

use crate::TopicPartition;

/// Why a request to the cluster gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A setting of the caller's is wrong.
    #[error("configuration: {what}")]
    Config { what: String },
    /// No connection could be opened; nothing was asked.
    #[error(
        "{operation} {target}: no broker answers at {brokers} ({reason}); check the address, and that the broker runs"
    )]
    Unreachable { operation: &'static str, target: String, brokers: String, reason: String },
    /// A broker answered "no". Nothing was done.
    #[error("{operation} {target}: {} ({})", message, code.name())]
    Refused { operation: &'static str, target: String, code: ErrorCode, message: String, retriable: bool },
    /// The request may have been carried out: it was sent, and no answer came.
    #[error("{operation} {target}: outcome unknown ({reason}); look before asking again")]
    OutcomeUnknown { operation: &'static str, target: String, reason: String },
    /// No usable answer came in time; the request changes nothing.
    #[error("{operation} {target}: no answer within {} ms ({reason})", after.as_millis())]
    TimedOut { operation: &'static str, target: String, after: Duration, reason: String },
    /// The broker's answer makes no sense: the two are of different versions, or one has a bug.
    #[error("{operation} {target}: the broker's answer is unusable: {reason}")]
    Protocol { operation: &'static str, target: String, reason: String },
}

impl ClientError {
    /// The same request may succeed later, unchanged.
    #[must_use]
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::OutcomeUnknown { .. } => true,
            Self::Refused { retriable, .. } => *retriable,
            Self::Config { .. } | Self::Protocol { .. } => false,
        }
    }

    /// The request may or may not have been carried out.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }

    /// Nothing was done, for want of a leader that could do it: the same request will do in a moment.
    pub(crate) const fn is_leaderless(&self) -> bool {
        matches!(
            self.code(),
            Some(ErrorCode::NotController | ErrorCode::NotLeaderOrFollower | ErrorCode::LeaderNotAvailable)
        )
    }

    /// The broker's error code, where it sent one.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The error that a broker put into its answer.
    pub(crate) fn refused(operation: &'static str, target: impl Into<String>, error: &v1::Error) -> Self {
        let code = ErrorCode::from_number(error.code).unwrap_or(ErrorCode::UnknownServerError);
        let message = if error.message.is_empty() { code.name().to_owned() } else { error.message.clone() };
        Self::Refused { operation, target: target.into(), code, message, retriable: error.retriable }
    }
}

/// Why a record was not accepted for sending. It was not sent, and will not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The buffer stayed full for [`max_block`](crate::ProducerConfig::max_block).
    #[error("the producer's buffer of {buffer_bytes} bytes stayed full for {} ms; the broker takes records more slowly than they come, or not at all", after.as_millis())]
    BufferFull { buffer_bytes: usize, after: Duration },
    #[error(
        "a record of about {bytes} bytes exceeds the limit of {limit}; split it, or raise record_bytes_max and the topic's max.message.bytes"
    )]
    RecordTooLarge { bytes: usize, limit: usize },
    #[error("topic {topic} has no partition {partition}; it has {partitions}")]
    NoSuchPartition { topic: String, partition: i32, partitions: i32 },
    /// The topic's partitions could not be found out.
    #[error(transparent)]
    Metadata(#[from] ClientError),
    #[error("record cannot be encoded: {0}")]
    Encoding(#[from] RecordError),
    #[error("the producer is closed")]
    Closed,
}

/// What became of a record that was accepted for sending, if it was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Not stored: a broker refused it for good.
    #[error("{partition}: refused by the broker: {message} ({})", code.name())]
    Refused { partition: TopicPartition, code: ErrorCode, message: String },
    /// Not stored: it was never sent, or each attempt was refused, until its time was over.
    #[error("{partition}: not sent within {} ms ({reason}); the record is not stored", after.as_millis())]
    Expired { partition: TopicPartition, after: Duration, reason: String },
    /// It was sent, and no answer came: it may or may not be stored, or be stored yet.
    #[error("{partition}: outcome unknown ({reason}); the record may or may not be stored")]
    Unknown { partition: TopicPartition, reason: String },
    /// Not stored: its batch could not be encoded.
    #[error("{partition}: batch cannot be encoded: {error}")]
    Encoding { partition: TopicPartition, error: RecordError },
    /// Not stored: the producer went away before it was sent.
    #[error("{partition}: the producer was dropped before the record was sent")]
    Closed { partition: TopicPartition },
}

impl DeliveryError {
    /// The record may or may not be stored. All other errors mean that it is not.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// Why a consumer could not go on with a partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The position is not in the log, and the policy is to say so. The partition rests until
    /// [`Consumer::seek`](crate::Consumer::seek).
    #[error(
        "{partition}: offset {offset} is out of range {log_start_offset}..={high_watermark}; seek to one that is in it"
    )]
    OffsetOutOfRange { partition: TopicPartition, offset: i64, log_start_offset: i64, high_watermark: i64 },
    /// What arrived is not what was produced, and no better when it was fetched again a few times. The partition rests until
    /// a seek; its position is where the damage begins.
    #[error("{partition} at offset {offset}: {error}; the records are damaged, on the way or at the broker")]
    Corrupt { partition: TopicPartition, offset: i64, error: RecordError },
    /// The broker refuses to serve the partition, for good. The partition rests until a seek.
    #[error("{partition}: {error}")]
    Refused { partition: TopicPartition, error: ClientError },
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned { partition: TopicPartition },
    /// Nothing is assigned that could still bring a record.
    #[error("no partition is assigned, or all rest or are paused")]
    NothingToWaitFor,
    #[error(transparent)]
    Client(#[from] ClientError),
}
