//! Who leads each group, as the brokers announce it.
//!
//! Invariants: the highest term wins, and a term once heard of is never forgotten while the group exists, so
//! that a deposed leader's word counts for nothing, even where the new leader has fallen silent; a claim lives
//! as long as its broker stands by it.

use std::collections::BTreeMap;

use headwater_proto::types::{BrokerId, GroupId, ReplicaId, Term};

use super::announce::Announcement;

/// The leader of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderInfo {
    pub broker: BrokerId,
    pub replica: ReplicaId,
    pub term: Term,
    /// Brokers whose replicas were caught up when the leader last said so, dead ones included.
    pub in_sync: Vec<BrokerId>,
    /// The group rests.
    pub quiet: bool,
}

#[derive(Debug, Default)]
struct Claims {
    highest: Term,
    by_broker: BTreeMap<BrokerId, Announcement>,
}

impl Claims {
    fn leader(&self) -> Option<LeaderInfo> {
        let (broker, said) = self.by_broker.iter().find(|(_, said)| said.term == self.highest)?;
        Some(LeaderInfo {
            broker: *broker,
            replica: said.replica,
            term: said.term,
            in_sync: said.in_sync.clone(),
            quiet: said.quiet.is_some(),
        })
    }
}

/// The leaders of all groups.
#[derive(Debug, Default)]
pub struct LeaderTable {
    groups: BTreeMap<GroupId, Claims>,
}

impl LeaderTable {
    /// What a broker says of a group from now on; `None`: that it does not lead it.
    pub fn note(&mut self, broker: BrokerId, group: GroupId, said: Option<Announcement>) {
        match said {
            Some(said) => {
                let claims = self.groups.entry(group).or_default();
                claims.highest = claims.highest.max(said.term);
                claims.by_broker.insert(broker, said);
            }
            None => {
                if let Some(claims) = self.groups.get_mut(&group) {
                    claims.by_broker.remove(&broker);
                }
            }
        }
    }

    pub fn leader(&self, group: GroupId) -> Option<LeaderInfo> {
        self.groups.get(&group)?.leader()
    }

    /// What the leader said of its group.
    pub fn announcement(&self, group: GroupId) -> Option<(BrokerId, &Announcement)> {
        let claims = self.groups.get(&group)?;
        claims.by_broker.iter().find(|(_, said)| said.term == claims.highest).map(|(id, said)| (*id, said))
    }

    /// The highest term in which anybody led the group; 0 where nobody was heard of.
    pub fn highest_term(&self, group: GroupId) -> Term {
        self.groups.get(&group).map_or(Term(0), |claims| claims.highest)
    }

    /// Every group that has a leader.
    pub fn led(&self) -> impl Iterator<Item = (GroupId, LeaderInfo)> {
        self.groups.iter().filter_map(|(group, claims)| Some((*group, claims.leader()?)))
    }

    /// Forgets groups that do not exist any more.
    pub fn retain(&mut self, exists: impl Fn(GroupId) -> bool) {
        self.groups.retain(|group, claims| !claims.by_broker.is_empty() || exists(*group));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const GROUP: GroupId = GroupId::METADATA;

    fn said(term: u64) -> Announcement {
        Announcement { term: Term(term), replica: ReplicaId(term), in_sync: vec![BrokerId(1)], quiet: None }
    }

    #[test]
    fn the_highest_term_wins_even_when_its_leader_falls_silent() {
        let mut table = LeaderTable::default();
        table.note(BrokerId(1), GROUP, Some(said(4)));
        assert_eq!(table.leader(GROUP).unwrap().broker, BrokerId(1));
        table.note(BrokerId(2), GROUP, Some(said(6)));
        assert_eq!(table.leader(GROUP).unwrap().broker, BrokerId(2));
        table.note(BrokerId(1), GROUP, Some(said(5)));
        assert_eq!(table.leader(GROUP).unwrap().broker, BrokerId(2));
        table.note(BrokerId(2), GROUP, None);
        assert_eq!(table.leader(GROUP), None, "a deposed leader leads no more");
        assert_eq!(table.highest_term(GROUP), Term(6));
        table.note(BrokerId(1), GROUP, Some(said(7)));
        assert_eq!(table.leader(GROUP).unwrap().term, Term(7));
        table.retain(|_| false);
        assert_eq!(table.led().count(), 1, "claimed still");
        table.note(BrokerId(1), GROUP, None);
        table.retain(|_| false);
        assert_eq!(table.highest_term(GROUP), Term(0));
    }

    proptest! {
        /// In whatever order claims come and go, nobody below the highest term ever heard of is taken for the leader.
        #[test]
        fn no_order_of_claims_brings_a_deposed_leader_back(
            claims in proptest::collection::vec((0..4i32, 0..9u64), 0..60)
        ) {
            let mut table = LeaderTable::default();
            let (mut highest, mut now) = (0, BTreeMap::new());
            for (broker, term) in claims {
                // A broker's own term never falls, and each term has one leader.
                let term = if term == 0 { 0 } else { term * 4 + u64::from(broker.unsigned_abs()) };
                let said = (term > 0).then(|| said(term));
                table.note(BrokerId(broker), GROUP, said);
                highest = highest.max(term);
                now.insert(broker, term);
                let expected = now.iter().find(|(_, term)| **term == highest && highest > 0);
                let found = table.leader(GROUP).map(|leader| (leader.broker.get(), leader.term.get()));
                prop_assert_eq!(found, expected.map(|(broker, term)| (*broker, *term)));
            }
        }
    }
}
