//! What openraft calls its types, said in Headwater's terms.
//!
//! Invariants: Raft's node id is a replica id; a log id is (term, index), one leader per term, so that
//! the term is the leader epoch of Kafka; openraft counts entries from 0, Headwater's logs from 1 (0 is
//! "none"): [`to_raft`] and [`from_raft`] are the only places that know.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use headwater_core::{ControlEntry, Stamp};
use headwater_proto::record::BatchHeader;
use headwater_proto::types::{BrokerId, Incarnation, LogIndex, Offset, ReplicaId, Term};
use headwater_storage::log::LogId;
use openraft::RaftTypeConfig;
use openraft::entry::RaftPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::vote::RaftLeaderId;
use openraft_rt_tokio::TokioRuntime;

use crate::encoding::decode_membership;
use crate::pending::{LocalSignal, LocallyDurable};

/// tokio with entropy from one seed: what a group draws depends on its seed alone.
pub(crate) type Runtime = DeterministicRng<TokioRuntime>;

pub(crate) type RaftLeader = LeaderId<u64, ReplicaId>;
pub(crate) type CommittedLeader = <RaftLeader as RaftLeaderId>::Committed;
pub(crate) type RaftLogId = openraft::LogId<CommittedLeader>;
pub(crate) type RaftVote = openraft::Vote<RaftLeader>;
pub(crate) type RaftEntry = openraft::Entry<CommittedLeader, Payload>;
pub(crate) type Membership = openraft::Membership<ReplicaId, Peer>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, ReplicaId, Peer>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, ReplicaId, Peer>;
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeader, ReplicaId, Peer, Bytes>;

/// Where a replica lives. Its address is not here: metadata knows it, and it may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    pub broker_id: BrokerId,
    /// The data directory that the replica id is bound to; another one is another replica.
    pub incarnation: Incarnation,
}

/// A batch to replicate, as the leader's gate let it pass.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Under what leadership it was decided, and its place among the decisions of its session.
    pub stamp: Stamp,
    /// One whole batch v2; the log stamps its base offset and leader epoch.
    pub batch: Bytes,
    pub(crate) local: Option<LocalSignal>,
}

impl Proposal {
    #[must_use]
    pub const fn new(stamp: Stamp, batch: Bytes) -> Self {
        Self { stamp, batch, local: None }
    }

    /// Has the leader's own log say when the batch is durable there.
    #[must_use]
    pub fn watched(mut self) -> (Self, LocallyDurable) {
        let (signal, durable) = LocalSignal::new();
        self.local = Some(signal);
        (self, durable)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.batch.len())
    }
}

/// What a group answers to the proposer of an applied entry.
#[derive(Debug)]
pub(crate) enum Outcome<R> {
    Applied(R),
    /// The log stored a void entry in place of the proposal.
    Void,
}

/// A batch as the log holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredBatch {
    pub(crate) header: BatchHeader,
    pub(crate) base_offset: Offset,
    pub(crate) batch: Bytes,
    /// What it says, when it is an entry of Headwater's own.
    pub(crate) control: Option<ControlEntry>,
    /// Whether it is the first of a segment, so that the state before it is that of a segment boundary.
    pub(crate) opens_segment: bool,
}

/// What a Raft entry carries, on its way to the log or back from it.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Blank,
    Membership(Membership),
    Proposal(Proposal),
    Stored(StoredBatch),
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("blank"),
            Self::Membership(membership) => write!(f, "{membership}"),
            Self::Proposal(proposal) => write!(f, "{proposal}"),
            Self::Stored(stored) => write!(f, "stored batch of {} bytes", stored.batch.len()),
        }
    }
}

impl RaftPayload for Payload {
    type D = Proposal;
    type NodeId = ReplicaId;
    type Node = Peer;

    fn blank() -> Self {
        Self::Blank
    }

    fn with_normal(self, data: Proposal) -> Self {
        Self::Proposal(data)
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self::Membership(membership)
    }

    fn get_membership(&self) -> Option<Membership> {
        match self {
            Self::Membership(membership) => Some(membership.clone()),
            // The store refuses to hand out a membership entry that does not decode, so nothing is lost here.
            Self::Stored(StoredBatch { control: Some(ControlEntry::Membership(bytes)), .. }) => {
                decode_membership(bytes).ok()
            }
            Self::Blank | Self::Proposal(_) | Self::Stored(_) => None,
        }
    }
}

/// openraft's type configuration for groups whose machine answers `R`.
pub(crate) struct Types<R>(PhantomData<fn() -> R>);

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Types<R> {}

impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<R> Eq for Types<R> {}

impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<R: Send + Sync + 'static> RaftTypeConfig for Types<R> {
    type D = Proposal;
    type R = Outcome<R>;
    type NodeId = ReplicaId;
    type Node = Peer;
    type Term = u64;
    type LeaderId = RaftLeader;
    type Vote = RaftVote;
    type Payload = Payload;
    type Entry = RaftEntry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Headwater's name of an entry that openraft names.
pub(crate) fn from_raft(id: &RaftLogId) -> LogId {
    LogId { term: Term(id.leader_id.term), index: from_raft_index(id.index) }
}

/// openraft's name of an entry; `None` for index 0, which is no entry.
pub(crate) fn to_raft(id: LogId) -> Option<RaftLogId> {
    let index = id.index.get().checked_sub(1)?;
    Some(RaftLogId::new(CommittedLeader::new(id.term.get()), index))
}

pub(crate) fn from_raft_index(index: u64) -> LogIndex {
    LogIndex(index.saturating_add(1))
}
