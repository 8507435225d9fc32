//! Makes every group have the members, and the leader, that metadata asks for.
//!
//! Whoever leads a group looks after it: it compares the assignment with Raft's membership and makes the one step that
//! comes next, so that a move goes on under the next leader where the last one left it. Invariants: nothing is
//! remembered that could not be seen again; **no member is added or removed on the word of metadata that may be out of
//! date**: the leader first catches up with the metadata's own; at most one step of a group is under way; at most
//! [`StewardSettings::recoveries_max`] replicas are built at once, large ones by twos, within the transport's rate of
//! recovery.
//!
//! Who leads the metadata group also issues the commands that follow from its state: what lay on a replaced disk is
//! rebuilt, and brokers that are being removed are emptied and forgotten.

mod carry_out;
mod decide;
mod guided;
mod leaders;
mod repair;
mod voters;
mod watched;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_core::MetadataState;
use headwater_core::metadata::Partition;
use headwater_proto::types::{BrokerId, GroupId, LogIndex, ReplicaId, Term};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::carry_out::Task;
use self::decide::{Step, View, Wanted, next_step};
use self::guided::Guided;
use self::leaders::{Fitness, Steadiness};
use self::watched::{Watched, is_large};
use crate::config::ClusterConfig;
use crate::node::Node;

/// Between two looks while something is to be done.
const LOOK_SOON: Duration = Duration::from_millis(200);
/// Between two looks while all is as it should be: what changes in between is noticed by the metadata's progress.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Looks are not closer to one another than this, however much changes.
const LOOK_NOT_BEFORE: Duration = Duration::from_millis(50);
/// Nor do looks take more than one part in so many of a core, however many groups there are.
const REST_FACTOR: u32 = 20;
/// Large replicas that are built at the same time: fewer get on faster, and what is written meanwhile to a partition
/// that is built faster than its share of the rate would never be caught up with. The metadata waits for none of them.
const LARGE_RECOVERIES_MAX: usize = 2;
/// Leaderships that are handed over at the same time.
const HAND_OVERS_AT_ONCE: usize = 4;
/// A hand-over that fails has held writes back: it is not tried again soon.
const HAND_OVER_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Who has not answered for longer is not made the leader.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// What failed is tried again after so long.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How much at once, and after how long.
#[derive(Debug, Clone, Copy)]
pub struct StewardSettings {
    /// Replicas that this broker builds on others at the same time.
    pub recoveries_max: usize,
    /// The preferred leader leads again once all has been calm for so long; `None`: leaders stay.
    pub balance_after: Option<Duration>,
    /// A voter of the metadata group that is silent for longer is replaced.
    pub replace_voter_after: Duration,
}

impl From<&ClusterConfig> for StewardSettings {
    fn from(config: &ClusterConfig) -> Self {
        Self {
            recoveries_max: config.recoveries_max,
            balance_after: match config.leader_balance_after_ms {
                0 => None,
                after => Some(Duration::from_millis(after)),
            },
            replace_voter_after: Duration::from_millis(config.replace_voter_after_ms),
        }
    }
}

