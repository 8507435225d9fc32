//! The network of a group: what a peer transport will fill in, and until then reaches nobody.
//!
//! A frame on the wire names the group and the *replica* it is meant for, so that a broker whose disk was
//! replaced refuses what was meant for its predecessor. Three lanes per peer keep bulk from delaying
//! heartbeats. Invariant: a peer that can't be reached is an error, never a granted vote.

use std::fmt;

use bytes::Bytes;
use headwater_proto::types::{GroupId, ReplicaId};
use openraft::AnyError;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};

use crate::types::{Peer, RaftVote, Snapshot, Types};

/// What shares a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Votes, transfers and heartbeats.
    Control,
    Append,
    Snapshot,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    group: GroupId,
    target: ReplicaId,
    peer: Peer,
    lane: Lane,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, target, peer, lane } = self;
        write!(f, "replica {target} of group {group} on broker {} ({lane:?} lane)", peer.broker_id)
    }
}

/// Makes the connections of one group's replica.
#[derive(Debug)]
pub(crate) struct Network {
    group: GroupId,
}

impl Network {
    pub(crate) fn new(group: GroupId) -> Self {
        Self { group }
    }

    fn route(&self, target: ReplicaId, peer: &Peer, lane: Lane) -> Route {
        Route { group: self.group, target, peer: *peer, lane }
    }
}

impl<R: Send + Sync + 'static> RaftNetworkFactory<Types<R>> for Network {
    type Network = Route;

    async fn new_client(&mut self, target: ReplicaId, peer: &Peer) -> Route {
        self.route(target, peer, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, peer: &Peer) -> Route {
        self.route(target, peer, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: ReplicaId, peer: &Peer) -> Route {
        self.route(target, peer, Lane::Snapshot)
    }
}

impl Route {
    fn unreachable<R: Send + Sync + 'static>(&self) -> Unreachable<Types<R>> {
        Unreachable::new(&AnyError::error(format!("no transport reaches {self}")))
    }
}

impl<R: Send + Sync + 'static> RaftNetworkV2<Types<R>> for Route {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<Types<R>>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<Types<R>>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Err(self.unreachable().into())
    }

    // openraft's default grants: an isolated replica would elect itself into ever higher terms.
    async fn pre_vote(
        &mut self,
        _: VoteRequest<Types<R>>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _: RaftVote,
        _: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        Err(self.unreachable().into())
    }

    async fn transfer_leader(
        &mut self,
        _: TransferLeaderRequest<Types<R>>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        Err(self.unreachable().into())
    }
}
