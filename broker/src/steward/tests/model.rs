//! A group without a log, in which the steward's steps are made as openraft would make them.

use std::collections::{BTreeMap, BTreeSet};

use headwater_consensus::{Follower, GroupMembership};
use headwater_core::MetadataState;
use headwater_core::metadata::{Command, Replica};
use headwater_proto::types::{BrokerId, LogIndex, ReplicaId};

use super::{FIRST, TOPIC, apply, assigned};
use crate::steward::decide::{Step, View, Wanted, member, next_step};

/// The end of every log in the model.
const END: LogIndex = LogIndex(100);

/// A group of Raft without a log: who is a member, who leads, and how much each has.
#[derive(Debug, Clone)]
pub struct Raft {
    pub members: GroupMembership,
    pub leader: Option<ReplicaId>,
    has: BTreeMap<ReplicaId, LogIndex>,
    pub dead: BTreeSet<BrokerId>,
    /// Copies that their brokers were allowed to delete.
    deleted: BTreeSet<ReplicaId>,
}

impl Raft {
    pub fn of(replicas: &[Replica]) -> Self {
        let peers: BTreeMap<_, _> = replicas.iter().map(member).collect();
        let voters = peers.keys().copied().collect();
        Self {
            members: GroupMembership { configs: vec![voters], peers, committed: true },
            leader: replicas.first().map(|replica| replica.id),
            has: replicas.iter().map(|replica| (replica.id, END)).collect(),
            dead: BTreeSet::new(),
            deleted: BTreeSet::new(),
        }
    }

    fn runs(&self, replica: ReplicaId) -> bool {
        self.members.peers.get(&replica).is_some_and(|peer| !self.dead.contains(&peer.broker_id))
    }

    /// Whether an entry can be committed: a majority of each configuration runs.
    fn commits(&self) -> bool {
        self.members
            .configs
            .iter()
            .all(|config| config.iter().filter(|replica| self.runs(**replica)).count() * 2 > config.len())
    }

    /// Somebody with everything and a vote leads, if anybody can.
    pub fn elect(&mut self, preference: usize) {
        let voters = self.members.voters();
        let candidates: Vec<_> = voters
            .into_iter()
            .filter(|replica| self.runs(*replica) && self.has.get(replica) == Some(&END))
            .collect();
        self.leader =
            if self.commits() { candidates.get(preference % candidates.len().max(1)).copied() } else { None };
    }

    pub fn kill(&mut self, broker: BrokerId) {
        self.dead.insert(broker);
        if self.leader.is_some_and(|leader| !self.runs(leader)) || !self.commits() {
            self.elect(0);
        }
    }

    pub fn followers(&self) -> BTreeMap<ReplicaId, Follower> {
        let follower = |matched| Follower { matched, last_heard: None };
        self.members
            .peers
            .keys()
            .map(|replica| (*replica, follower(*self.has.get(replica).unwrap_or(&LogIndex(0)))))
            .collect()
    }

    pub fn next_step(&self, wanted: &Wanted) -> Option<Step> {
        let own = self.leader?;
        let view = View {
            own,
            members: &self.members,
            followers: &self.followers(),
            caught_up_at: Some(END),
            alive: &|broker| !self.dead.contains(&broker),
            has_room: true,
        };
        Some(next_step(wanted, &view))
    }

    /// Makes a step, as openraft would; `breaks_off`: the leader dies in the middle of a change.
    fn make(&mut self, step: &Step, breaks_off: bool) {
        match step {
            Step::AddLearner(replica, peer) => {
                assert!(!self.deleted.contains(replica), "{replica} was given up");
                self.members.peers.insert(*replica, *peer);
            }
            Step::RemoveLearner(replica) => {
                assert!(!self.members.voters().contains(replica));
                self.members.peers.remove(replica);
            }
            Step::ChangeVoters(voters) => self.change_voters(voters, breaks_off),
            Step::HandOver(to) => {
                assert!(self.members.voters().contains(to) && self.runs(*to));
                self.leader = Some(*to);
            }
            Step::Settled | Step::Wait(_) | Step::Complete { .. } => {}
        }
        assert!(
            self.leader.is_none() || self.commits(),
            "{step:?} left a group that cannot commit: {self:?}"
        );
    }

    fn change_voters(&mut self, voters: &BTreeSet<ReplicaId>, breaks_off: bool) {
        assert!(voters.iter().all(|replica| self.members.peers.contains_key(replica)));
        let before = self.members.voters();
        let joins = voters.difference(&before);
        assert!(joins.into_iter().all(|replica| self.has.get(replica) == Some(&END)), "votes too early");
        let first = self.members.configs.first().cloned().unwrap();
        self.members.configs = vec![first, voters.clone()];
        if breaks_off {
            return self.elect(1);
        }
        assert!(self.commits(), "a change that cannot be committed: {self:?}");
        self.members.configs = vec![voters.clone()];
        self.members.peers.retain(|replica, _| voters.contains(replica) || !before.contains(replica));
        if self.leader.is_some_and(|leader| !voters.contains(&leader)) {
            self.elect(0);
        }
    }

    pub fn catch_up(&mut self) {
        if self.leader.is_some() {
            let running: Vec<_> =
                self.members.peers.keys().copied().filter(|replica| self.runs(*replica)).collect();
            self.has.extend(running.into_iter().map(|replica| (replica, END)));
        }
    }
}

/// Makes the next step, whoever leads; `None`: nothing is to be done, or can be.
pub fn steward(state: &mut MetadataState, raft: &mut Raft, breaks_off: bool) -> Option<Step> {
    let wanted = Wanted::of(assigned(state));
    let step = raft.next_step(&wanted)?;
    raft.make(&step, breaks_off);
    if let Step::Complete { epoch, removed } = &step {
        let complete = Command::CompleteReassign {
            topic: TOPIC,
            partition: FIRST,
            epoch: *epoch,
            removed: removed.clone(),
        };
        apply(state, &complete).unwrap();
        raft.deleted.extend(removed);
        assert!(removed.iter().all(|replica| !raft.members.peers.contains_key(replica)));
    }
    (!matches!(step, Step::Settled | Step::Wait(_))).then_some(step)
}

/// Steps until nothing is left to do; what was done, in order.
pub fn settle(state: &mut MetadataState, raft: &mut Raft) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..64 {
        raft.catch_up();
        match steward(state, raft, false) {
            Some(step) => steps.push(step),
            None => return steps,
        }
    }
    panic!("it never ends: {steps:?}");
}
