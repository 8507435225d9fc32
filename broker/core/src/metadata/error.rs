//! Why a metadata command is refused.

use headwater_proto::ErrorCode;
use headwater_proto::types::{BrokerId, Incarnation, PartitionId, ReplicaId, TopicId};
use thiserror::Error;

use super::{PARTITIONS_PER_TOPIC_MAX, REPLICAS_MAX};
use crate::topic_config::ConfigError;
use crate::topic_name::TopicNameError;

/// A refused command; the state is as before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    #[error(transparent)]
    Name(#[from] TopicNameError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("topic '{0}' exists already")]
    TopicExists(String),
    #[error("topic '{name}' would collide with '{other}' in metrics, where '.' and '_' are the same")]
    NameCollision { name: String, other: String },
    #[error("topic id {0} is in use; retry")]
    TopicIdInUse(TopicId),
    #[error("there is no topic with id {0}; it may have been deleted meanwhile")]
    UnknownTopicId(TopicId),
    #[error("the topic has no partition {0}")]
    UnknownPartition(PartitionId),
    #[error("a topic has from 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {partitions}")]
    PartitionCount { partitions: usize },
    #[error("the topic has {found} partitions, not {expected}: somebody else added some; look again")]
    PartitionsChanged { expected: usize, found: usize },
    #[error(
        "the topic has {found} partitions already, and they are only ever added: ask for a total above that"
    )]
    PartitionsNotAdded { found: usize },
    #[error(
        "{replicas} replicas are not possible with {brokers} brokers: \
         each needs a broker of its own, and at most {REPLICAS_MAX} are allowed"
    )]
    ReplicationFactor { replicas: usize, brokers: usize },
    #[error("broker {0} is not registered")]
    UnknownBroker(BrokerId),
    #[error("broker {0} is being removed: it takes no new replicas")]
    BrokerLeaving(BrokerId),
    #[error(
        "broker {broker} still holds {replicas} replicas: move them away first, `streamctl node remove` does"
    )]
    BrokerHoldsReplicas { broker: BrokerId, replicas: usize },
    #[error(
        "data directory {incarnation} of broker {broker} was given up: another took its place, or the broker was \
         removed; start with an empty --data-dir"
    )]
    RetiredIncarnation { broker: BrokerId, incarnation: Incarnation },
    #[error("replica id {0} belongs to another broker or data directory")]
    ReplicaIdInUse(ReplicaId),
    #[error("replica {0} is not, or no longer, assigned on a known data directory")]
    UnknownReplica(ReplicaId),
    #[error("replica {0} is the only one: there is nobody to rebuild it from")]
    OnlyReplica(ReplicaId),
    #[error("the assignment was changed meanwhile (epoch {found}, not {expected}): look again")]
    AssignmentChanged { expected: u32, found: u32 },
    #[error("a reassignment is complete once all that leave have left")]
    NotAllThatLeave,
    #[error("all producer ids are given out")]
    ProducerIdsExhausted,
}

impl MetadataError {
    /// The Kafka error code that a client is answered with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Name(_) | Self::NameCollision { .. } => ErrorCode::InvalidTopic,
            Self::Config(_) => ErrorCode::InvalidConfig,
            Self::TopicExists(_) => ErrorCode::TopicAlreadyExists,
            Self::UnknownTopicId(_) | Self::UnknownPartition(_) => ErrorCode::UnknownTopicOrPartition,
            Self::PartitionCount { .. }
            | Self::PartitionsChanged { .. }
            | Self::PartitionsNotAdded { .. } => ErrorCode::InvalidPartitions,
            Self::ReplicationFactor { .. } => ErrorCode::InvalidReplicationFactor,
            Self::UnknownBroker(_) | Self::BrokerLeaving(_) => ErrorCode::InvalidReplicaAssignment,
            Self::RetiredIncarnation { .. }
            | Self::BrokerHoldsReplicas { .. }
            | Self::UnknownReplica(_)
            | Self::OnlyReplica(_)
            | Self::AssignmentChanged { .. }
            | Self::NotAllThatLeave => ErrorCode::InvalidRequest,
            Self::TopicIdInUse(_) | Self::ReplicaIdInUse(_) | Self::ProducerIdsExhausted => {
                ErrorCode::UnknownServerError
            }
        }
    }
}
