//! What this broker knows of the others, and what it tells them: liveness, leaders, announcements.
//!
//! Invariants: a leader is known as long as its broker is heard from and says so; what a broker said before it
//! fell silent, or in a former boot, is forgotten. No group is touched here: what follows for groups of this
//! broker is returned as the names of those that changed. Time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_proto::types::{BrokerId, GroupId};
use tokio::time::Instant;

use super::announce::{Announcement, Announcer, Changes, Delta, Heard};
use super::leaders::LeaderTable;
use super::liveness::Liveness;

/// Pings to one broker that may be under way: a lost answer must not keep the next one from being sent.
const IN_FLIGHT_MAX: u32 = 3;

/// Free and total bytes of a data directory's file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSpace {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// One other broker.
#[derive(Debug, Default)]
struct Other {
    heard: Heard,
    /// The state of our announcements that it holds, as it said last.
    holds: u64,
    in_flight: u32,
    disk: DiskSpace,
}

/// What a ping, or the lack of one, changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Groups of which somebody says something else now.
    pub groups: BTreeSet<GroupId>,
    /// Brokers that are back: new, restarted, or heard from again.
    pub back: Vec<BrokerId>,
    pub silent: Vec<BrokerId>,
}

impl Shift {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything known.
#[derive(Debug)]
pub struct View {
    own: BrokerId,
    pub liveness: Liveness,
    pub leaders: LeaderTable,
    pub announcer: Announcer,
    others: BTreeMap<BrokerId, Other>,
}

impl View {
    pub fn new(own: BrokerId, timeout: Duration) -> Self {
        Self {
            own,
            liveness: Liveness::new(own, timeout),
            leaders: LeaderTable::default(),
            announcer: Announcer::default(),
            others: BTreeMap::new(),
        }
    }

    /// The brokers of the cluster; who is none any more is forgotten.
    pub fn know(&mut self, brokers: &BTreeSet<BrokerId>) -> Shift {
        let gone: Vec<_> = self.others.keys().copied().filter(|id| !brokers.contains(id)).collect();
        let mut shift = Shift::default();
        for broker in gone {
            let said = self.others.remove(&broker).map(|mut other| other.heard.forget());
            self.note(broker, said.unwrap_or_default(), &mut shift);
        }
        self.liveness.retain(|broker| brokers.contains(&broker));
        for broker in brokers.iter().filter(|broker| **broker != self.own) {
            self.others.entry(*broker).or_default();
        }
        shift
    }

    /// A broker of the cluster pinged.
    pub fn hear(&mut self, broker: BrokerId, boot: u64, delta: Delta, now: Instant) -> Shift {
        let other = self.others.entry(broker).or_default();
        let before = other.heard.boot();
        let changes = other.heard.hear(boot, delta);
        let revived = self.liveness.heard(broker, now);
        let mut shift = Shift::default();
        if revived || before != boot {
            // A new boot holds nothing of ours.
            other.holds = if before == boot { other.holds } else { 0 };
            shift.back.push(broker);
        }
        self.note(broker, changes, &mut shift);
        shift
    }

    pub fn set_disk(&mut self, broker: BrokerId, disk: DiskSpace) {
        if let Some(other) = self.others.get_mut(&broker) {
            other.disk = disk;
        }
    }

    pub fn disk(&self, broker: BrokerId) -> DiskSpace {
        self.others.get(&broker).map_or_else(DiskSpace::default, |other| other.disk)
    }

    /// The state of the broker's announcements that is held here, for the answer to its ping.
    pub fn held_of(&self, broker: BrokerId) -> u64 {
        self.others.get(&broker).map_or(0, |other| other.heard.held())
    }

    /// Takes note of those who have said nothing for too long.
    pub fn fallen_silent(&mut self, now: Instant) -> Shift {
        let mut shift = Shift { silent: self.liveness.fallen_silent(now), ..Shift::default() };
        for broker in shift.silent.clone() {
            let said = self.others.get_mut(&broker).map(|other| other.heard.forget());
            self.note(broker, said.unwrap_or_default(), &mut shift);
        }
        shift
    }

    /// What to say to whom now. `behind_only`: those who hold the newest state are left out.
    pub fn outgoing(&mut self, behind_only: bool) -> Vec<(BrokerId, Delta)> {
        let announcer = &self.announcer;
        let due = self.others.iter_mut().filter(|(_, other)| {
            other.in_flight < IN_FLIGHT_MAX && (!behind_only || other.holds < announcer.sequence())
        });
        due.map(|(broker, other)| {
            other.in_flight += 1;
            (*broker, announcer.since(other.holds))
        })
        .collect()
    }

    /// A ping was answered (with the state that the broker holds), or was not.
    pub fn answered(&mut self, broker: BrokerId, holds: Option<u64>) {
        if let Some(other) = self.others.get_mut(&broker) {
            other.in_flight = other.in_flight.saturating_sub(1);
            other.holds = holds.unwrap_or(other.holds);
        }
    }

