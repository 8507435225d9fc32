//! Groups without timers: when a group that this broker leads falls quiet, when its followers here rest, and
//! when either wakes.
//!
//! A leader first announces that its group is about to be quiet, goes on with its heartbeats until all members'
//! brokers have heard of it, and only then stops its timers: a follower that heard nothing would take the
//! silence for death. Followers wake when the announcement changes or its broker falls silent, few at a time
//! and not all replicas of a group at once, so that one campaigns before the others think of it. A leader wakes
//! its groups when a broker with a member of theirs comes back: that member may lack entries.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::Quiet;
use headwater_proto::types::{BrokerId, GroupId};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::announce::Announcement;
use super::led::{Found, Look};
use super::local::{LocalGroup, last_index};
use super::view::Shift;
use super::{Cluster, Inner};

/// Groups that are woken together, and the pause until the next ones are.
const WAKE_TOGETHER: usize = 20;
const WAKE_PAUSE: Duration = Duration::from_millis(20);
/// How much later than the first replica of a group the second one wakes to campaign, and so on.
const TURN: Duration = Duration::from_millis(300);
/// A leader that lives is about to send heartbeats: its followers need not hurry.
const LEADER_LIVES: Duration = Duration::from_millis(200);
/// Groups that are put to rest at the same time.
const FALL_TOGETHER: usize = 16;

/// A group to be woken, and after how long.
pub(super) struct Wake {
    group: Arc<dyn LocalGroup>,
    after: Duration,
}

/// A group that this broker leads and that is not asleep.
struct Awake {
    id: GroupId,
    group: Arc<dyn LocalGroup>,
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
            let to_rest = self.look_at_led();
            stream::iter(to_rest).for_each_concurrent(FALL_TOGETHER, |awake| self.put_to_rest(awake)).await;
        }
    }

    /// Looks at every group that this broker leads and that is awake; returns those that may rest.
    fn look_at_led(&self) -> Vec<Awake> {
        let awake = self.awake();
        let now = Instant::now();
        let (mut to_rest, mut news) = (Vec::new(), false);
        for Awake { id, group } in awake {
            let (members, followers) = (group.membership(), group.followers());
            let look = Look {
                now,
                own: group.replica_id(),
                last: last_index(group.as_ref()),
                all_applied: group.all_applied(),
                members: &members,
                followers: &followers,
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
            // One that has nobody to wait for has no timers anyway.
            let idle_after = self.settings.quiesce_after.filter(|_| members.peers.len() > 1);
            let Found { in_sync, idle } = led.look(&look, idle_after);
            let brokers = members.peers.values().map(|peer| peer.broker_id);
            let all_alive = brokers.clone().all(|broker| view.liveness.alive(broker));
            let quiet = (idle && all_alive).then(|| group.last());
            let repeated = quiet.is_some() && said.quiet == quiet;
            if said.quiet.is_some() && !repeated {
                led.woken(now);
            }
            let known = repeated && view.know_of(id, brokers);
            news |= view.announce(id, Announcement { in_sync, quiet, ..said });
            if known {
                to_rest.push(Awake { id, group });
            }
        }
        self.tell(news);
        to_rest
    }

    fn awake(&self) -> Vec<Awake> {
        let inner = self.inner();
        let led = inner.groups.iter().filter(|(_, enlisted)| enlisted.led.is_some());
        let awake = led.filter(|(_, enlisted)| !(enlisted.asleep && enlisted.group.quiet()));
        awake.map(|(id, enlisted)| Awake { id: *id, group: Arc::clone(&enlisted.group) }).collect()
    }

    /// All members' brokers know that the group is about to be quiet: now it is, unless something came between.
    async fn put_to_rest(&self, awake: Awake) {
        let fallen = awake.group.fall_quiet().await;
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
            let wake = |group: &Arc<dyn LocalGroup>| Wake { group: Arc::clone(group), after: Duration::ZERO };
            wakes.extend(concerned.map(|enlisted| wake(&enlisted.group)));
        }
        wakes
    }

    fn rest_or_wake_one(&self, inner: &mut Inner, id: GroupId) -> Option<Wake> {
        let Inner { view, groups, restless, .. } = inner;
        let enlisted = groups.get(&id).filter(|enlisted| enlisted.led.is_none())?;
        let group = &enlisted.group;
        let leader = view.leaders.announcement(id).filter(|(broker, _)| *broker != self.own);
        if let Some((_, said)) = leader
            && let Some(last) = said.quiet
        {
            if group.rest(said.term, last) {
                restless.remove(&id);
            } else {
                restless.insert(id);
            }
            return None;
        }
        restless.remove(&id);
        if !group.quiet() {
            return None;
        }
        let after = match leader {
            Some(_) => LEADER_LIVES,
            None => TURN * turn(self.own, group.as_ref(), |broker| view.liveness.alive(broker))?,
        };
        Some(Wake { group: Arc::clone(group), after })
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

    /// Wakes groups, few at a time.
    pub(super) fn wake_later(self: &Arc<Self>, mut wakes: Vec<Wake>) {
        if wakes.is_empty() {
            return;
        }
        wakes.sort_by_key(|wake| wake.after);
        let cluster = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = wake_in_turn(wakes) => {}
                () = cluster.stop.cancelled() => {}
            }
        });
    }
}

/// Expects them in the order in which they are due.
async fn wake_in_turn(wakes: Vec<Wake>) {
    let start = Instant::now();
    let due_together = |one: &Wake, other: &Wake| one.after == other.after;
    for same in wakes.chunk_by(due_together) {
        sleep((start + same[0].after).saturating_duration_since(Instant::now())).await;
        for some in same.chunks(WAKE_TOGETHER) {
            stream::iter(some).for_each_concurrent(WAKE_TOGETHER, |wake| wake.group.wake()).await;
            sleep(WAKE_PAUSE).await;
        }
    }
}

/// The place of this broker among the living voters of a group: another one for each partition, so that the
/// groups of a dead leader find leaders on all the others. `None`: it has no vote.
fn turn(own: BrokerId, group: &dyn LocalGroup, alive: impl Fn(BrokerId) -> bool) -> Option<u32> {
    let members = group.membership();
    let voters = members.voters();
    let mut brokers: Vec<_> = members
        .peers
        .iter()
        .filter(|(replica, peer)| voters.contains(replica) && alive(peer.broker_id))
        .map(|(_, peer)| peer.broker_id)
        .collect();
    brokers.sort_unstable();
    let own = brokers.iter().position(|broker| *broker == own)?;
    let first = usize::try_from(group.id().partition.get()).unwrap_or(0) % brokers.len();
    u32::try_from((own + brokers.len() - first) % brokers.len()).ok()
}
