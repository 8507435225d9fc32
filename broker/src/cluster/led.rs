//! What a leader's broker watches of a group: who is caught up, and whether anything happens.
//!
//! Invariants: a follower counts as in sync while it had, not longer ago than the lag that is allowed,
//! everything that the leader had at some earlier look; a group is proposed to rest only after nothing was
//! appended to it for long enough and all its members have everything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_consensus::{Follower, GroupMembership};
use headwater_proto::types::{BrokerId, LogIndex, ReplicaId, Term};
use tokio::time::Instant;

/// A follower that has not had everything for so long is not in sync (Kafka's `replica.lag.time.max.ms` is 30 s).
pub const LAG_MAX: Duration = Duration::from_secs(10);
/// A group that was woken stays awake at least so long.
const AWAKE_MIN: Duration = Duration::from_secs(1);

/// One look at a group that this broker leads.
#[derive(Debug)]
pub struct Look<'a> {
    pub now: Instant,
    pub own: ReplicaId,
    pub last: LogIndex,
    pub all_applied: bool,
    pub members: &'a GroupMembership,
    pub followers: &'a BTreeMap<ReplicaId, Follower>,
    /// Brokers whose replicas are not waited for.
    pub dead: &'a BTreeSet<BrokerId>,
}

/// What is remembered of a group that this broker leads, in one term.
#[derive(Debug)]
pub struct Led {
    pub term: Term,
    /// The end of the log at the last look, and since when it is there.
    end: LogIndex,
    since: Instant,
    /// Nothing was appended since the leader began.
    fresh: bool,
    /// When a follower had last caught up with the end of the look before.
    caught_up: BTreeMap<ReplicaId, Instant>,
    not_before: Instant,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub in_sync: Vec<BrokerId>,
    /// Nothing happens, and every member has everything.
    pub idle: bool,
}

impl Led {
    pub fn new(term: Term, now: Instant) -> Self {
        Self { term, end: LogIndex(0), since: now, fresh: true, caught_up: BTreeMap::new(), not_before: now }
    }

    /// The group was woken: it is not to fall quiet again at once.
    pub fn woken(&mut self, now: Instant) {
        self.not_before = now + AWAKE_MIN;
    }

    /// Takes note of a look, and says what follows. A group falls idle after `idle_after` without an entry.
    pub fn look(&mut self, look: &Look<'_>, idle_after: Option<Duration>) -> Found {
        let voters = look.members.voters();
        for (replica, follower) in look.followers {
            if follower.matched >= self.end && self.end > LogIndex(0) {
                self.caught_up.insert(*replica, look.now);
            }
        }
        self.caught_up.retain(|replica, _| look.members.peers.contains_key(replica));
        let in_sync: BTreeSet<_> = look
            .members
            .peers
            .iter()
            .filter(|(replica, _)| voters.contains(replica))
            .filter(|(replica, _)| **replica == look.own || self.is_in_sync(**replica, look.now))
            .map(|(_, peer)| peer.broker_id)
            .collect();
        if look.last != self.end {
            self.fresh &= self.end == LogIndex(0);
            (self.end, self.since) = (look.last, look.now);
        }
        let everyone_has = |end: LogIndex| {
            let others = look
                .members
                .peers
                .iter()
                .filter(|(replica, peer)| **replica != look.own && !look.dead.contains(&peer.broker_id));
            others.into_iter().all(|(other, _)| look.followers.get(other).is_some_and(|f| f.matched >= end))
        };
        let silent = look.now.saturating_duration_since(self.since);
        // A thousand leaders that were elected together must not all stay awake for want of writes.
        let idle = idle_after.is_some_and(|after| self.fresh || silent >= after)
            && look.now >= self.not_before
            && look.all_applied
            && look.members.is_settled()
            && everyone_has(look.last);
        Found { in_sync: in_sync.into_iter().collect(), idle }
    }

    fn is_in_sync(&self, replica: ReplicaId, now: Instant) -> bool {
        self.caught_up.get(&replica).is_some_and(|at| now.saturating_duration_since(*at) <= LAG_MAX)
    }
}

#[cfg(test)]
mod tests {
    use headwater_consensus::Peer;
    use headwater_proto::types::Incarnation;

