//! A group of this broker, whatever it replicates.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use headwater_consensus::{ConsensusError, Follower, Group, GroupMembership, Quiet, Role};
use headwater_core::Machine;
use headwater_proto::types::{BrokerId, GroupId, LogIndex, ReplicaId, Term};
use headwater_storage::log::LogId;

/// What the cluster asks of a group. See [`Group`] for what each call means.
#[async_trait]
pub trait LocalGroup: Send + Sync + 'static {
    fn id(&self) -> GroupId;
    fn replica_id(&self) -> ReplicaId;
    fn role(&self) -> Role;
    async fn role_changed(&self, known: Role) -> Option<Role>;
    async fn outranked_a_candidate(&self);
    fn membership(&self) -> GroupMembership;
    fn followers(&self) -> BTreeMap<ReplicaId, Follower>;
    /// The last entry of its log.
    fn last(&self) -> LogId;
    /// Whether all of its log is applied.
    fn all_applied(&self) -> bool;
    fn quiet(&self) -> bool;
    async fn fall_quiet(&self, dead: &BTreeSet<BrokerId>) -> Option<Quiet>;
    fn rest(&self, term: Term, last: LogId) -> bool;
    fn rest_without_leader(&self) -> bool;
    async fn wake(&self);
    async fn campaign(&self);
    async fn transfer_leadership(&self, to: ReplicaId, within: Duration) -> Result<(), ConsensusError>;
}

#[async_trait]
impl<M: Machine> LocalGroup for Group<M> {
    fn id(&self) -> GroupId {
        self.id()
    }

    fn replica_id(&self) -> ReplicaId {
        self.replica_id()
    }

    fn role(&self) -> Role {
        self.role()
    }

    async fn role_changed(&self, known: Role) -> Option<Role> {
        self.role_changed(known).await
    }

    async fn outranked_a_candidate(&self) {
        self.outranked_a_candidate().await;
    }

    fn membership(&self) -> GroupMembership {
        self.membership()
    }

    fn followers(&self) -> BTreeMap<ReplicaId, Follower> {
        self.followers()
    }

    fn last(&self) -> LogId {
        self.log().bounds().last.unwrap_or_default()
    }

    fn all_applied(&self) -> bool {
        self.progress().borrow().applied.index >= LocalGroup::last(self).index
    }

    fn quiet(&self) -> bool {
        self.quiet()
    }

    async fn fall_quiet(&self, dead: &BTreeSet<BrokerId>) -> Option<Quiet> {
        self.fall_quiet_without(dead).await
    }

    fn rest(&self, term: Term, last: LogId) -> bool {
        self.rest(term, last)
    }

    fn rest_without_leader(&self) -> bool {
        self.rest_without_leader()
    }

    async fn wake(&self) {
        self.wake().await;
    }

    async fn campaign(&self) {
        self.campaign().await;
    }

    async fn transfer_leadership(&self, to: ReplicaId, within: Duration) -> Result<(), ConsensusError> {
        self.transfer_leadership(to, within).await
    }
}

/// The last index of a log; 0 of an empty one.
pub fn last_index(group: &dyn LocalGroup) -> LogIndex {
    group.last().index
}
