//! openraft's network: each call becomes a message, and each message that is not answered an error.
//!
//! Invariants: a peer that cannot be reached, or refuses, never counts as a granted vote; votes and heartbeats travel
//! on their own lane, so that bulk cannot delay them; no call outlives its time, so that a peer that hangs holds up
//! nobody but itself. Appends go one after the other: those that wait meanwhile travel together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_core::DecodeError;
use headwater_proto::types::{GroupId, ReplicaId};
use openraft::AnyError;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};

use crate::peer::{Body, CallError, GroupRequest, Lane, Messenger, Refusal, RequestKind};
use crate::types::{Peer, RaftVote, Snapshot, Types};
use crate::wire;

/// How long entries may take to the disk of a follower. Heartbeats go on meanwhile, so nothing waits for this but the
/// follower's own progress.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the connections of one replica to its peers.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    group: GroupId,
    from: ReplicaId,
    messenger: Arc<dyn Messenger>,
}

impl Network {
    pub(crate) fn new(group: GroupId, from: ReplicaId, messenger: Arc<dyn Messenger>) -> Self {
        Self { group, from, messenger }
    }

    fn link(&self, target: ReplicaId, peer: &Peer, appends: Lane) -> Link {
        Link { network: self.clone(), target, peer: *peer, appends }
    }
}

impl<R: Send + Sync + 'static> RaftNetworkFactory<Types<R>> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: ReplicaId, peer: &Peer) -> Link {
        self.link(target, peer, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, peer: &Peer) -> Link {
        self.link(target, peer, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: ReplicaId, peer: &Peer) -> Link {
        self.link(target, peer, Lane::Snapshot)
    }
}

/// One replica's way to another.
#[derive(Debug)]
pub(crate) struct Link {
    network: Network,
    target: ReplicaId,
    peer: Peer,
    /// The lane of this link's appends: those of the control lane are heartbeats.
    appends: Lane,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, broker) = (self.network.group, self.peer.broker_id);
        write!(f, "replica {} of group {group} on broker {broker}", self.target)
    }
}

impl Link {
    async fn call<R: Send + Sync + 'static>(
        &self,
        kind: RequestKind,
        body: Body,
        within: Duration,
    ) -> Result<Bytes, RPCError<Types<R>>> {
        let Network { group, from, ref messenger } = self.network;
        let (lane, action) = match kind {
            RequestKind::Append => (Lane::Append, RPCTypes::AppendEntries),
            RequestKind::Heartbeat => (Lane::Control, RPCTypes::AppendEntries),
            RequestKind::TransferLeader => (Lane::Control, RPCTypes::TransferLeader),
            RequestKind::Snapshot => (Lane::Snapshot, RPCTypes::InstallSnapshot),
            RequestKind::Vote | RequestKind::PreVote | RequestKind::LogEnds => {
                (Lane::Control, RPCTypes::Vote)
            }
        };
        let request = GroupRequest { group, from, target: self.target, kind, body };
        messenger.call(self.peer, lane, request, within).await.map_err(|error| match error {
            CallError::TimedOut(timeout) => Timeout { action, id: from, target: self.target, timeout }.into(),
            // It arrived damaged: another try may not.
            CallError::Refused(Refusal::Malformed(_)) => self.broken(&error),
            CallError::Unreachable(..) | CallError::Refused(_) => {
                Unreachable::new(&AnyError::new(&error).add_context(|| self.to_string())).into()
            }
        })
    }

    fn broken<R: Send + Sync + 'static>(
        &self,
        error: &(impl std::error::Error + 'static),
    ) -> RPCError<Types<R>> {
        tracing::warn!(peer = %self, %error, "a message to or from a peer was damaged");
        NetworkError::new(&AnyError::new(error).add_context(|| self.to_string())).into()
    }

    fn answer<R: Send + Sync + 'static, T>(
        &self,
        decoded: Result<T, DecodeError>,
    ) -> Result<T, RPCError<Types<R>>> {
        decoded.map_err(|error| self.broken(&error))
    }
}

impl<R: Send + Sync + 'static> RaftNetworkV2<Types<R>> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        let (kind, within) = match self.appends {
            Lane::Control => (RequestKind::Heartbeat, option.hard_ttl()),
            Lane::Append | Lane::Snapshot => (RequestKind::Append, APPEND_TIMEOUT),
        };
        let body = wire::encode_append(&request)
            .ok_or_else(|| NetworkError::new(&AnyError::error("an entry that is not in the log")))?;
        let answer = self.answer(wire::decode_appended(self.call(kind, body, within).await?))?;
        if matches!(answer, AppendEntriesResponse::Conflict) && request.prev_log_id.is_none() {
            // Nothing precedes the first entry that could be another.
            return Err(NetworkError::new(&AnyError::error("a conflict with nothing")).into());
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let body = wire::encode_vote_request(&request);
        let answer = self.call(RequestKind::Vote, body, option.hard_ttl()).await?;
        self.answer(wire::decode_voted(answer))
    }

    // openraft's default grants: an isolated replica would elect itself into ever higher terms.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let body = wire::encode_vote_request(&request);
        let answer = self.call(RequestKind::PreVote, body, option.hard_ttl()).await?;
        self.answer(wire::decode_voted(answer))
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let body = wire::encode_snapshot(&vote, snapshot.snapshot);
        let answer = tokio::select! {
            biased;
            answer = self.call(RequestKind::Snapshot, body, option.hard_ttl()) => answer?,
            closed = cancel => return Err(closed.into()),
        };
        Ok(self.answer(wire::decode_installed(answer))?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        let body = wire::encode_transfer(&request);
        let answer = self.call(RequestKind::TransferLeader, body, option.hard_ttl()).await?;
        self.answer(wire::decode_transferred(answer))
    }
}
