//! A group of this broker, as far as its members and its leader are concerned, whatever it replicates.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use headwater_consensus::{ConsensusError, Follower, Group, GroupMembership, Peer};
use headwater_core::Machine;
use headwater_proto::types::{GroupId, LogIndex, ReplicaId, Term};

/// See [`Group`] for what each call means.
#[async_trait]
pub trait Guided: Send + Sync + 'static {
    fn id(&self) -> GroupId;
    fn replica_id(&self) -> ReplicaId;
    /// The term in which this replica leads.
    fn leads(&self) -> Option<Term>;
    fn membership(&self) -> GroupMembership;
    fn followers(&self) -> BTreeMap<ReplicaId, Follower>;
    fn quiet(&self) -> bool;
    /// The end of its log.
    fn last_index(&self) -> LogIndex;
    /// About how many bytes of the log lie behind an entry.
    fn bytes_behind(&self, index: LogIndex) -> u64;
    async fn add_learner(&self, replica: ReplicaId, peer: Peer) -> Result<(), ConsensusError>;
    async fn remove_learner(&self, replica: ReplicaId) -> Result<(), ConsensusError>;
    async fn change_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), ConsensusError>;
    async fn transfer_leadership(&self, to: ReplicaId, within: Duration) -> Result<(), ConsensusError>;
}

#[async_trait]
impl<M: Machine> Guided for Group<M> {
    fn id(&self) -> GroupId {
        self.id()
    }

    fn replica_id(&self) -> ReplicaId {
        self.replica_id()
    }

    fn leads(&self) -> Option<Term> {
        self.leadership().map(|leadership| leadership.term)
    }

    fn membership(&self) -> GroupMembership {
        self.membership()
    }

    fn followers(&self) -> BTreeMap<ReplicaId, Follower> {
        self.followers()
    }

    fn quiet(&self) -> bool {
        self.quiet()
    }

    fn last_index(&self) -> LogIndex {
        self.log().bounds().last.unwrap_or_default().index
    }

    fn bytes_behind(&self, index: LogIndex) -> u64 {
        let bounds = self.log().bounds();
        let last = bounds.last.unwrap_or_default().index.get();
        let size: u64 = self.log().segments().iter().map(|segment| segment.size_bytes).sum();
        let entries = (last + 1).saturating_sub(bounds.first_index.get()).max(1);
        let behind = last.saturating_sub(index.get()).min(entries);
        // Entries are about as large on average, here and there.
        (u128::from(size) * u128::from(behind) / u128::from(entries)) as u64
    }

    async fn add_learner(&self, replica: ReplicaId, peer: Peer) -> Result<(), ConsensusError> {
        self.add_learner(replica, peer).await
    }

    async fn remove_learner(&self, replica: ReplicaId) -> Result<(), ConsensusError> {
        self.remove_learner(replica).await
    }

    async fn change_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), ConsensusError> {
        self.change_voters(voters).await
    }

    async fn transfer_leadership(&self, to: ReplicaId, within: Duration) -> Result<(), ConsensusError> {
        self.transfer_leadership(to, within).await
    }
}