    use super::*;

    const IDLE: Option<Duration> = Some(Duration::from_secs(5));

    fn members(count: i32) -> GroupMembership {
        let peer = |n: i32| Peer { broker_id: BrokerId(n), incarnation: Incarnation([1; 16]) };
        let peers: BTreeMap<_, _> =
            (1..=count).map(|n| (ReplicaId(n.unsigned_abs().into()), peer(n))).collect();
        GroupMembership { configs: vec![peers.keys().copied().collect()], peers, committed: true }
    }

    fn followers(matched: [u64; 2]) -> BTreeMap<ReplicaId, Follower> {
        let follower = |matched| Follower { matched: LogIndex(matched), last_heard: None };
        BTreeMap::from([(ReplicaId(2), follower(matched[0])), (ReplicaId(3), follower(matched[1]))])
    }

    struct Sight {
        led: Led,
        start: Instant,
        members: GroupMembership,
        dead: BTreeSet<BrokerId>,
    }

    impl Sight {
        fn new() -> Self {
            let start = Instant::now();
            Self { led: Led::new(Term(3), start), start, members: members(3), dead: BTreeSet::new() }
        }

        fn at(&mut self, ms: u64, last: u64, matched: [u64; 2]) -> (Vec<i32>, bool) {
            let look = Look {
                now: self.start + Duration::from_millis(ms),
                own: ReplicaId(1),
                last: LogIndex(last),
                all_applied: true,
                members: &self.members,
                followers: &followers(matched),
                dead: &self.dead,
            };
            let found = self.led.look(&look, IDLE);
            (found.in_sync.iter().map(|broker| broker.get()).collect(), found.idle)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_up_is_in_sync_and_who_falls_behind_is_not() {
        let mut sight = Sight::new();
        assert_eq!(sight.at(0, 10, [10, 4]), (vec![1], false), "nothing is known at the first look");
        assert_eq!(sight.at(200, 20, [15, 4]).0, [1, 2], "it had all of the look before");
        assert_eq!(sight.at(400, 30, [20, 20]).0, [1, 2, 3]);
        assert_eq!(sight.at(10_300, 90, [80, 20]).0, [1, 2, 3], "the lag is allowed so long");
        assert_eq!(sight.at(10_600, 99, [90, 20]).0, [1, 2]);
        sight.members.configs = vec![BTreeSet::from([ReplicaId(1), ReplicaId(3)])];
        assert_eq!(sight.at(10_800, 99, [99, 99]).0, [1, 3], "a learner does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_idle_once_nothing_is_appended_and_everyone_has_everything() {
        let mut sight = Sight::new();
        sight.at(0, 9, [9, 9]);
        assert!(!sight.at(10, 10, [10, 10]).1);
        assert!(!sight.at(5_009, 10, [10, 10]).1);
        assert!(sight.at(5_010, 10, [10, 10]).1);
        assert!(!sight.at(5_200, 10, [10, 9]).1, "one lacks an entry");
        assert!(!sight.at(5_400, 11, [11, 11]).1, "appended just now");
        assert!(sight.at(10_400, 11, [11, 11]).1);
        sight.led.woken(sight.start + Duration::from_millis(10_400));
        assert!(!sight.at(11_399, 11, [11, 11]).1, "woken");
        assert!(sight.at(11_400, 11, [11, 11]).1, "and nothing was written");
        assert!(!sight.at(11_500, 11, [11, 4]).1, "one lacks entries");
        sight.dead.insert(BrokerId(3));
        assert!(sight.at(11_500, 11, [11, 4]).1, "it is dead, and nobody waits for it");
        sight.members.committed = false;
        assert!(!sight.at(11_600, 11, [11, 11]).1, "a change of members is under way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_without_writes_rests_soon() {
        let mut sight = Sight::new();
        assert!(!sight.at(0, 10, [10, 9]).1, "one lacks the first entry of the term");
        assert!(sight.at(200, 10, [10, 10]).1);
        assert!(!sight.at(1_200, 11, [11, 11]).1, "from the first write on, it waits for silence");
        assert!(!sight.at(3_000, 11, [11, 11]).1);
    }
}
