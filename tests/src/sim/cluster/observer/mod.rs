//! Raft's promises, checked on the real replicas between the steps of the simulation.
//!
//! The properties are those of the Raft paper (figure 3) and of openraft's own simulation, as far as they can be seen
//! from outside: at most one leader per term, log matching, leader completeness, nothing committed changes, nothing
//! is committed that a quorum doesn't hold durably, votes and durable entries survive a restart. What a crashed
//! replica holds is what was seen last: the driver looks right before each crash, so that is exact.

mod group;
mod replica;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_broker::Observation;
use headwater_proto::types::{GroupId, ReplicaId, TopicId};

use self::group::GroupModel;
use super::coverage::Counters;
use super::nodes::{Node, State};

/// Violations of one run that are kept.
const KEPT_MAX: usize = 20;

/// A broken promise, with the simulated time.
pub type Violation = String;

pub struct Observer {
    groups: BTreeMap<GroupId, GroupModel>,
    violations: Vec<Violation>,
    counters: Counters,
    /// Of each broker, what runs there now.
    present: BTreeMap<i32, BTreeMap<GroupId, ReplicaId>>,
    /// Brokers of which a replica has cut its log or entered a new term.
    turned: BTreeSet<i32>,
    /// That partitions have.
    replicas: usize,
}

impl Observer {
    pub fn new(replicas: usize, counters: Counters) -> Self {
        let (groups, present) = (BTreeMap::new(), BTreeMap::new());
        Self { groups, violations: Vec::new(), counters, present, turned: BTreeSet::new(), replicas }
    }

    /// Looks at every running broker and compares.
    pub fn look(&mut self, nodes: &[Node], now: Duration) {
        let mut by_group: BTreeMap<GroupId, Vec<(i32, Observation)>> = BTreeMap::new();
        for node in nodes {
            let Some(observations) = node.observe() else {
                self.present.remove(&node.id);
                continue;
            };
            self.remember_present(node.id, &observations);
            for observation in observations {
                by_group.entry(observation.group).or_default().push((node.id, observation));
            }
        }
        let on: BTreeSet<i32> = nodes.iter().filter(|node| node.is_on()).map(|node| node.id).collect();
        for (id, replicas) in by_group {
            let group = self.groups.entry(id).or_default();
            let (violations, turned) = (&mut self.violations, &mut self.turned);
            let mut report = Report { violations, counters: &self.counters, turned, on: &on, now, group: id };
            group.look(&replicas, &mut report);
        }
    }

    /// A replica that is replaced by another on the same broker was rebuilt there.
    fn remember_present(&mut self, node: i32, observations: &[Observation]) {
        let new: BTreeMap<_, _> = observations.iter().map(|seen| (seen.group, seen.replica_id)).collect();
        let old = self.present.insert(node, new.clone()).unwrap_or_default();
        let replaced =
            old.iter().filter(|(group, replica)| new.get(group).is_some_and(|now| now != *replica));
        for (group, _) in replaced {
            if *group != GroupId::METADATA {
                self.counters.count("path:rebuild");
            }
        }
    }

    /// The process of a broker ended, or its disk was cut: what it held durably stays.
    pub fn ended(&mut self, node: i32) {
        self.present.remove(&node);
        self.groups.values_mut().for_each(|group| group.ended(node));
    }

    /// The disk of a broker is gone: its replicas will not be seen again.
    pub fn emptied(&mut self, node: i32) {
        self.groups.values_mut().for_each(|group| group.emptied(node));
    }