/// Looks after the groups that this broker leads, until it stops.
pub async fn run(node: Arc<Node>) {
    let mut steward = Steward::new(Arc::clone(&node));
    let (mut metadata, mut others) = (node.controller().group().progress(), node.cluster().changes());
    loop {
        let begun = Instant::now();
        let pause = if steward.round() { LOOK_SOON } else { LOOK_AGAIN };
        let rest = LOOK_NOT_BEFORE.max(begun.elapsed() * REST_FACTOR);
        tokio::select! {
            () = node.stop().cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        tokio::select! {
            () = node.stop().cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            Some(done) = steward.tasks.join_next() => steward.note(done),
            Ok(()) = metadata.changed() => {}
            Ok(()) = others.changed() => {}
        }
    }
}

struct Steward {
    node: Arc<Node>,
    settings: StewardSettings,
    own: BrokerId,
    watched: BTreeMap<GroupId, Watched>,
    steadiness: Steadiness,
    /// Brokers that lack something; found out once in a round, and only if it matters.
    behind: OnceCell<BTreeSet<BrokerId>>,
    /// Steps under way: the groups, and whether it is a leadership that is handed over.
    busy: BTreeMap<GroupId, bool>,
    /// The commands of the metadata's leader are being issued.
    commanding: bool,
    /// The state of the metadata from which no commands followed.
    commanded: Option<LogIndex>,
    /// Rebuilds of damaged replicas that were asked for, and when.
    rebuilds: BTreeMap<GroupId, Instant>,
    tasks: JoinSet<Done>,
}

/// What a task was about, once it has ended.
enum Done {
    /// A step of a group, and whether it succeeded.
    Group(GroupId, bool),
    Commands,
    Repair,
}

/// What metadata says of a group.
struct Assigned {
    wanted: Wanted,
    partition: Partition,
}

impl Steward {
    fn new(node: Arc<Node>) -> Self {
        Self {
            settings: StewardSettings::from(&node.config().cluster),
            own: node.controller().broker_id(),
            node,
            watched: BTreeMap::new(),
            steadiness: Steadiness::default(),
            behind: OnceCell::new(),
            busy: BTreeMap::new(),
            commanding: false,
            commanded: None,
            rebuilds: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Looks at every group that this broker leads, and begins what is to be done. Whether anything is.
    fn round(&mut self) -> bool {
        while let Some(done) = self.tasks.try_join_next() {
            self.note(done);
        }
        let now = Instant::now();
        self.behind.take();
        self.note_liveness(now);
        let led = self.led();
        let ids: BTreeSet<_> = led.iter().map(|(group, _)| group.id()).collect();
        let lost: Vec<_> = self.watched.keys().copied().filter(|group| !ids.contains(group)).collect();
        for group in lost {
            self.forget(group);
        }
        let mut anything = false;
        for (group, term) in &led {
            anything |= self.look_after(group, *term, now);
        }
        anything |= self.command();
        self.repair(now);
        anything || !self.busy.is_empty()
    }

    /// The groups that this broker leads; the metadata group first.
    fn led(&self) -> Vec<(Arc<dyn Guided>, Term)> {
        let metadata: Arc<dyn Guided> = Arc::clone(self.node.controller().group()) as _;
        let partitions = self.node.registry().open_partitions();
        let partitions = partitions.iter().map(|partition| Arc::clone(partition.group()) as Arc<dyn Guided>);
        let all = std::iter::once(metadata).chain(partitions);
        all.filter_map(|group| group.leads().map(|term| (group, term))).collect()
    }

    fn note_liveness(&mut self, now: Instant) {
        let brokers: Vec<_> =
            self.node.controller().with_state(|state| state.brokers().map(|broker| broker.id).collect());
        let alive = brokers.into_iter().map(|broker| (broker, self.node.cluster().alive(broker)));
        self.steadiness.note(alive, now);
    }

    fn look_after(&mut self, group: &Arc<dyn Guided>, term: Term, now: Instant) -> bool {
        let id = group.id();
        if self.watched.get(&id).is_some_and(|watched| watched.term != term) {
            self.forget(id);
        }
        let watched = self.watched.entry(id).or_insert_with(|| Watched::new(term, group.last_index(), now));
        if self.busy.contains_key(&id) || now < watched.not_before {
            return true;
        }
        let led_since = watched.led_since;
        let Some(assigned) = self.assigned(group, led_since) else { return false };
        if let Some(step) = self.step(group, &assigned.wanted, now) {
            return match step {
                Step::Settled => self.balance(group, &assigned, led_since, now),
                Step::Wait(why) => {
                    tracing::debug!(group = %id, ?why, "a change of members waits");
                    self.balance(group, &assigned, led_since, now);
                    true
                }
                step => {
                    self.begin(group, Task::Step(step), led_since);
                    true
                }
            };
        }
        self.balance(group, &assigned, led_since, now)
    }

    fn assigned(&self, group: &Arc<dyn Guided>, led_since: Instant) -> Option<Assigned> {
        let members = || group.membership();
        self.node.controller().with_state(|state| {
            assigned(state, group.id(), members, |broker| self.is_there(broker, led_since))
        })
    }

    /// The step that comes next; `None`: nothing has changed since nothing was to be done.
    fn step(&mut self, group: &Arc<dyn Guided>, wanted: &Wanted, now: Instant) -> Option<Step> {
        let id = group.id();
        let building: usize = self.watched.values().map(|watched| watched.building).sum();
        let large: usize = self.watched.values().map(|watched| watched.building_large).sum();
        let watched = self.watched.get_mut(&id)?;
        let caught_up_at = watched.look(group.last_index(), now);
        // Who votes in the metadata group depends on who is alive, not on the assignment alone.
        if id != GroupId::METADATA && watched.settled == Some(wanted.epoch) {
            return None;
        }
        let (members, followers) = (group.membership(), group.followers());
        let behind = |index: LogIndex| group.bytes_behind(index);
        let is_alive = |broker| self.node.cluster().alive(broker);
        let (begin, end) = watched.note_builds(wanted, &members, &followers, is_alive, behind);
        let view = View {
            own: group.replica_id(),
            members: &members,
            followers: &followers,
            caught_up_at,
            alive: &is_alive,
            // No replica is built on a broker that has not heard of it: the metadata waits for nobody.
            has_room: id == GroupId::METADATA
                || building < self.settings.recoveries_max
                    && (large < LARGE_RECOVERIES_MAX || !is_large(behind(LogIndex(0)))),
        };
        let step = next_step(wanted, &view);
        watched.settled = (step == Step::Settled).then_some(wanted.epoch);
        for (replicas, catching_up) in [(begin, true), (end, false)] {
            for replica in replicas {
                self.node.transport().throttle(id, replica, catching_up);
            }
        }
        Some(step)
    }

    /// Hands leadership over where another broker should lead.
    fn balance(
        &mut self,
        group: &Arc<dyn Guided>,
        assigned: &Assigned,
        led_since: Instant,
        now: Instant,
    ) -> bool {
        let (id, partition) = (group.id(), &assigned.partition);
        let state_of =
            |broker| self.node.controller().with_state(|state| state.broker(broker).map(|b| b.state));
        let balance_after = self.settings.balance_after.filter(|_| id != GroupId::METADATA);
        let is_behind =
            |broker: BrokerId| self.behind.get_or_init(|| brokers_behind(&self.node)).contains(&broker);
        let fitness = Fitness {
            state_of: &state_of,
            steadiness: &self.steadiness,
            is_behind: &is_behind,
            balance_after,
            now,
        };
        let in_sync = OnceCell::new();
        let is_in_sync =
            |broker: BrokerId| in_sync.get_or_init(|| self.node.cluster().in_sync(id)).contains(&broker);
        let Some(to) = fitness.successor(self.own, partition, led_since, is_in_sync) else {
            return false;
        };
        let Some(replica) = partition.replicas.iter().find(|replica| replica.broker == to) else {
            return false;
        };
        let may_try = self.watched.get(&id).is_some_and(|watched| {
            now >= watched.hand_over_not_before && takes_over(group, replica.id, watched.enough(), now)
        });
        if !may_try {
            return true;
        }
        let under_way = self.busy.values().filter(|hands_over| **hands_over).count();
        if under_way < HAND_OVERS_AT_ONCE {
            self.begin(group, Task::HandOver(replica.id), led_since);
        }
        true
    }

    fn begin(&mut self, group: &Arc<dyn Guided>, task: Task, led_since: Instant) {
        let id = group.id();
        self.busy.insert(id, matches!(task, Task::HandOver(_)));
        if let (Task::Step(Step::AddLearner(replica, _)), Some(watched)) = (&task, self.watched.get_mut(&id))
            && watched.begin_build(*replica, group.bytes_behind(LogIndex(0)))
        {
            self.node.transport().throttle(id, *replica, true);
        }
        let enough = self.watched.get(&id).and_then(|watched| watched.enough());
        let carry_out = carry_out::CarryOut {
            node: Arc::clone(&self.node),
            group: Arc::clone(group),
            settings: self.settings,
            led_since,
            caught_up_at: enough,
        };
        self.tasks.spawn(async move { Done::Group(id, carry_out.run(task).await) });
    }

    /// A task has ended.
    fn note(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Group(id, succeeded)) => {
                self.busy.remove(&id);
                if let (false, Some(watched)) = (succeeded, self.watched.get_mut(&id)) {
                    watched.not_before = Instant::now() + TRY_AGAIN_AFTER;
                    watched.hand_over_not_before = Instant::now() + HAND_OVER_AGAIN_AFTER;
                }
            }
            Ok(Done::Commands) => self.commanding = false,
            Ok(Done::Repair) => {}
            Err(error) => {
                tracing::error!(%error, "a change of members broke off");
                // Which one it was is not known: the others are only looked at once more.
                self.busy.clear();
                self.commanding = false;
            }
        }
    }

    fn forget(&mut self, group: GroupId) {
        if let Some(watched) = self.watched.remove(&group) {
            for replica in watched.throttled {
                self.node.transport().throttle(group, replica, false);
            }
        }
    }

    fn is_there(&self, broker: BrokerId, led_since: Instant) -> bool {
        is_there(&self.node, broker, led_since, self.settings.replace_voter_after)
    }
}

/// Brokers with a replica that is not in sync, in a partition that has a leader to say so.
fn brokers_behind(node: &Node) -> BTreeSet<BrokerId> {
    let brokers = |partition: &Partition| partition.replicas.iter().map(|replica| replica.broker).collect();
    let groups: Vec<(GroupId, Vec<BrokerId>)> = node.controller().with_state(|state| {
        let partitions = state.groups().filter(|(group, _)| *group != GroupId::METADATA);
        partitions.map(|(group, partition)| (group, brokers(partition))).collect()
    });
    let mut behind = BTreeSet::new();
    for (group, assigned) in groups {
        let in_sync = node.cluster().in_sync(group);
        if !in_sync.is_empty() {
            behind.extend(assigned.into_iter().filter(|broker| !in_sync.contains(broker)));
        }
    }
    behind
}

/// Whether a broker is alive, or has not been silent for long.
fn is_there(node: &Node, broker: BrokerId, led_since: Instant, patience: Duration) -> bool {
    let silent = node.cluster().silent_for(broker).unwrap_or_else(|| led_since.elapsed());
    node.cluster().alive(broker) || silent.min(led_since.elapsed()) < patience
}

/// Whether a replica could lead at once: it votes, has everything, and answers.
fn takes_over(group: &Arc<dyn Guided>, replica: ReplicaId, enough: Option<LogIndex>, now: Instant) -> bool {
    let followers = group.followers();
    let Some((follower, enough)) = followers.get(&replica).zip(enough) else { return false };
    // Nobody is asked anything while the group rests.
    let answers = group.quiet()
        || follower.last_heard.is_some_and(|heard| now.saturating_duration_since(heard) <= HEARD_WITHIN);
    answers && follower.matched >= enough && group.membership().voters().contains(&replica)
}

/// What metadata says of a group; `None`: it knows nothing of it.
fn assigned(
    state: &MetadataState,
    group: GroupId,
    members: impl FnOnce() -> headwater_consensus::GroupMembership,
    is_there: impl Fn(BrokerId) -> bool,
) -> Option<Assigned> {
    let partition = state.group(group)?;
    if group != GroupId::METADATA {
        return Some(Assigned { wanted: Wanted::of(partition), partition: partition.clone() });
    }
    let wanted = voters::wanted(state, &members(), is_there);
    // Only a voter can lead, and none is preferred.
    let voters = partition.replicas.iter().filter(|replica| wanted.voters.contains_key(&replica.id));
    let partition = Partition { replicas: voters.copied().collect(), ..Partition::default() };
    Some(Assigned { wanted, partition })
}

#[cfg(test)]
mod tests;
