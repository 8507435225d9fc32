//! Commands of the metadata group: the value of a one-record batch.

use bytes::Bytes;
use headwater_proto::record::{Compression, RecordBatchBuilder, RecordError};
use headwater_proto::types::{BrokerId, PartitionId, ProducerId, ReplicaId, Term, TimestampMs, TopicId};

use super::{Broker, BrokerState, Replica, wire};
use crate::machine::DecodeError;
use crate::topic_config::Overrides;

/// A change of the cluster. Whatever is random or timed was drawn by the controller that proposes it.
///
/// A topic id of [`TopicId::METADATA`] names the metadata group's own replicas, one for every broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A broker started; replaces what was known under its id. Repeated, it changes nothing.
    RegisterBroker {
        broker: Broker,
        /// The replica id under which it was one of the metadata group's first voters; `None`: one is allocated.
        metadata_replica: Option<ReplicaId>,
    },
    SetBrokerState {
        id: BrokerId,
        state: BrokerState,
    },
    /// Forgets a broker that holds nothing any more. Its data directory is never admitted again.
    UnregisterBroker {
        id: BrokerId,
    },
    CreateTopic {
        id: TopicId,
        name: String,
        /// Brokers by partition number; the first is the preferred leader.
        assignments: Vec<Vec<BrokerId>>,
        overrides: Overrides,
    },
    DeleteTopic {
        id: TopicId,
    },
    CreatePartitions {
        id: TopicId,
        /// Partitions that the topic has now.
        before: usize,
        assignments: Vec<Vec<BrokerId>>,
    },
    AlterConfigs {
        id: TopicId,
        /// `None`: back to the default.
        changes: Vec<(String, Option<String>)>,
    },
    AllocateProducerIds {
        count: u32,
    },
    /// Sets the brokers of a partition. A replica whose broker stays on the same data directory stays; the
    /// others leave.
    Reassign {
        topic: TopicId,
        partition: PartitionId,
        /// The epoch of the assignment that this was decided on.
        epoch: u32,
        brokers: Vec<BrokerId>,
    },
    /// Gives up the copy of one replica: its broker begins another one, under a new replica id.
    RebuildReplica {
        topic: TopicId,
        partition: PartitionId,
        replica: ReplicaId,
    },
    /// The membership without those that leave is committed: they may delete their copies.
    CompleteReassign {
        topic: TopicId,
        partition: PartitionId,
        epoch: u32,
        /// All that were leaving.
        removed: Vec<ReplicaId>,
    },
    /// Goes on with one copy after a majority was lost for good, giving up what only the others had.
    RecoverPartition {
        topic: TopicId,
        partition: PartitionId,
        epoch: u32,
        survivor: Survivor,
        /// Higher than every term that a leader of the group was ever announced with.
        above: Term,
        /// Brokers on which further replicas are built from the one that goes on.
        others: Vec<BrokerId>,
    },
    /// The metadata group itself goes on with one replica, which was made its only voter. Every other broker is to
    /// begin a new one.
    RecoverMetadata {
        survivor: ReplicaId,
        /// Below the term of every leader from now on. Once only for each.
        above: Term,
    },
}

/// With what a forced recovery goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivor {
    Replica(ReplicaId),
    /// No copy is left: an empty one on this broker.
    Empty(BrokerId),
}

/// What a command that was accepted did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// An entry of Headwater's own, without effect on this state.
    None,
    BrokerRegistered {
        /// Its replica of the metadata group.
        metadata_replica: ReplicaId,
    },
    BrokerStateSet,
    BrokerUnregistered,
    TopicCreated,
    TopicDeleted,
    PartitionsCreated,
    ConfigsAltered,
    /// The ids from `first` on are the requester's.
    ProducerIds {
        first: ProducerId,
        count: u32,
    },
    Reassigned {
        epoch: u32,
    },
    ReplicaRebuilt {
        replica: Replica,
    },
    ReassignCompleted,
    PartitionRecovered {
        replica: Replica,
    },
}

impl Effect {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::effect::encode(self)
    }

    /// Reads an encoded effect.
    ///
    /// # Errors
    /// Bytes of a newer version, or no effect at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::effect::decode(bytes)
    }
}

impl Command {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::command::encode(self)
    }

    /// Reads an encoded command.
    ///
    /// # Errors
    /// Bytes of a newer version, or no command at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::command::decode(bytes)
    }

    /// The overrides of a topic once this command altered them; unchanged by any other command.
    #[must_use]
    pub fn overrides_after(&self, overrides: &Overrides) -> Overrides {
        let mut after = overrides.clone();
        if let Self::AlterConfigs { changes, .. } = self {
            for (name, value) in changes {
                match value {
                    Some(value) => after.insert(name.clone(), value.clone()),
                    None => after.remove(name),
                };
            }
        }
        after
    }
}

/// The batch that carries a command through the metadata group's log.
///
/// # Errors
/// A command of more than 2 GiB.
pub fn command_batch(command: &Command, now: TimestampMs) -> Result<Bytes, RecordError> {
    let mut batch = RecordBatchBuilder::new(Compression::None, None);
    batch.append(now.get(), None, Some(&command.encode()), &[])?;
    batch.build()
}
