//! The other brokers: which are alive, who leads what, and which groups need no timers.
//!
//! Brokers ping one another. A ping says that its sender lives and what it leads, as a difference to what the
//! receiver holds, so that a thousand idle groups cost no more than none. Nothing of this is stored: a thousand
//! elections write nothing. Invariants: the highest term announced wins; an announcement counts as long as its
//! broker is heard from, stands by it and has not started anew; a follower rests only while its leader's broker
//! is alive and says that the group is quiet. Must not decide anything about a group's log: a stale view costs
//! time, never records.

mod announce;
mod leaders;
mod led;
mod liveness;
mod local;
mod ping;
mod rest;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use headwater_consensus::Role;
use headwater_proto::types::{BrokerId, GroupId, Term};
use headwater_proto::v1::{Ping, Pong};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ClusterConfig;

use announce::Announcement;
use led::Led;
use view::View;

pub use leaders::LeaderInfo;
pub use local::LocalGroup;
pub use ping::{group as read_group_name, name as group_name};
pub use view::DiskSpace;

/// How often, and how long.
#[derive(Debug, Clone, Copy)]
pub struct ClusterSettings {
    pub ping_interval: Duration,
    /// Silence that is taken for death.
    pub ping_timeout: Duration,
    /// A group without writes for longer falls quiet; `None`: never.
    pub quiesce_after: Option<Duration>,
}

impl From<&ClusterConfig> for ClusterSettings {
    fn from(config: &ClusterConfig) -> Self {
        let quiesce_after = Duration::from_millis(config.quiesce_after_ms);
        Self {
            ping_interval: Duration::from_millis(config.ping_interval_ms),
            ping_timeout: Duration::from_millis(config.ping_timeout_ms),
            quiesce_after: (!quiesce_after.is_zero()).then_some(quiesce_after),
        }
    }
}

/// The way to other brokers.
#[async_trait]
pub trait Pinger: Send + Sync + 'static {
    /// `None`: no answer.
    async fn ping(&self, broker: BrokerId, ping: Ping, within: Duration) -> Option<Pong>;
}

/// A group of this broker.
struct Enlisted {
    group: Arc<dyn LocalGroup>,
    /// While this broker leads it.
    led: Option<Led>,
    /// It fell quiet under this broker's leadership.
    asleep: bool,
    dismissed: CancellationToken,
}

struct Inner {
    view: View,
    groups: BTreeMap<GroupId, Enlisted>,
    /// Followers that are to rest, and could not yet.
    restless: BTreeSet<GroupId>,
    /// Groups at rest of which it is not clear whether anybody leads them: since when.
    unsettled: BTreeMap<GroupId, Instant>,
    /// Groups at rest without a leader stay so.
    elections_held: bool,
    /// Groups whose leader somebody asks for, and whose replica here is about to campaign.
    wanted: BTreeSet<GroupId>,
    disk: DiskSpace,
}

/// This broker's view of the cluster.
pub struct Cluster {
    own: BrokerId,
    settings: ClusterSettings,
    pinger: Arc<dyn Pinger>,
    inner: Mutex<Inner>,
    /// Counts the changes of leaders and liveness.
    changed: watch::Sender<u64>,
    /// There is news for the others.
    news: Notify,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Bounds the campaigns under way.
    campaigns: Semaphore,
    started: Instant,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Nothing is sent before [`Cluster::start`].
    pub fn new(own: BrokerId, settings: ClusterSettings, pinger: Arc<dyn Pinger>) -> Arc<Self> {
        let inner = Inner {
            view: View::new(own, settings.ping_timeout),
            groups: BTreeMap::new(),
            restless: BTreeSet::new(),
            unsettled: BTreeMap::new(),
            elections_held: false,
            wanted: BTreeSet::new(),
            disk: DiskSpace::default(),
        };
        Arc::new(Self {
            own,
            settings,
            pinger,
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
            news: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            campaigns: Semaphore::new(rest::CAMPAIGNS_MAX),
            started: Instant::now(),
        })
    }

    /// Pings from now on.
    pub fn start(self: &Arc<Self>) {
        self.tasks.spawn(Arc::clone(self).run_pings());
        self.tasks.spawn(Arc::clone(self).run_sweeps());
    }

    /// Falls silent.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The brokers of the cluster as metadata has them, and whether a group exists there.
    pub fn know(self: &Arc<Self>, brokers: &BTreeSet<BrokerId>, exists: impl Fn(GroupId) -> bool) {
        let shift = {
            let mut inner = self.inner();
            inner.view.leaders.retain(exists);
            inner.view.know(brokers)
        };
        self.follow(shift);
    }

    /// Whether groups at rest that nobody leads are left alone: the replicas here may have been given up.
    pub fn hold_elections(&self, held: bool) {
        self.inner().elections_held = held;
    }

