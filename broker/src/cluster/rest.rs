//! Groups without timers: when a group that this broker leads falls quiet, when its followers here rest, and
//! when either wakes.
//!
//! A leader first announces that its group is about to be quiet, goes on with its heartbeats until all members'
//! brokers have heard of it, and only then stops its timers: a follower that heard nothing would take the
//! silence for death. Followers wake when the announcement changes or its broker falls silent, few at a time
//! and not all replicas of a group at once, so that one campaigns before the others think of it. A leader wakes
//! its groups when a broker with a member of theirs comes back: that member may lack entries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::Quiet;
use headwater_proto::types::{BrokerId, GroupId};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::announce::Announcement;
use super::led::{Found, Look};
use super::local::{LocalGroup, last_index};
use super::view::Shift;
use super::{Cluster, Inner};

/// Groups that are woken together, and the pause until the next ones are.
const WAKE_TOGETHER: usize = 20;
const WAKE_PAUSE: Duration = Duration::from_millis(20);
/// How much later than the first replica of a group the second one tries to be elected, and so on.
const TURN: Duration = Duration::from_secs(3);
/// A campaign counts as under way until its group rests again, but not for longer.
const CAMPAIGN_MAX: Duration = Duration::from_secs(2);
/// A leader that lives is about to send heartbeats: its followers need not hurry.
const LEADER_LIVES: Duration = Duration::from_millis(200);
/// A group that starts at rest is left alone so long: others may be about to say that they lead it.
const SETTLE: Duration = Duration::from_millis(400);
/// A broker that runs for longer has heard from all that are there.
const ACQUAINTED: Duration = Duration::from_secs(2);
/// A group without a leader wakes after this even if the brokers of most voters are not heard from.
const WAKE_ANYWAY: Duration = Duration::from_secs(15);
/// Campaigns of this broker under way at the same time: groups that are awake cost more than those at rest, and too
/// many of them keep one another from electing anybody.
pub(super) const CAMPAIGNS_MAX: usize = 48;
/// Whether a group that campaigned rests again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Groups that are put to rest at the same time.
const FALL_TOGETHER: usize = 16;

/// A group to be woken, and after how long.
pub(super) struct Wake {
    group: Arc<dyn LocalGroup>,
    after: Duration,
    /// It has no leader, and this replica is the first to try.
    campaigns: bool,
}

impl Wake {
    fn new(group: &Arc<dyn LocalGroup>, after: Duration) -> Self {
        Self { group: Arc::clone(group), after, campaigns: false }
    }

