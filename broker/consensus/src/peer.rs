//! What replicas say to one another, whatever carries it.
//!
//! A request names its group and the *replica* it is meant for, so that a broker whose disk was replaced refuses
//! what was meant for its predecessor. Invariants: an answer that did not come is an error, never an assent; a
//! request may be delivered late, out of order with those of other lanes, or more than once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use headwater_proto::types::{GroupId, ReplicaId};
use thiserror::Error;

use crate::types::Peer;

/// What shares a connection: bulk must not delay votes and heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, transfers, heartbeats, and what brokers tell one another.
    Control,
    Append,
    Snapshot,
}

/// What is asked of a replica. The numbers are those on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestKind {
    Append = 1,
    /// An append without entries on the control lane: may wait a few milliseconds for company.
    Heartbeat = 2,
    Vote = 3,
    PreVote = 4,
    TransferLeader = 5,
    Snapshot = 6,
    /// The log ends of voters, for a replica whose tail was torn.
    LogEnds = 7,
}

/// A request from one replica to another of its group.
#[derive(Debug, Clone)]
pub struct GroupRequest {
    pub group: GroupId,
    pub from: ReplicaId,
    pub target: ReplicaId,
    pub kind: RequestKind,
    pub body: Body,
}

/// The bytes of a message, in pieces, so that mapped batches are not copied together before they are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body(Vec<Bytes>);

impl Body {
    #[must_use]
    pub const fn from_pieces(pieces: Vec<Bytes>) -> Self {
        Self(pieces)
    }

    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.0
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// One run of bytes; copied together unless there is one piece only, as in every message received.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.0.len() == 1 {
            return self.0.swap_remove(0);
        }
        let mut all = BytesMut::with_capacity(self.len());
        self.0.iter().for_each(|piece| all.extend_from_slice(piece));
        all.freeze()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

/// Why a replica that was reached did not do what it was asked. The numbers on the wire are the transport's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The broker does not hold that replica (any more, or yet).
    #[error("no such replica is here")]
    NoSuchReplica,
    /// It must not vote before others have told it where the log ends.
    #[error("the replica lost the end of its log and has not been told of it yet")]
    TornTail,
    #[error("the replica is stopped: {0}")]
    Stopped(String),
    #[error("the message cannot be read: {0}")]
    Malformed(String),
}

/// Why a call brought no answer of the replica.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallError {
    /// No connection, or it broke; whether the request arrived is not known.
    #[error("broker {0} cannot be reached: {1}")]
    Unreachable(headwater_proto::types::BrokerId, String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Carries requests to other brokers.
#[async_trait]
pub trait Messenger: Send + Sync + fmt::Debug + 'static {
    /// Delivers to the data directory `peer.incarnation` of broker `peer.broker_id`, and to no other. Calls of one lane
    /// and group arrive in the order in which they were made.
    async fn call(
        &self,
        peer: Peer,
        lane: Lane,
        request: GroupRequest,
        within: Duration,
    ) -> Result<Bytes, CallError>;

    /// Whether the cluster has decided that this data directory never takes part again: what was on it is lost.
    fn is_retired(&self, peer: Peer) -> bool;
}

/// Reaches nobody: for a broker that has no peers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[async_trait]
impl Messenger for NoPeers {
    async fn call(&self, peer: Peer, _: Lane, _: GroupRequest, _: Duration) -> Result<Bytes, CallError> {
        Err(CallError::Unreachable(peer.broker_id, "this broker has no peers".to_owned()))
    }

    fn is_retired(&self, _: Peer) -> bool {
        false
    }
}

/// A replica, as its peers' requests reach it.
#[async_trait]
pub trait Replica: Send + Sync + 'static {
    async fn answer(&self, request: GroupRequest) -> Result<Body, Refusal>;
}

type Held = (ReplicaId, Arc<dyn Replica>);

/// The replicas that run on this broker.
#[derive(Default)]
pub struct Replicas(RwLock<BTreeMap<GroupId, Held>>);

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replicas")
    }
}

impl Replicas {
    /// From now on, requests for the replica reach it.
    pub fn insert(&self, group: GroupId, replica_id: ReplicaId, replica: Arc<dyn Replica>) {
        let mut replicas = self.0.write().unwrap_or_else(PoisonError::into_inner);
        replicas.insert(group, (replica_id, replica));
    }

    /// From now on, requests for it are refused. Another replica of the group stays.
    pub fn remove(&self, group: GroupId, replica_id: ReplicaId) {
        let mut replicas = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if replicas.get(&group).is_some_and(|(held, _)| *held == replica_id) {
            replicas.remove(&group);
        }
    }

    /// Has the request answered by the replica that it names.
    ///
    /// # Errors
    /// That replica is not here, or refuses.
    pub async fn answer(&self, request: GroupRequest) -> Result<Body, Refusal> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&request.group).cloned();
        match held {
            Some((replica_id, replica)) if replica_id == request.target => replica.answer(request).await,
            _ => Err(Refusal::NoSuchReplica),
        }
    }
}
