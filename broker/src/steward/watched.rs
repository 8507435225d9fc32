//! What is remembered of a group while this broker leads it: how far it was, and what was tried.
//!
//! Invariant: all of it may be lost at any time; it only spares looks and paces what is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_consensus::{Follower, GroupMembership};
use headwater_proto::types::{BrokerId, LogIndex, ReplicaId, Term};
use tokio::time::Instant;

use super::decide::Wanted;

/// A replica that has what the leader had so long ago has caught up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_millis(200);
/// The last part of a rebuild goes as fast as it can: else a group that is written faster than replicas are built
/// would never be caught up with.
const LAST_PART_BYTES: u64 = 1 << 20;
/// And a replica that was so close counts as far behind again only here.
const FAR_BEHIND_BYTES: u64 = 32 << 20;

/// Whether a replica that lacks so much shares the rate of recovery while it is built.
pub const fn is_large(bytes: u64) -> bool {
    bytes > LAST_PART_BYTES
}

/// A group that this broker leads.
#[derive(Debug)]
pub struct Watched {
    pub term: Term,
    pub led_since: Instant,
    /// Nothing is tried before.
    pub not_before: Instant,
    /// Nobody is asked to take over before.
    pub hand_over_not_before: Instant,
    /// The end of the log at some earlier look, and when that was.
    end: (LogIndex, Instant),
    /// The end of the log as it was a while before that.
    enough: Option<LogIndex>,
    /// Replicas that are being built, and share the rate of recovery.
    pub throttled: BTreeSet<ReplicaId>,
    /// Replicas that are being built on brokers that are there.
    pub building: usize,
    /// Those of them that share the rate of recovery.
    pub building_large: usize,
    /// Nothing was to be done for the assignment of this epoch.
    pub settled: Option<u32>,
}

impl Watched {
    pub const fn new(term: Term, end: LogIndex, now: Instant) -> Self {
        Self {
            term,
            led_since: now,
            not_before: now,
            hand_over_not_before: now,
            end: (end, now),
            enough: None,
            throttled: BTreeSet::new(),
            building: 0,
            building_large: 0,
            settled: None,
        }
    }

    /// Takes note of the end of the log; who has as much as is returned has caught up.
    pub fn look(&mut self, end: LogIndex, now: Instant) -> Option<LogIndex> {
        if now.saturating_duration_since(self.end.1) >= CAUGHT_UP_WITHIN {
            self.enough = Some(self.end.0);
            self.end = (end, now);
        }
        self.enough
    }

    /// What the last look returned.
    pub const fn enough(&self) -> Option<LogIndex> {
        self.enough
    }

    /// A replica is about to be built. Whether its traffic counts as recovery, from its first byte on.
    pub fn begin_build(&mut self, replica: ReplicaId, bytes: u64) -> bool {
        self.building += 1;
        let throttled = is_large(bytes) && self.throttled.insert(replica);
        self.building_large += usize::from(throttled);
        throttled
    }

    /// Takes note of the replicas that are being built. Returns those whose traffic counts as recovery from now on, and
    /// those whose does no more.
    pub fn note_builds(
        &mut self,
        wanted: &Wanted,
        members: &GroupMembership,
        followers: &BTreeMap<ReplicaId, Follower>,
        is_alive: impl Fn(BrokerId) -> bool,
        bytes_behind: impl Fn(LogIndex) -> u64,
    ) -> (Vec<ReplicaId>, Vec<ReplicaId>) {
        let matched =
            |replica: ReplicaId| followers.get(&replica).map_or(LogIndex(0), |follower| follower.matched);
        let learners = members.learners();
        let is_there =
            |replica: &ReplicaId| members.peers.get(replica).is_some_and(|peer| is_alive(peer.broker_id));
        let is_built = |replica: &ReplicaId| {
            wanted.voters.contains_key(replica)
                && self.enough.is_none_or(|enough| matched(*replica) < enough)
                && is_there(replica)
        };
        self.building = learners.iter().filter(|replica| is_built(replica)).count();
        let is_throttled = |replica: &ReplicaId| {
            let limit = if self.throttled.contains(replica) { LAST_PART_BYTES } else { FAR_BEHIND_BYTES };
            bytes_behind(matched(*replica)) > limit
        };
        let throttled: BTreeSet<_> = learners.into_iter().filter(is_throttled).collect();
        self.building_large = throttled.iter().filter(|replica| is_there(replica)).count();
        let begins = throttled.difference(&self.throttled).copied().collect();
        let ends = self.throttled.difference(&throttled).copied().collect();
        self.throttled = throttled;
        (begins, ends)
    }
}

#[cfg(test)]
mod tests {
    use headwater_consensus::Peer;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn enough_is_what_the_leader_had_a_while_ago() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watched = Watched::new(Term(1), LogIndex(10), at(0));
        assert_eq!(watched.look(LogIndex(20), at(100)), None, "it leads for too short a time");
        assert_eq!(watched.look(LogIndex(30), at(200)), Some(LogIndex(10)));
        assert_eq!(watched.look(LogIndex(40), at(300)), Some(LogIndex(10)));
        assert_eq!(watched.look(LogIndex(50), at(400)), Some(LogIndex(30)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_shares_the_rate_of_recovery_until_its_last_part() {
        let now = Instant::now();
        let mut watched = Watched::new(Term(1), LogIndex(100), now);
        watched.look(LogIndex(100), now + CAUGHT_UP_WITHIN);
        let peers = [1, 2].map(|id| (ReplicaId(id), Peer::default())).into();
        let members =
            GroupMembership { configs: vec![BTreeSet::from([ReplicaId(1)])], peers, committed: true };
        let voters: BTreeMap<_, _> = members.peers.clone();
        let wanted = Wanted { voters, ..Wanted::default() };
        let alive = std::cell::Cell::new(true);
        let mut look = |matched: u64| {
            let follower = Follower { matched: LogIndex(matched), last_heard: None };
            let followers = BTreeMap::from([(ReplicaId(2), follower)]);
            let behind = |index: LogIndex| (100 - index.get()) << 20;
            let (begins, ends) = watched.note_builds(&wanted, &members, &followers, |_| alive.get(), behind);
            assert_eq!(watched.building_large, usize::from(alive.get() && !watched.throttled.is_empty()));
            (begins.len(), ends.len(), watched.building)
        };
        assert_eq!(look(0), (1, 0, 1));
        alive.set(false);
        assert_eq!(look(0), (0, 0, 0), "others are built meanwhile");
        alive.set(true);
        assert_eq!(look(70), (0, 0, 1));
        assert_eq!(look(99), (0, 1, 1), "the last part");
        assert_eq!(look(80), (0, 0, 1), "writers were faster for a moment");
        assert_eq!(look(60), (1, 0, 1));
        assert_eq!(look(100), (0, 1, 0), "it has caught up");
    }
}