    /// Whether the group is still without a leader, and rests again. `barred`: nobody is to be elected any more.
    async fn wake(&self, campaigns: &Semaphore, barred: impl Fn() -> bool) -> bool {
        if !self.campaigns {
            self.group.wake().await;
            return false;
        }
        // The semaphore is never closed.
        let _few_at_a_time = campaigns.acquire().await;
        if !self.group.quiet() || barred() {
            // Somebody else was elected meanwhile.
            return false;
        }
        self.group.campaign().await;
        let rests_again = async {
            while !self.group.quiet() {
                sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(CAMPAIGN_MAX, rests_again).await.is_err() && self.group.rest_without_leader()
    }
}

/// A group that this broker leads and that is not asleep.
struct Awake {
    id: GroupId,
    group: Arc<dyn LocalGroup>,
    /// Brokers of members that are not waited for.
    dead: BTreeSet<BrokerId>,
}

impl Cluster {
    pub(super) async fn run_sweeps(self: Arc<Self>) {
        let mut tick = interval(self.settings.ping_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stop.cancelled() => return,
            }
            self.retry_rest();
            self.settle();
            let to_rest = self.look_at_led();
            stream::iter(to_rest).for_each_concurrent(FALL_TOGETHER, |awake| self.put_to_rest(awake)).await;
        }
    }

    /// Looks at every group that this broker leads and that is awake; returns those that may rest.
    fn look_at_led(&self) -> Vec<Awake> {
        let awake = self.awake();
        let now = Instant::now();
        let (mut to_rest, mut news) = (Vec::new(), false);
        for Awake { id, group, .. } in awake {
            let (members, followers) = (group.membership(), group.followers());
            let brokers: BTreeSet<_> = members.peers.values().map(|peer| peer.broker_id).collect();
            let dead = self.dead_of(&brokers);
            let look = Look {
                now,
                own: group.replica_id(),
                last: last_index(group.as_ref()),
                all_applied: group.all_applied(),
                members: &members,
                followers: &followers,
                dead: &dead,
            };
            let mut inner = self.inner();
            let Inner { view, groups, .. } = &mut *inner;
            let Some(enlisted) = groups.get_mut(&id) else { continue };
            let Some(led) = &mut enlisted.led else { continue };
            if std::mem::take(&mut enlisted.asleep) {
                led.woken(now);
            }
            let Some(said) = view.announcer.get(id).filter(|said| said.term == led.term).cloned() else {
                continue;
            };
            // One that has nobody to wait for has no timers anyway, and the metadata is one group only.
            let may_rest = members.peers.len() > 1 && id != GroupId::METADATA;
            let idle_after = self.settings.quiesce_after.filter(|_| may_rest);
            let Found { in_sync, idle } = led.look(&look, idle_after);
            let quiet = idle.then(|| group.last());
            let repeated = quiet.is_some() && said.quiet == quiet;
            if said.quiet.is_some() && !repeated {
                led.woken(now);
            }
            let known = repeated && view.know_of(id, brokers.difference(&dead).copied());
            news |= view.announce(id, Announcement { in_sync, quiet, ..said });
            if known {
                to_rest.push(Awake { id, group, dead });
            }
        }
        self.tell(news);
        to_rest
    }

    fn awake(&self) -> Vec<Awake> {
        let inner = self.inner();
        let led = inner.groups.iter().filter(|(_, enlisted)| enlisted.led.is_some());
        let awake = led.filter(|(_, enlisted)| !(enlisted.asleep && enlisted.group.quiet()));
        let awake = awake.map(|(id, enlisted)| {
            let group = Arc::clone(&enlisted.group);
            Awake { id: *id, group, dead: BTreeSet::new() }
        });
        awake.collect()
    }

    fn dead_of(&self, brokers: &BTreeSet<BrokerId>) -> BTreeSet<BrokerId> {
        let inner = self.inner();
        brokers.iter().copied().filter(|broker| !inner.view.liveness.alive(*broker)).collect()
    }

    /// All members' brokers know that the group is about to be quiet: now it is, unless something came between.
    async fn put_to_rest(&self, awake: Awake) {
        let fallen = awake.group.fall_quiet(&awake.dead).await;
        if !self.is_asleep(awake.id, fallen) && fallen.is_some() {
            awake.group.wake().await;
        }
    }

    /// Whether the group fell quiet just as it was announced; else the announcement is taken back.
    fn is_asleep(&self, id: GroupId, fallen: Option<Quiet>) -> bool {
        let mut inner = self.inner();
        let Inner { view, groups, .. } = &mut *inner;
        let (Some(enlisted), Some(said)) = (groups.get_mut(&id), view.announcer.get(id).cloned()) else {
            return false;
        };
        let as_said = |quiet: Quiet| said.quiet == Some(quiet.last) && said.term == quiet.term;
        if fallen.is_some_and(as_said) {
            enlisted.asleep = true;
            return true;
        }
        if let Some(led) = &mut enlisted.led {
            led.woken(Instant::now());
        }
        let news = view.announce(id, Announcement { quiet: None, ..said });
        drop(inner);
        self.tell(news);
        false
    }

    /// What a change of the view means for followers here, and for leaders of groups whose member came back.
    pub(super) fn rest_or_wake(&self, inner: &mut Inner, shift: &Shift) -> Vec<Wake> {
        let mut wakes = Vec::new();
        for id in &shift.groups {
            wakes.extend(self.rest_or_wake_one(inner, *id));
        }
        if !shift.back.is_empty() {
            let asleep = inner.groups.values().filter(|enlisted| enlisted.asleep);
            let concerned = asleep.filter(|enlisted| {
                let members = enlisted.group.membership();
                members.peers.values().any(|peer| shift.back.contains(&peer.broker_id))
            });
            wakes.extend(concerned.map(|enlisted| Wake::new(&enlisted.group, Duration::ZERO)));
        }
        wakes
    }

    fn rest_or_wake_one(&self, inner: &mut Inner, id: GroupId) -> Option<Wake> {
        let Inner { view, groups, restless, unsettled, elections_held, .. } = inner;
        let enlisted = groups.get(&id).filter(|enlisted| enlisted.led.is_none())?;
        let group = &enlisted.group;
        let leader = view.leaders.announcement(id).filter(|(broker, _)| *broker != self.own);
        if let Some((_, said)) = leader
            && let Some(last) = said.quiet
        {
            unsettled.remove(&id);
            if group.rest(said.term, last) {
                restless.remove(&id);
            } else {
                restless.insert(id);
            }
            return None;
        }
        restless.remove(&id);
        if !group.quiet() {
            unsettled.remove(&id);
            return None;
        }
        if leader.is_some() {
            unsettled.remove(&id);
            return Some(Wake::new(group, LEADER_LIVES));
        }
        let since = *unsettled.entry(id).or_insert_with(Instant::now);
        if *elections_held {
            return None;
        }
        let turn = turn(self.own, group.as_ref(), |broker| view.liveness.alive(broker))?;
        // Where too few live to elect anybody, the others are waited for, at rest.
        let due = if turn.has_majority { TURN * turn.place } else { WAKE_ANYWAY };
        if since.elapsed() < due {
            return None;
        }
        unsettled.remove(&id);
        Some(Wake { campaigns: true, ..Wake::new(group, Duration::ZERO) })
    }

    /// Groups that have waited long enough to hear of a leader, or for the brokers of most voters.
    fn settle(self: &Arc<Self>) {
        let wakes: Vec<_> = {
            let mut inner = self.inner();
            let waiting: Vec<_> = inner.unsettled.iter().map(|(id, since)| (*id, *since)).collect();
            let knows_others = self.uptime() >= ACQUAINTED;
            let due = waiting.into_iter().filter(|(_, since)| knows_others || since.elapsed() >= SETTLE);
            due.filter_map(|(id, _)| self.rest_or_wake_one(&mut inner, id)).collect()
        };
        self.wake_later(wakes);
    }

    /// Followers that could not rest when they were told, for want of an entry or of its commit.
    fn retry_rest(&self) {
        let mut inner = self.inner();
        for id in inner.restless.clone() {
            // Whoever has to wake was woken when the announcement changed.
            let _ = self.rest_or_wake_one(&mut inner, id);
        }
        let Inner { groups, restless, .. } = &mut *inner;
        restless.retain(|id| groups.contains_key(id));
    }

    /// Somebody asks for the leader of a group that has none: its replica here does not wait for its turn, where it may
    /// campaign at all.
    pub fn want_leader(self: &Arc<Self>, id: GroupId) {
        let group = {
            let mut inner = self.inner();
            let barred = inner.elections_held || inner.view.leaders.leader(id).is_some();
            let group = inner.groups.get(&id).filter(|_| !barred).map(|enlisted| Arc::clone(&enlisted.group));
            // Once is enough, however many ask meanwhile.
            group.filter(|group| group.quiet() && inner.wanted.insert(id))
        };
        let Some(group) = group else { return };
        let cluster = Arc::clone(self);
        self.tasks.spawn(async move {
            let wake = Wake { campaigns: true, ..Wake::new(&group, Duration::ZERO) };
            tokio::select! {
                () = cluster.campaign(&wake) => {}
                () = cluster.stop.cancelled() => {}
            }
            cluster.inner().wanted.remove(&id);
        });
    }

    /// Wakes groups, few at a time.
    pub(super) fn wake_later(self: &Arc<Self>, mut wakes: Vec<Wake>) {
        if wakes.is_empty() {
            return;
        }
        wakes.sort_by_key(|wake| (wake.campaigns, wake.after));
        let cluster = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = cluster.wake_in_turn(wakes) => {}
                () = cluster.stop.cancelled() => {}
            }
        });
    }

    /// Expects them in the order in which they are due.
    async fn wake_in_turn(&self, wakes: Vec<Wake>) {
        let start = Instant::now();
        let due_together =
            |one: &Wake, other: &Wake| (one.after, one.campaigns) == (other.after, other.campaigns);
        for same in wakes.chunk_by(due_together) {
            sleep((start + same[0].after).saturating_duration_since(Instant::now())).await;
            if same[0].campaigns {
                // The semaphore paces them.
                stream::iter(same).for_each_concurrent(CAMPAIGNS_MAX, |wake| self.campaign(wake)).await;
                continue;
            }
            for some in same.chunks(WAKE_TOGETHER) {
                stream::iter(some).for_each_concurrent(WAKE_TOGETHER, |wake| self.campaign(wake)).await;
                sleep(WAKE_PAUSE).await;
            }
        }
    }

    /// One that was not elected is tried again later, by whoever's turn it is.
    async fn campaign(&self, wake: &Wake) {
        let barred = || {
            let inner = self.inner();
            inner.elections_held || inner.view.leaders.leader(wake.group.id()).is_some()
        };
        if wake.wake(&self.campaigns, barred).await {
            self.inner().unsettled.insert(wake.group.id(), Instant::now());
        }
    }
}

/// The part of this broker in finding a leader.
struct Turn {
    /// Among the living voters, in the order in which they were assigned: the preferred leader comes first.
    place: u32,
    /// Whether the living are enough to elect one.
    has_majority: bool,
}

/// `None`: this broker has no vote.
fn turn(own: BrokerId, group: &dyn LocalGroup, alive: impl Fn(BrokerId) -> bool) -> Option<Turn> {
    let members = group.membership();
    let voters = members.voters();
    // Replica ids are allocated in the order of the assignment.
    let living: Vec<_> = members
        .peers
        .iter()
        .filter(|(replica, peer)| voters.contains(replica) && alive(peer.broker_id))
        .map(|(_, peer)| peer.broker_id)
        .collect();
    let place = living.iter().position(|broker| *broker == own)?;
    Some(Turn { place: u32::try_from(place).ok()?, has_majority: living.len() > voters.len() / 2 })
}
