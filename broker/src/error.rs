//! Why a request is refused, and the one place that turns it into a code and a sentence for the client.
//!
//! Invariants: a write reported as refused was not appended; one whose outcome is not known is reported
//! as such (REQUEST_TIMED_OUT), never as failed. A message says what happened, to what, and what to do.

use headwater_consensus::{ConsensusError, ProposeError};
use headwater_core::Refusal;
use headwater_core::metadata::MetadataError;
use headwater_proto::ErrorCode;
use headwater_proto::record::RecordError;
use headwater_proto::types::{BrokerId, Offset, TimestampMs};
use headwater_proto::v1;
use headwater_storage::log::LogError;
use thiserror::Error;

/// An error of the node, on behalf of one topic or partition of a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    #[error("there is no topic '{topic}'; create it first, or check the name")]
    UnknownTopic { topic: String },
    #[error(
        "topic '{topic}' has {partitions} partitions, numbered from 0: there is no partition {partition}"
    )]
    UnknownPartition { topic: String, partition: i32, partitions: usize },
    #[error("this broker does not lead the partition at the moment; look up the leader and retry")]
    NotLeader,
    #[error("leader epoch {known} of the request is older than {current}; refresh the metadata and retry")]
    FencedEpoch { known: i32, current: i32 },
    #[error("leader epoch {known} of the request is not known here, the newest is {current}; retry")]
    UnknownEpoch { known: i32, current: i32 },
    #[error("offset {offset} is not in the partition, which holds {log_start} to below {high_watermark}")]
    OffsetOutOfRange { offset: i64, log_start: Offset, high_watermark: Offset },
    #[error(
        "offset {offset} is not known to be committed at this replica, which does not lead and knows of all below \
         {high_watermark}; ask the leader, or retry"
    )]
    NotCommittedHere { offset: i64, high_watermark: Offset },
    #[error("too few replicas of the partition answer; retry")]
    NoQuorum,
    #[error("the partition has no leader at the moment, as far as this broker knows; retry")]
    NoLeader,
    #[error("{0}")]
    NotEnoughBrokers(String),
    #[error(
        "{replicas} replicas need as many brokers: {brokers} have registered, and others of the cluster are about to; \
         retry"
    )]
    BrokersStarting { replicas: usize, brokers: usize },
    #[error("an earlier change of the partition's replicas is under way; retry when it is done")]
    ChangeInProgress,
    #[error("it was not done in time; the partition goes on as before")]
    Late,
    #[error("acks {0} is not one of -1 (all), 1 (leader) and 0 (none)")]
    InvalidAcks(i32),
    #[error("the request names {found} {what}, the limit of this broker is {limit}; split it")]
    TooMany { what: &'static str, found: usize, limit: usize },
    #[error("no records were sent for the partition")]
    NoRecords,
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error(
        "timestamp {timestamp} lies more than {limit_ms} ms {side} the broker's clock ({now}); \
         check the producer's clock, or change the topic's message.timestamp.{side}.max.ms"
    )]
    Timestamp { timestamp: i64, limit_ms: i64, side: &'static str, now: TimestampMs },
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The write may or may not become durable.
    #[error("no acknowledgement within {timeout_ms} ms: the records may or may not be stored")]
    TimedOut { timeout_ms: u64 },
    #[error("{0}: the records may or may not be stored")]
    Unknown(String),
    #[error("the leader could not take the write in its turn; retry")]
    Retry,
    #[error(
        "the disk of the broker is full: free some space; writes go on by themselves, reads are served meanwhile"
    )]
    DiskFull,
    #[error("the partition cannot be used on this broker: {0}")]
    Storage(String),
    /// Stays so until an operator acts: a reader that asked again and again would wait silently for ever.
    #[error("the records asked for cannot be read: {0}")]
    Damaged(String),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(
        "this broker holds {found} {what} already, the limit is {limit}; raise topics.{what}_max or delete some"
    )]
    LimitReached { what: &'static str, found: usize, limit: usize },
    #[error("the request is invalid: {0}")]
    Invalid(String),
    #[error("the change was accepted, but is not finished within {timeout_ms} ms; look again later")]
    NotFinished { timeout_ms: u64 },
    #[error("the broker is stopping")]
    Stopping,
    #[error("nobody leads the metadata of the cluster at the moment, as far as this broker knows; retry")]
    NoMetadataLeader,
    #[error("the broker that leads the metadata of the cluster cannot be asked: {0}")]
    Unreachable(String),
    #[error(
        "broker {0} is there with another data directory: stop that one first, or give this one another node_id"
    )]
    BrokerIdInUse(BrokerId),
    #[error("the change is made, but this broker has not learned of it in time")]
    Lagging,
    /// Another broker decided, in its own words.
    #[error("{message}")]
    Elsewhere { code: ErrorCode, message: String },
    #[error("internal error: {0}")]
    Internal(String),
}