    /// An entry of a replica rotted: it may be cut off, and counts as lost there.
    pub fn rotted(&mut self, group: GroupId, replica: ReplicaId) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.rotted(replica);
        }
    }

    /// Brokers of which, since the last call, a replica has cut its log or entered a new term: moments at which a
    /// crash hurts most.
    pub fn take_turned(&mut self) -> BTreeSet<i32> {
        std::mem::take(&mut self.turned)
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What runs on a broker now.
    pub fn replica_at(&self, node: i32, group: GroupId) -> Option<ReplicaId> {
        self.present.get(&node)?.get(&group).copied()
    }

    /// Whether every group has a leader and all its replicas, equal and in order. Why not, if not.
    pub fn whole(&self, nodes: &[Node]) -> Result<(), String> {
        let mut by_group: BTreeMap<GroupId, Vec<(i32, Observation)>> = BTreeMap::new();
        for node in nodes.iter().filter(|node| node.state != State::Spare) {
            if let Some(reason) = node.refused() {
                return Err(format!("broker {} did not start: {reason}", node.id));
            }
            let Some(observations) = node.observe() else {
                return Err(format!("broker {} is down", node.id));
            };
            for observation in observations {
                by_group.entry(observation.group).or_default().push((node.id, observation));
            }
        }
        let voters = |id| if id == GroupId::METADATA { METADATA_VOTERS_MIN } else { self.replicas };
        by_group.iter().try_for_each(|(id, replicas)| whole(*id, replicas, voters(*id)))
    }

    /// A number for everything seen, equal for equal runs.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.groups.values().fold(0, |digest, group| digest.rotate_left(5) ^ group.digest())
    }
}

const METADATA_VOTERS_MIN: usize = 3;

fn whole(id: GroupId, replicas: &[(i32, Observation)], voters_min: usize) -> Result<(), String> {
    let newest =
        replicas.iter().filter(|(_, seen)| seen.led_term.is_some()).max_by_key(|(_, seen)| seen.term);
    let Some((_, leader)) = newest else { return Err(format!("{id} has no leader")) };
    let [voters] = &leader.configs[..] else {
        return Err(format!("{id} changes its voters: {:?}", leader.configs));
    };
    if voters.len() < voters_min {
        return Err(format!("{id} has {} voters", voters.len()));
    }
    let running: BTreeSet<_> = replicas.iter().map(|(_, seen)| seen.replica_id).collect();
    if let Some(gone) = voters.iter().find(|voter| !running.contains(voter)) {
        return Err(format!("{id}: replica {gone} runs nowhere"));
    }
    let committed = leader.progress.applied;
    for (node, seen) in replicas {
        // Brokers beyond the voters follow the metadata as learners.
        if id != GroupId::METADATA && !voters.contains(&seen.replica_id) {
            return Err(format!("{id}: replica {} on broker {node} is no voter", seen.replica_id));
        }
        if seen.down || seen.torn {
            let what = if seen.down { "is down" } else { "lost its end and was not told of it" };
            return Err(format!("{id}: replica {} on broker {node} {what}", seen.replica_id));
        }
        if seen.progress.applied < committed {
            let applied = seen.progress.applied;
            return Err(format!("{id}: replica {} on broker {node} lags: {applied:?}", seen.replica_id));
        }
    }
    Ok(())
}

/// Where one look's findings go.
pub struct Report<'a> {
    violations: &'a mut Vec<Violation>,
    counters: &'a Counters,
    turned: &'a mut BTreeSet<i32>,
    /// Brokers that run.
    on: &'a BTreeSet<i32>,
    now: Duration,
    group: GroupId,
}

impl Report<'_> {
    pub fn violation(&mut self, what: &str) {
        if self.violations.len() < KEPT_MAX {
            let (at, group) = (self.now.as_secs_f64(), self.group);
            self.violations.push(format!("at {at:.3} s, group {group}: {what}"));
        }
    }

    pub fn is_on(&self, node: i32) -> bool {
        self.on.contains(&node)
    }

    pub fn turned(&mut self, node: i32) {
        self.turned.insert(node);
    }

    /// Counts a path; those of the metadata are counted apart.
    pub fn path(&self, what: &str) {
        if self.group.topic_id == TopicId::METADATA {
            self.counters.count(&format!("metadata:{what}"));
        } else {
            self.counters.count(&format!("path:{what}"));
        }
    }
}
