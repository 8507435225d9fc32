//! What the cluster consists of: brokers, topics, partitions and their replicas.

use headwater_proto::types::{BrokerId, Incarnation, PartitionId, ReplicaId, Term, TopicId};

use crate::topic_config::Overrides;

/// What a broker is there for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokerState {
    #[default]
    Active,
    /// Before a restart: it leads nothing, and gets new replicas only where too few others are active.
    Draining,
    /// Before it is removed: it leads nothing, gets nothing, and its replicas move away.
    Leaving,
}

impl BrokerState {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Leaving => "leaving",
        }
    }
}

/// A registered broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub id: BrokerId,
    /// The data directory that it runs on.
    pub incarnation: Incarnation,
    /// Advertised addresses, HOST:PORT.
    pub grpc_address: String,
    pub kafka_address: String,
    pub peer_address: String,
    pub rack: String,
    pub version: String,
    /// Of a broker that is known already, the state stays what it was when it registers again.
    pub state: BrokerState,
}

/// One replica of a partition, bound to the data directory that its broker had when it was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    pub id: ReplicaId,
    pub broker: BrokerId,
    pub incarnation: Incarnation,
}

/// Where a group's replicas are, and where they are going. The group's Raft membership follows this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    /// The voters with which the group was initialized. Only a forced recovery changes them.
    pub created_with: Vec<Replica>,
    /// Who holds the partition, or is to hold it; the preferred leader first. At most one of a broker.
    pub replicas: Vec<Replica>,
    /// Who held it and keeps its copy until the membership without it is committed.
    pub leaving: Vec<Replica>,
    /// Counts the changes of this assignment, so that two who change it at the same time do not both succeed.
    pub epoch: u32,
    /// Set by a forced recovery: the group goes on with `created_with` alone, above this term.
    pub recovered_above: Option<Term>,
}

impl Partition {
    /// A partition as it is created.
    #[must_use]
    pub fn created(replicas: Vec<Replica>) -> Self {
        Self { created_with: replicas.clone(), replicas, ..Self::default() }
    }

    /// Replicas that have or are to have a copy, and those that still keep one.
    pub fn holders(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().chain(&self.leaving)
    }

    /// The replica that runs, or is to run, on the data directory of a broker. Of a rebuilt one, the new one.
    #[must_use]
    pub fn on(&self, broker: BrokerId, incarnation: Incarnation) -> Option<&Replica> {
        self.newest_on(broker).filter(|replica| replica.incarnation == incarnation)
    }

    /// The brokers that it is assigned to, the preferred leader first.
    pub fn brokers(&self) -> impl Iterator<Item = BrokerId> {
        self.replicas.iter().map(|replica| replica.broker)
    }

    /// The one of a broker's replicas that was allocated last: an older one was given up for it.
    pub(super) fn newest_on(&self, broker: BrokerId) -> Option<&Replica> {
        self.holders().filter(|replica| replica.broker == broker).max_by_key(|replica| replica.id)
    }

    pub(super) fn leaving_ids(&self) -> Vec<ReplicaId> {
        self.leaving.iter().map(|replica| replica.id).collect()
    }
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    /// By partition number.
    pub partitions: Vec<Partition>,
    pub overrides: Overrides,
}

impl Topic {
    /// The partitions with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        (0..).map(PartitionId).zip(&self.partitions)
    }

    #[must_use]
    pub fn partition(&self, number: PartitionId) -> Option<&Partition> {
        usize::try_from(number.get()).ok().and_then(|index| self.partitions.get(index))
    }

    /// Replicas of each partition; while the factor of a topic is being changed, those of the largest.
    #[must_use]
    pub fn replica_count(&self) -> usize {
        self.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0)
    }

    /// Replicas of the partition that has fewest.
    #[must_use]
    pub fn replica_count_min(&self) -> usize {
        self.partitions.iter().map(|partition| partition.replicas.len()).min().unwrap_or(0)
    }
}
