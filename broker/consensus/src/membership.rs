//! Who takes part in a group, and how that changes.
//!
//! Voters change by joint consensus (Raft dissertation, section 4.3): while two configurations are in force, a
//! majority of each decides. Invariants: a change is appended only once the one before it is committed; a replica that
//! is no voter any more after a change leaves the group entirely. Every call may be repeated, by whichever replica
//! leads by then: a change that its leader did not live to finish is finished by the next call.

use std::collections::{BTreeMap, BTreeSet};

use headwater_core::Machine;
use headwater_proto::types::{LogIndex, ReplicaId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use crate::error::ConsensusError;
use crate::group::Group;
use crate::types::{Peer, StoredMembership, Types, from_raft_index};

/// The members of a group, as the newest entry in this replica's log has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupMembership {
    /// One set of voters; two while they change. None before the group was initialized.
    pub configs: Vec<BTreeSet<ReplicaId>>,
    /// Where voters and learners live.
    pub peers: BTreeMap<ReplicaId, Peer>,
    /// Whether the entry is committed, as far as this replica knows.
    pub committed: bool,
}

impl GroupMembership {
    fn of(effective: &StoredMembership, committed: bool) -> Self {
        let membership = effective.membership();
        Self {
            configs: membership.get_joint_config().clone(),
            peers: membership.nodes().map(|(replica, peer)| (*replica, *peer)).collect(),
            committed,
        }
    }

    /// The voters of every configuration in force.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<ReplicaId> {
        self.configs.iter().flatten().copied().collect()
    }

    /// Those who receive the log and have no vote.
    #[must_use]
    pub fn learners(&self) -> BTreeSet<ReplicaId> {
        let voters = self.voters();
        self.peers.keys().copied().filter(|replica| !voters.contains(replica)).collect()
    }

    /// Whether no change of voters is under way, one that was interrupted included.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.committed && self.configs.len() == 1
    }
}

/// A replica, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// The last entry known to be durable in its log as in the leader's; 0 if none is.
    pub matched: LogIndex,
    /// When the last request that it answered was sent; `None`: it has answered none of this leader's.
    pub last_heard: Option<Instant>,
}

impl<M: Machine> Group<M> {
    /// The members that are in force at this replica, committed or not: Raft goes by the newest entry in the log.
    #[must_use]
    pub fn membership(&self) -> GroupMembership {
        let Some(raft) = &self.raft else { return GroupMembership::default() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let committed = metrics.membership_config == metrics.committed_membership_config;
        GroupMembership::of(&metrics.membership_config, committed)
    }

    /// The other members, if this replica leads; else none.
    #[must_use]
    pub fn followers(&self) -> BTreeMap<ReplicaId, Follower> {
        let Some(raft) = &self.raft else { return BTreeMap::new() };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(replication) = &metrics.replication else { return BTreeMap::new() };
        let heard = |replica: &ReplicaId| {
            let ago = metrics.heartbeat.as_ref()?.get(replica).copied().flatten()?.elapsed();
            Instant::now().checked_sub(ago)
        };
        let others = replication.iter().filter(|(replica, _)| **replica != self.replica_id);
        others
            .map(|(replica, matched)| {
                let matched = matched.map_or(LogIndex(0), |id| from_raft_index(id.index));
                (*replica, Follower { matched, last_heard: heard(replica) })
            })
            .collect()
    }

    /// Lets a replica receive the log, without a vote; returns once that is committed, which takes a quorum of the
    /// voters and no progress of the learner's. A member already: nothing to do.
    ///
    /// # Errors
    /// [`ConsensusError::NotLeader`]; [`ConsensusError::ChangeInProgress`]: later again;
    /// [`ConsensusError::InvalidRequest`]: the replica id is bound to another directory.
    pub async fn add_learner(&self, replica: ReplicaId, peer: Peer) -> Result<(), ConsensusError> {
        match self.membership() {
            members if members.peers.get(&replica).is_some_and(|known| *known != peer) => {
                return Err(ConsensusError::InvalidRequest("the replica id is bound to another directory"));
            }
            members if members.peers.contains_key(&replica) && members.committed => return Ok(()),
            _ => {}
        }
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(replica, peer)])), true).await
    }

    /// Makes `voters`, members all of them, the voters; who is none any more leaves the group. Returns once nothing
    /// of the old configuration is in force. Such voters already: nothing to do.
    ///
    /// # Errors
    /// As [`Group::add_learner`]; [`ConsensusError::InvalidRequest`]: one of them is no member.
    pub async fn change_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), ConsensusError> {
        let members = self.membership();
        if members.is_settled() && members.voters() == voters {
            return Ok(());
        }
        if !voters.iter().all(|replica| members.peers.contains_key(replica)) {
            return Err(ConsensusError::InvalidRequest("a voter must have been added as a learner first"));
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// Takes a learner out of the group. No member: nothing to do.
    ///
    /// # Errors
    /// As [`Group::add_learner`]; [`ConsensusError::InvalidRequest`]: it has a vote.
    pub async fn remove_learner(&self, replica: ReplicaId) -> Result<(), ConsensusError> {
        let members = self.membership();
        if members.voters().contains(&replica) {
            return Err(ConsensusError::InvalidRequest("the replica has a vote"));
        }
        if !members.peers.contains_key(&replica) && members.committed {
            return Ok(());
        }
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([replica])), true).await
    }

    async fn change(
        &self,
        change: ChangeMembers<ReplicaId, Peer>,
        retain: bool,
    ) -> Result<(), ConsensusError> {
        let raft = self.raft()?;
        // A sole voter ran without: with others, it must prove to be alive.
        raft.runtime_config().tick(true);
        self.wake().await;
        match raft.change_membership(change, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(error)) => Err(refused(error)),
            Err(RaftError::Fatal(_)) => Err(self.stopped()),
        }
    }
}

fn refused<R: Send + Sync + 'static>(error: ClientWriteError<Types<R>>) -> ConsensusError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => match forward.reason {
            ForwardReason::NotLeader => ConsensusError::NotLeader { leader: forward.leader_id },
            ForwardReason::LeaseExpired => ConsensusError::NoQuorum,
            ForwardReason::LeadershipTransfer => ConsensusError::ChangeInProgress,
        },
        ClientWriteError::LogEntryDiscarded(forward) => {
            ConsensusError::NotLeader { leader: forward.leader_id }
        }
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::EmptyMembership(_) => {
                ConsensusError::InvalidRequest("a group needs at least one voter")
            }
            ChangeMembershipError::LearnerNotFound(_) => {
                ConsensusError::InvalidRequest("a voter must have been added as a learner first")
            }
            _ => ConsensusError::ChangeInProgress,
        },
        // The second step of a change found another change in between.
        ClientWriteError::PreconditionFailed(_) => ConsensusError::ChangeInProgress,
    }
}
