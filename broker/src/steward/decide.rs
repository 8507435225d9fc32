//! The next step of a group on its way from the members that it has to those that it should have.
//!
//! Pure: what is, what should be, and the one step that comes next. Nothing is remembered in between, so that any
//! leader can go on where another one stopped. Invariants: nobody votes before it has caught up; no change is begun
//! that the living voters could not commit; who leads hands over before it leaves; a move is complete only once the
//! membership without those that leave is committed.

use std::collections::{BTreeMap, BTreeSet};

use headwater_consensus::{Follower, GroupMembership, Peer};
use headwater_core::metadata::{Partition, Replica};
use headwater_proto::types::{BrokerId, LogIndex, ReplicaId};

/// The members that a group should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub voters: BTreeMap<ReplicaId, Peer>,
    /// Those that follow for good, without a vote.
    pub learners: BTreeMap<ReplicaId, Peer>,
    /// Whether voters are left as they are for now.
    pub hold_voters: bool,
    /// Members of which nothing is known yet: they stay.
    pub spared: BTreeSet<ReplicaId>,
    /// Whose copies are kept until the membership without them is committed.
    pub leaving: Vec<ReplicaId>,
    /// Of the assignment.
    pub epoch: u32,
}

impl Wanted {
    /// A partition's: all of its replicas vote.
    pub fn of(partition: &Partition) -> Self {
        Self {
            voters: partition.replicas.iter().map(member).collect(),
            leaving: partition.leaving.iter().map(|replica| replica.id).collect(),
            epoch: partition.epoch,
            ..Self::default()
        }
    }

    fn peer(&self, replica: ReplicaId) -> Option<&Peer> {
        self.voters.get(&replica).or_else(|| self.learners.get(&replica))
    }
}

/// A replica as Raft names it.
pub fn member(replica: &Replica) -> (ReplicaId, Peer) {
    (replica.id, Peer { broker_id: replica.broker, incarnation: replica.incarnation })
}

/// A group as its leader sees it.
pub struct View<'a> {
    pub own: ReplicaId,
    pub members: &'a GroupMembership,
    pub followers: &'a BTreeMap<ReplicaId, Follower>,
    /// The end of the log as it was a while ago: who has this much has caught up. `None`: the leader has not led for
    /// long enough.
    pub caught_up_at: Option<LogIndex>,
    pub alive: &'a dyn Fn(BrokerId) -> bool,
    /// Whether one more replica may be built at the moment.
    pub has_room: bool,
}

impl View<'_> {
    pub fn has_caught_up(&self, replica: ReplicaId) -> bool {
        replica == self.own
            || self
                .caught_up_at
                .zip(self.followers.get(&replica))
                .is_some_and(|(enough, follower)| follower.matched >= enough)
    }

    fn is_alive(&self, replica: ReplicaId, peer: &Peer) -> bool {
        replica == self.own || (self.alive)(peer.broker_id)
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be.
    Settled,
    Wait(Why),
    AddLearner(ReplicaId, Peer),
    RemoveLearner(ReplicaId),
    ChangeVoters(BTreeSet<ReplicaId>),
    /// The leader leaves: one of these goes on.
    HandOver(ReplicaId),
    /// The assignment of this epoch is in force, without these.
    Complete {
        epoch: u32,
        removed: Vec<ReplicaId>,
    },
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The change before this one.
    NotCommitted,
    /// A new replica lacks part of the log.
    CatchUp,
    /// Other replicas are being built.
    Room,
    /// A new replica's broker does not answer.
    Dead,
    /// Too few of the new voters answer to commit anything.
    TooFewAlive,
    /// Nobody can take over from the leader, who leaves.
    NoSuccessor,
}

/// The next step.
pub fn next_step(wanted: &Wanted, view: &View<'_>) -> Step {
    let members = view.members;
    if !members.committed {
        return Step::Wait(Why::NotCommitted);
    }
    if let [_, .., last] = members.configs.as_slice() {
        return Step::ChangeVoters(last.clone());
    }
    let voters = members.voters();
    if let Some(obsolete) = members
        .learners()
        .into_iter()
        .find(|replica| wanted.peer(*replica).is_none() && !wanted.spared.contains(replica))
    {
        return Step::RemoveLearner(obsolete);
    }
    let mut obstacle = None;
    match missing(wanted, view) {
        Some(Ok((replica, peer))) => return Step::AddLearner(replica, peer),
        Some(Err(why)) => obstacle = Some(why),
        None => {}
    }
    let target: BTreeSet<_> = wanted.voters.keys().copied().collect();
    if wanted.hold_voters || target.is_empty() {
        return obstacle.map_or(Step::Settled, Step::Wait);
    }
    if voters != target {
        return obstacle.map_or_else(|| toward(&target, &voters, wanted, view), Step::Wait);
    }
    let gone = wanted.leaving.iter().all(|replica| !members.peers.contains_key(replica));
    if !wanted.leaving.is_empty() && gone {
        return Step::Complete { epoch: wanted.epoch, removed: wanted.leaving.clone() };
    }
    obstacle.map_or(Step::Settled, Step::Wait)
}

/// The first member to be added, if there is any; or why no missing voter can be. Learners for good are added as their
/// brokers come to life, and delay nobody.
fn missing(wanted: &Wanted, view: &View<'_>) -> Option<Result<(ReplicaId, Peer), Why>> {
    let absent = |(replica, _): &(&ReplicaId, &Peer)| !view.members.peers.contains_key(*replica);
    let mut why = None;
    for (replica, peer) in wanted.voters.iter().chain(&wanted.learners).filter(absent) {
        let is_to_vote = wanted.voters.contains_key(replica);
        if !view.is_alive(*replica, peer) {
            why = why.or(is_to_vote.then_some(Why::Dead));
        } else if is_to_vote && !view.has_room {
            why = Some(Why::Room);
        } else {
            return Some(Ok((*replica, *peer)));
        }
    }
    why.map(Err)
}

/// A step towards other voters, all of whom are members.
fn toward(
    target: &BTreeSet<ReplicaId>,
    voters: &BTreeSet<ReplicaId>,
    wanted: &Wanted,
    view: &View<'_>,
) -> Step {
    if !target.iter().all(|replica| voters.contains(replica) || view.has_caught_up(*replica)) {
        return Step::Wait(Why::CatchUp);
    }
    let fit = |replica: &ReplicaId| {
        let alive = wanted.voters.get(replica).is_some_and(|peer| view.is_alive(*replica, peer));
        alive && view.has_caught_up(*replica)
    };
    if target.iter().filter(|replica| fit(replica)).count() * 2 <= target.len() {
        return Step::Wait(Why::TooFewAlive);
    }
    if target.contains(&view.own) {
        return Step::ChangeVoters(target.clone());
    }
    if let Some(successor) = target.iter().find(|replica| voters.contains(replica) && fit(replica)) {
        return Step::HandOver(*successor);
    }
    // Nobody of the new voters can lead yet: they join, and the leader leaves once one of them leads.
    let with_own: BTreeSet<_> = target.iter().copied().chain([view.own]).collect();
    if *voters == with_own { Step::Wait(Why::NoSuccessor) } else { Step::ChangeVoters(with_own) }
}