    /// A replica of a group runs here: it is announced while it leads, and rests with its group.
    pub fn enlist(self: &Arc<Self>, group: Arc<dyn LocalGroup>) {
        let id = group.id();
        let dismissed = self.stop.child_token();
        let enlisted =
            Enlisted { group: Arc::clone(&group), led: None, asleep: false, dismissed: dismissed.clone() };
        {
            let mut inner = self.inner();
            if let Some(before) = inner.groups.insert(id, enlisted) {
                before.dismissed.cancel();
            }
            if group.quiet() {
                inner.unsettled.insert(id, Instant::now());
            }
        }
        // One that leads already is known from now on.
        self.note_role(&group, group.role());
        let cluster = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = cluster.follow_role(&group) => {}
                () = dismissed.cancelled() => {}
            }
        });
    }

    /// The replica does not run here any more.
    pub fn dismiss(&self, group: &Arc<dyn LocalGroup>) {
        let mut inner = self.inner();
        let id = group.id();
        if inner.groups.get(&id).is_some_and(|enlisted| Arc::ptr_eq(&enlisted.group, group))
            && let Some(enlisted) = inner.groups.remove(&id)
        {
            enlisted.dismissed.cancel();
            inner.restless.remove(&id);
            inner.unsettled.remove(&id);
            let news = inner.view.withdraw(id);
            drop(inner);
            self.tell(news);
        }
    }

    /// The replica of a group that runs here.
    pub fn local(&self, group: GroupId) -> Option<Arc<dyn LocalGroup>> {
        self.inner().groups.get(&group).map(|enlisted| Arc::clone(&enlisted.group))
    }

    /// Since this broker started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Who leads a group, as far as it is known.
    pub fn leader(&self, group: GroupId) -> Option<LeaderInfo> {
        self.inner().view.leaders.leader(group)
    }

    /// The highest term in which anybody led the group, as far as it is known.
    pub fn highest_term(&self, group: GroupId) -> Term {
        self.inner().view.leaders.highest_term(group)
    }

    /// Brokers whose replicas of the group are caught up and alive; none where there is no leader to say so.
    pub fn in_sync(&self, group: GroupId) -> Vec<BrokerId> {
        let inner = self.inner();
        let leader = inner.view.leaders.leader(group);
        let mut in_sync = leader.map_or_else(Vec::new, |leader| leader.in_sync);
        in_sync.retain(|broker| inner.view.liveness.alive(*broker));
        in_sync
    }

    pub fn alive(&self, broker: BrokerId) -> bool {
        self.inner().view.liveness.alive(broker)
    }

    /// Since the broker was heard from; `None`: it never was.
    pub fn silent_for(&self, broker: BrokerId) -> Option<Duration> {
        self.inner().view.liveness.silent_for(broker, Instant::now())
    }

    /// Every group with a known leader.
    pub fn led(&self) -> BTreeMap<GroupId, LeaderInfo> {
        self.inner().view.leaders.led().collect()
    }

    /// Groups of this broker whose timers rest.
    pub fn quiet_count(&self) -> usize {
        self.inner().groups.values().filter(|enlisted| enlisted.group.quiet()).count()
    }

    /// Changes whenever a leader, or whether a broker is alive, does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What the others are told of this broker's disk.
    pub fn set_disk(&self, disk: DiskSpace) {
        self.inner().disk = disk;
    }

    /// The disk of a broker, as it said last.
    pub fn disk(&self, broker: BrokerId) -> DiskSpace {
        let inner = self.inner();
        if broker == self.own { inner.disk } else { inner.view.disk(broker) }
    }

    /// Announces and withdraws as the replica's role changes, until it stops. A candidate that holds less is not waited
    /// for: it cannot be elected where this one can.
    async fn follow_role(self: &Arc<Self>, group: &Arc<dyn LocalGroup>) {
        let mut role = group.role();
        loop {
            self.note_role(group, role);
            let changed = loop {
                tokio::select! {
                    changed = group.role_changed(role) => break changed,
                    () = group.outranked_a_candidate() => self.want_leader(group.id()),
                }
            };
            match changed {
                Some(changed) => role = changed,
                None => return self.note_role(group, Role::default()),
            }
        }
    }

    fn note_role(&self, group: &Arc<dyn LocalGroup>, role: Role) {
        let id = group.id();
        let mut inner = self.inner();
        let Inner { view, groups, .. } = &mut *inner;
        let Some(enlisted) = groups.get_mut(&id).filter(|enlisted| Arc::ptr_eq(&enlisted.group, group))
        else {
            return;
        };
        let news = match role.leads {
            Some(term) if enlisted.led.as_ref().is_some_and(|led| led.term == term) => false,
            Some(term) => {
                (enlisted.led, enlisted.asleep) = (Some(Led::new(term, Instant::now())), false);
                metrics::counter!("headwater_elections_won_total").increment(1);
                let said =
                    Announcement { term, replica: group.replica_id(), in_sync: vec![self.own], quiet: None };
                view.announce(id, said)
            }
            None => {
                (enlisted.led, enlisted.asleep) = (None, false);
                view.withdraw(id)
            }
        };
        drop(inner);
        self.tell(news);
    }

    /// Something changed that the others, and whoever waits here, should know.
    fn tell(&self, news: bool) {
        if news {
            self.changed.send_modify(|count| *count += 1);
            self.news.notify_one();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
