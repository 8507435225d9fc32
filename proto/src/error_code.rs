//! The Kafka error codes that Headwater answers with, on both protocols.
//!
//! Source: <https://kafka.apache.org/protocol#protocol_error_codes>. This is the one table that maps
//! an error to its number, its gRPC status and whether the same request may succeed later.

use tonic::Code;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $wire:literal, $status:ident, $retriable:literal;)*) => {
        /// A Kafka error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> i16 {
                match self { $(Self::$name => $number,)* }
            }

            /// Kafka's name, as its documentation and tools print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $wire,)* }
            }

            /// The gRPC status of a call that fails as a whole with this code.
            #[must_use]
            pub const fn status(self) -> Code {
                match self { $(Self::$name => Code::$status,)* }
            }

            /// Whether the same request may succeed later, unchanged.
            #[must_use]
            pub const fn is_retriable(self) -> bool {
                match self { $(Self::$name => $retriable,)* }
            }

            /// The code with this number; `None` for one that Headwater never sends.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

error_codes! {
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", Internal, false;
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", OutOfRange, false;
    CorruptMessage = 2, "CORRUPT_MESSAGE", InvalidArgument, true;
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", NotFound, true;
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", Unavailable, true;
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", Unavailable, true;
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", DeadlineExceeded, true;
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", InvalidArgument, false;
    InvalidTopic = 17, "INVALID_TOPIC_EXCEPTION", InvalidArgument, false;
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", InvalidArgument, false;
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", InvalidArgument, false;
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", InvalidArgument, false;
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", Unimplemented, false;
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", AlreadyExists, false;
    InvalidPartitions = 37, "INVALID_PARTITIONS", InvalidArgument, false;
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", InvalidArgument, false;
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", InvalidArgument, false;
    InvalidConfig = 40, "INVALID_CONFIG", InvalidArgument, false;
    NotController = 41, "NOT_CONTROLLER", Unavailable, true;
    InvalidRequest = 42, "INVALID_REQUEST", InvalidArgument, false;
    PolicyViolation = 44, "POLICY_VIOLATION", ResourceExhausted, false;
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", FailedPrecondition, false;
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", AlreadyExists, false;
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", FailedPrecondition, false;
    InvalidTxnState = 48, "INVALID_TXN_STATE", FailedPrecondition, false;
    /// A disk of the broker failed or is full.
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR", Unavailable, true;
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", FailedPrecondition, false;
    ReassignmentInProgress = 60, "REASSIGNMENT_IN_PROGRESS", FailedPrecondition, true;
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", FailedPrecondition, true;
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", Unavailable, true;
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", InvalidArgument, false;
    /// The leader has not told this replica that the offset is committed.
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", Unavailable, true;
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", Unavailable, true;
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", Unavailable, true;
    InvalidRecord = 87, "INVALID_RECORD", InvalidArgument, false;
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", ResourceExhausted, true;
    /// A broker of that id is there with another data directory.
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION", AlreadyExists, false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_read_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(i32::from(code.number())), Some(*code));
        }
        assert_eq!(ErrorCode::from_number(9_999), None);
    }
}
