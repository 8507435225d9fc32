//! What a broker leads, told to its peers as differences.
//!
//! Every state of the announcements has a sequence number, which grows with each change. A receiver says which
//! one it holds, and is sent what changed since; one that holds none, or one that the sender has forgotten the
//! way from, is sent everything. Invariants: applying a delta gives exactly the state that its sequence names,
//! or nothing happens; a delta may be lost, repeated or overtaken; what another boot of the sender said is
//! forgotten. Must not know of time, nor of what the announcements mean.

use std::collections::BTreeMap;

use headwater_proto::types::{BrokerId, GroupId, ReplicaId, Term};
use headwater_storage::log::LogId;

/// Withdrawals that are remembered for receivers that have not heard of them.
const WITHDRAWN_MAX: usize = 4_096;

/// That the sender leads a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub term: Term,
    /// The replica that leads.
    pub replica: ReplicaId,
    /// Brokers whose replicas are caught up, in order.
    pub in_sync: Vec<BrokerId>,
    /// Set while the group rests: nothing is in flight, and its members hold everything up to this entry.
    pub quiet: Option<LogId>,
}

/// What leads from one state of the announcements to a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The state that this leads to; at least 1.
    pub sequence: u64,
    /// The state, or an earlier one than, it applies to; 0: to any, and `announced` is everything.
    pub base: u64,
    pub announced: Vec<(GroupId, Announcement)>,
    pub withdrawn: Vec<GroupId>,
}

/// The sender's side: what it leads, and when it last said otherwise.
#[derive(Debug)]
pub struct Announcer {
    sequence: u64,
    announced: BTreeMap<GroupId, (u64, Announcement)>,
    withdrawn: BTreeMap<GroupId, u64>,
    /// Withdrawals up to this sequence may have been forgotten.
    forgotten: u64,
}

impl Default for Announcer {
    fn default() -> Self {
        Self { sequence: 1, announced: BTreeMap::new(), withdrawn: BTreeMap::new(), forgotten: 0 }
    }
}

impl Announcer {
    /// The state as of now.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn get(&self, group: GroupId) -> Option<&Announcement> {
        self.announced.get(&group).map(|(_, announcement)| announcement)
    }

    /// The state in which the group was announced as it is now.
    pub fn announced_at(&self, group: GroupId) -> Option<u64> {
        self.announced.get(&group).map(|(at, _)| *at)
    }

    /// Whether this changes anything.
    pub fn announce(&mut self, group: GroupId, announcement: Announcement) -> bool {
        if self.get(group) == Some(&announcement) {
            return false;
        }
        self.sequence += 1;
        self.withdrawn.remove(&group);
        self.announced.insert(group, (self.sequence, announcement));
        true
    }

    /// Whether it was announced.
    pub fn withdraw(&mut self, group: GroupId) -> bool {
        if self.announced.remove(&group).is_none() {
            return false;
        }
        self.sequence += 1;
        self.withdrawn.insert(group, self.sequence);
        if self.withdrawn.len() > WITHDRAWN_MAX {
            self.forgotten = self.sequence;
            self.withdrawn.clear();
        }
        true
    }

    /// What a receiver lacks that holds the state `held`; 0: holds nothing.
    pub fn since(&self, held: u64) -> Delta {
        let knows_the_way = held > 0 && held >= self.forgotten && held <= self.sequence;
        let base = if knows_the_way { held } else { 0 };
        let changed = |at: u64| at > base;
        let announced = self.announced.iter().filter(|(_, (at, _))| changed(*at));
        let withdrawn = self.withdrawn.iter().filter(|(_, at)| base > 0 && changed(**at));
        Delta {
            sequence: self.sequence,
            base,
            announced: announced.map(|(group, (_, said))| (*group, said.clone())).collect(),
            withdrawn: withdrawn.map(|(group, _)| *group).collect(),
        }
    }
}

/// The receiver's side: what one sender says that it leads.
#[derive(Debug, Default)]
pub struct Heard {
    boot: u64,
    /// 0: nothing is held.
    sequence: u64,
    groups: BTreeMap<GroupId, Announcement>,
}

/// Groups of which the sender says something else now; `None`: it does not lead them any more.
pub type Changes = Vec<(GroupId, Option<Announcement>)>;

impl Heard {
    /// The state that is held, for the answer; 0 asks for everything.
    pub const fn held(&self) -> u64 {
        self.sequence
    }

    /// The boot of the sender that speaks; 0 before it spoke.
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Takes note of a delta of this boot. Boots have no order: a late message of a former one is believed until the
    /// next one of the boot that runs, which is asked for everything.
    pub fn hear(&mut self, boot: u64, delta: Delta) -> Changes {
        let mut changes = Changes::new();
        if boot != self.boot {
            changes = self.forget();
            self.boot = boot;
        }
        if delta.base > self.sequence || delta.sequence <= self.sequence {
            return changes;
        }
        self.sequence = delta.sequence;
        if delta.base == 0 {
            changes.extend(std::mem::take(&mut self.groups).into_keys().map(|group| (group, None)));
        }
        for group in delta.withdrawn {
            self.groups.remove(&group);
            changes.push((group, None));
        }
        for (group, said) in delta.announced {
            self.groups.insert(group, said.clone());
            changes.push((group, Some(said)));
        }
        last_word(changes)
    }

    /// Forgets what was said, as after a silence; the sender will be asked for everything.
    pub fn forget(&mut self) -> Changes {
        self.sequence = 0;
        std::mem::take(&mut self.groups).into_keys().map(|group| (group, None)).collect()
    }

    /// What the sender leads.
    #[cfg(test)]
    pub const fn groups(&self) -> &BTreeMap<GroupId, Announcement> {
        &self.groups
    }
}

/// The last change of each group.
fn last_word(changes: Changes) -> Changes {
    changes.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
}

#[cfg(test)]
#[path = "announce_tests.rs"]
mod tests;