impl RequestError {
    /// The Kafka error code of this error.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownTopic { .. } | Self::UnknownPartition { .. } => ErrorCode::UnknownTopicOrPartition,
            Self::NotLeader | Self::Retry | Self::Stopping => ErrorCode::NotLeaderOrFollower,
            Self::FencedEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            Self::UnknownEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::NotCommittedHere { .. } => ErrorCode::OffsetNotAvailable,
            Self::NoQuorum | Self::NoLeader => ErrorCode::LeaderNotAvailable,
            Self::NotEnoughBrokers(_) => ErrorCode::InvalidReplicationFactor,
            Self::ChangeInProgress => ErrorCode::ReassignmentInProgress,
            Self::Late => ErrorCode::RequestTimedOut,
            Self::InvalidAcks(_) => ErrorCode::InvalidRequiredAcks,
            Self::TooMany { .. } | Self::Invalid(_) => ErrorCode::InvalidRequest,
            Self::NoRecords => ErrorCode::InvalidRecord,
            Self::Record(error) => error.code(),
            Self::Timestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::Refused(refusal) => refusal.code(),
            Self::TimedOut { .. } | Self::Unknown(_) | Self::NotFinished { .. } => ErrorCode::RequestTimedOut,
            Self::DiskFull | Self::Storage(_) | Self::Damaged(_) => ErrorCode::KafkaStorageError,
            Self::Metadata(error) => error.code(),
            Self::NoMetadataLeader | Self::Unreachable(_) | Self::BrokersStarting { .. } => {
                ErrorCode::NotController
            }
            Self::BrokerIdInUse(_) => ErrorCode::DuplicateBrokerRegistration,
            Self::Lagging => ErrorCode::RequestTimedOut,
            Self::Elsewhere { code, .. } => *code,
            Self::LimitReached { .. } => ErrorCode::PolicyViolation,
            Self::Internal(_) => ErrorCode::UnknownServerError,
        }
    }

    /// As a client is told on the gRPC protocol.
    #[must_use]
    pub fn to_proto(&self) -> v1::Error {
        let code = self.code();
        let retriable = code.is_retriable() && !matches!(self, Self::Damaged(_));
        v1::Error { code: code.number().into(), message: self.to_string(), retriable, leader: None }
    }

    /// As the status of a call that fails as a whole.
    #[must_use]
    pub fn to_status(&self) -> tonic::Status {
        tonic::Status::new(self.code().status(), format!("{}: {self}", self.code().name()))
    }
}

impl From<ProposeError> for RequestError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { .. } => Self::NotLeader,
            ProposeError::NoSpace => Self::DiskFull,
            ProposeError::Retry => Self::Retry,
            ProposeError::Unknown { .. } | ProposeError::Stopped(_) => Self::Unknown(error.to_string()),
        }
    }
}

impl From<LogError> for RequestError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::NoSpace(_) => Self::DiskFull,
            LogError::OffsetOutOfRange { offset, first, next } => {
                Self::OffsetOutOfRange { offset: offset.get(), log_start: first, high_watermark: next }
            }
            damaged @ LogError::Damaged { .. } => Self::Damaged(damaged.to_string()),
            other => Self::Storage(other.to_string()),
        }
    }
}

impl From<ConsensusError> for RequestError {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::NotLeader { .. } => Self::NotLeader,
            ConsensusError::NoQuorum => Self::NoQuorum,
            ConsensusError::ChangeInProgress => Self::ChangeInProgress,
            ConsensusError::TimedOut => Self::Late,
            ConsensusError::InvalidRequest(reason) => Self::Invalid(reason.to_owned()),
            ConsensusError::Stopped => Self::Stopping,
            other => Self::Storage(other.to_string()),
        }
    }
}
