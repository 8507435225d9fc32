//! Handing leadership over (Raft dissertation, section 3.10).
//!
//! The leader holds proposals back, waits until the target has everything, and asks it to campaign; voters grant such
//! a vote within the old leader's lease. openraft's own transfer is not used: it bars the leader for good when the
//! target never wins. Here the leader stays one in full, heartbeats included, until it learns of another.

use std::sync::Arc;

use headwater_core::Machine;
use headwater_proto::types::ReplicaId;
use headwater_storage::log::LogId;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::TransferLeaderRequest;
use openraft::{RaftMetrics, RaftNetworkFactory};
use tokio::time::{Duration, Instant, timeout_at};

use crate::error::ConsensusError;
use crate::group::{Group, GroupRaft};
use crate::network::Network;
use crate::types::{Peer, Types, from_raft_index, to_raft};

/// Proposals are held back once the target lacks no more entries than this.
const LAG_ENTRIES: u64 = 64;

impl<M: Machine> Group<M> {
    /// Makes the voter `to` the leader; returns once this replica knows that it is. Proposals are refused meanwhile,
    /// certainly not appended, but not before the target has nearly all of the log. Given up after `within`, the
    /// group goes on as before, under this leader unless another was elected.
    ///
    /// # Errors
    /// [`ConsensusError::NotLeader`]; [`ConsensusError::InvalidRequest`]: `to` is no voter;
    /// [`ConsensusError::TimedOut`].
    pub async fn transfer_leadership(&self, to: ReplicaId, within: Duration) -> Result<(), ConsensusError> {
        let deadline = Instant::now() + within;
        let raft = self.raft()?;
        if self.leadership().is_none() {
            return Err(ConsensusError::NotLeader { leader: self.leader() });
        }
        if to == self.replica_id {
            return Ok(());
        }
        let members = self.membership();
        let peer = match members.peers.get(&to) {
            Some(peer) if members.voters().contains(&to) => *peer,
            _ => return Err(ConsensusError::InvalidRequest("leadership goes to a voter only")),
        };
        self.wake().await;
        raft.runtime_config().tick(true);
        let handed_over = async {
            self.caught_up(raft, to, LAG_ENTRIES).await?;
            let _held_back = self.turn.write().await;
            loop {
                self.caught_up(raft, to, 0).await?;
                self.ask_to_campaign(raft, to, peer).await?;
                // A vote may be lost, or the target's log have grown too little: ask again.
                let patience = Instant::now() + 2 * self.settings.election_timeout_max;
                let led = self.wait_metrics(raft, |metrics| {
                    metrics.current_leader.is_some_and(|leader| leader != self.replica_id)
                });
                if let Ok(led) = timeout_at(patience, led).await {
                    return led;
                }
            }
        };
        timeout_at(deadline, handed_over).await.unwrap_or(Err(ConsensusError::TimedOut))?;
        match self.leader() {
            Some(leader) if leader == to => Ok(()),
            leader => Err(ConsensusError::NotLeader { leader }),
        }
    }

    /// Waits until `to` lacks at most `entries` of what this leader was given so far.
    async fn caught_up(
        &self,
        raft: &GroupRaft<M>,
        to: ReplicaId,
        entries: u64,
    ) -> Result<(), ConsensusError> {
        let last = self.last_queued(raft).await?.map_or(0, |id| id.index.get());
        self.wait_metrics(raft, |metrics| {
            let Some(replication) = &metrics.replication else { return true };
            let matched = replication.get(&to).copied().flatten();
            matched.map_or(0, |id| from_raft_index(id.index).get()) + entries >= last
        })
        .await?;
        if raft.metrics().borrow_watched().replication.is_none() {
            return Err(ConsensusError::NotLeader { leader: self.leader() });
        }
        Ok(())
    }

    async fn ask_to_campaign(
        &self,
        raft: &GroupRaft<M>,
        to: ReplicaId,
        peer: Peer,
    ) -> Result<(), ConsensusError> {
        let vote = raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|_| self.stopped())?;
        let last = self.log().bounds().last.and_then(to_raft);
        if !vote.committed || vote.leader_id.voted_for != self.replica_id {
            return Err(ConsensusError::NotLeader { leader: self.leader() });
        }
        let request = TransferLeaderRequest::<Types<M::Reply>>::new(vote, to, last);
        let mut network = Network::new(self.id, self.replica_id, Arc::clone(&self.host.messenger));
        let mut client =
            RaftNetworkFactory::<Types<M::Reply>>::new_heartbeat_client(&mut network, to, &peer).await;
        let option = RPCOption::new(self.settings.election_timeout_min);
        if let Err(error) = RaftNetworkV2::transfer_leader(&mut client, request, option).await {
            tracing::info!(group = %self.id, %to, %error, "the request to campaign was not answered");
        }
        Ok(())
    }

    /// The last entry of the log once everything proposed before the call is in it.
    pub(crate) async fn last_queued(&self, raft: &GroupRaft<M>) -> Result<Option<LogId>, ConsensusError> {
        // Raft takes what it is given in order.
        raft.with_raft_state(|_| ()).await.map_err(|_| self.stopped())?;
        Ok(self.log().bounds().last)
    }

    /// Waits until Raft's own view of itself is as wanted.
    pub(crate) async fn wait_metrics(
        &self,
        raft: &GroupRaft<M>,
        wanted: impl Fn(&RaftMetrics<Types<M::Reply>>) -> bool,
    ) -> Result<(), ConsensusError> {
        let mut metrics = raft.metrics();
        loop {
            if wanted(&metrics.borrow_watched()) {
                return Ok(());
            }
            self.check_running()?;
            metrics.changed().await.map_err(|_| self.stopped())?;
        }
    }
}