    /// Whether all of these brokers hold what was announced of the group last.
    pub fn know_of(&self, group: GroupId, brokers: impl Iterator<Item = BrokerId>) -> bool {
        let Some(at) = self.announcer.announced_at(group) else { return false };
        let mut others = brokers.filter(|broker| *broker != self.own);
        others.all(|broker| self.others.get(&broker).is_some_and(|other| other.holds >= at))
    }

    /// This broker leads the group. Whether that is news.
    pub fn announce(&mut self, group: GroupId, said: Announcement) -> bool {
        let news = self.announcer.announce(group, said.clone());
        if news {
            self.leaders.note(self.own, group, Some(said));
        }
        news
    }

    /// This broker does not lead the group (any more). Whether that is news.
    pub fn withdraw(&mut self, group: GroupId) -> bool {
        self.leaders.note(self.own, group, None);
        self.announcer.withdraw(group)
    }

    fn note(&mut self, broker: BrokerId, changes: Changes, shift: &mut Shift) {
        for (group, said) in changes {
            self.leaders.note(broker, group, said);
            shift.groups.insert(group);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use headwater_proto::types::{PartitionId, ReplicaId, Term, TopicId};

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(600);
    const GROUP: GroupId = GroupId { topic_id: TopicId([3; 16]), partition: PartitionId(0) };

    fn said(term: u64) -> Announcement {
        Announcement { term: Term(term), replica: ReplicaId(term), in_sync: vec![], quiet: None }
    }

    /// Two brokers that know one another.
    fn pair() -> (View, View) {
        let all = BTreeSet::from([BrokerId(1), BrokerId(2)]);
        let (mut one, mut two) = (View::new(BrokerId(1), TIMEOUT), View::new(BrokerId(2), TIMEOUT));
        one.know(&all);
        two.know(&all);
        (one, two)
    }

    /// One ping from `sender`, which is broker 1, to broker 2, and its answer.
    fn ping(sender: &mut View, boot: u64, receiver: &mut View, now: Instant) -> Shift {
        let (_, delta) = sender.outgoing(false).remove(0);
        let shift = receiver.hear(BrokerId(1), boot, delta, now);
        sender.answered(BrokerId(2), Some(receiver.held_of(BrokerId(1))));
        shift
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_known_while_its_broker_speaks() {
        let (mut one, mut two) = pair();
        let start = Instant::now();
        one.announce(GROUP, said(2));
        assert!(!one.know_of(GROUP, [BrokerId(2)].into_iter()));
        let shift = ping(&mut one, 7, &mut two, start);
        assert_eq!((shift.groups.len(), shift.back.as_slice()), (1, [BrokerId(1)].as_slice()));
        assert!(one.know_of(GROUP, [BrokerId(1), BrokerId(2)].into_iter()));
        assert_eq!(two.leaders.leader(GROUP).unwrap().broker, BrokerId(1));
        assert!(ping(&mut one, 7, &mut two, start).is_empty(), "nothing new");

        let late = start + TIMEOUT + Duration::from_millis(1);
        let shift = two.fallen_silent(late);
        assert_eq!((shift.silent.as_slice(), shift.groups.len()), ([BrokerId(1)].as_slice(), 1));
        assert_eq!(two.leaders.leader(GROUP), None);
        ping(&mut one, 7, &mut two, late);
        assert_eq!(two.leaders.leader(GROUP), None, "its difference is to what was forgotten");
        ping(&mut one, 7, &mut two, late);
        assert_eq!(two.leaders.leader(GROUP).unwrap().term, Term(2), "everything was asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_boot_forgets_what_the_old_one_led() {
        let (mut one, mut two) = pair();
        let now = Instant::now();
        one.announce(GROUP, said(2));
        ping(&mut one, 7, &mut two, now);
        let (mut reborn, _) = pair();
        let shift = ping(&mut reborn, 8, &mut two, now);
        assert_eq!((shift.back.as_slice(), shift.groups.len()), ([BrokerId(1)].as_slice(), 1));
        assert_eq!(two.leaders.leader(GROUP), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_pile_up_and_only_who_is_behind_is_told_at_once() {
        let (mut one, mut two) = pair();
        let now = Instant::now();
        ping(&mut one, 7, &mut two, now);
        assert_eq!(one.outgoing(true).len(), 0);
        one.announce(GROUP, said(2));
        for _ in 0..IN_FLIGHT_MAX {
            assert_eq!(one.outgoing(true).len(), 1);
        }
        assert_eq!(one.outgoing(false).len(), 0);
        one.answered(BrokerId(2), None);
        assert_eq!(one.outgoing(false).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_left_the_cluster_is_forgotten() {
        let (mut one, mut two) = pair();
        one.announce(GROUP, said(2));
        ping(&mut one, 7, &mut two, Instant::now());
        let shift = two.know(&BTreeSet::from([BrokerId(2)]));
        assert_eq!(shift.groups.len(), 1);
        assert_eq!(two.leaders.leader(GROUP), None);
        assert!(!two.liveness.alive(BrokerId(1)));
    }
}
