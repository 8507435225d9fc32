//! A broker that stops gives away what it leads.
//!
//! Invariants: it ends in time; groups that this broker is elected for meanwhile are given away, too; no group that rests
//! is woken to elect this broker.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::Group;
use headwater_core::Machine;
use headwater_proto::types::{GroupId, ReplicaId};
use tokio::time::{Instant, timeout_at};

use crate::node::Node;
use crate::partition::Partition;

/// Groups handed over at the same time.
const AT_A_TIME: usize = 32;
/// One group.
const ONE_WITHIN: Duration = Duration::from_secs(3);
/// Elected leaders that do not lead yet, or whose leases have run out, do so by then, or have lost their quorum.
const LEADS_WITHIN: Duration = Duration::from_secs(1);
/// A group that others hand over to this broker meanwhile is given away again, so often in all.
const TIMES_MAX: u32 = 3;

/// Gives the leadership of every group to another replica that can take it, as far as `within` allows.
pub async fn hand_over(node: &Node, within: Duration) {
    let now = Instant::now();
    let by = Deadlines { led: now + LEADS_WITHIN.min(within / 4), given: now + within };
    node.cluster().hold_elections(true);
    let mut given = Given::default();
    while Instant::now() < by.given {
        let partitions = node.registry().open_partitions();
        let mut led: Vec<_> =
            partitions.into_iter().filter(|partition| given.may_try(partition.group().as_ref())).collect();
        if led.is_empty() {
            break;
        }
        // Who has to be waited for comes last.
        led.sort_by_key(|partition| partition.group().leadership().is_none());
        let give = |partition: Arc<Partition>| async move {
            let group = partition.group();
            (group.id(), hand_over_group(group, by).await)
        };
        let outcomes: Vec<_> = stream::iter(led).map(give).buffer_unordered(AT_A_TIME).collect().await;
        given.note(outcomes);
    }
    // Last: who is asked where partitions are led must know.
    let metadata = node.controller().group();
    while Instant::now() < by.given && given.may_try(metadata) {
        let taken = hand_over_group(metadata, by).await;
        given.note([(metadata.id(), taken)]);
    }
}

#[derive(Debug, Clone, Copy)]
struct Deadlines {
    led: Instant,
    given: Instant,
}

/// What was tried so far.
#[derive(Debug, Default)]
struct Given {
    times: BTreeMap<GroupId, u32>,
    /// Nobody takes them.
    kept: HashSet<GroupId>,
}

impl Given {
    fn may_try<M: Machine>(&self, group: &Group<M>) -> bool {
        let shared = group.membership().voters().len() > 1;
        let often = self.times.get(&group.id()).is_some_and(|times| *times >= TIMES_MAX);
        shared && is_elected(group) && !often && !self.kept.contains(&group.id())
    }

    fn note(&mut self, outcomes: impl IntoIterator<Item = (GroupId, bool)>) {
        for (group, taken) in outcomes {
            *self.times.entry(group).or_default() += 1;
            if !taken {
                self.kept.insert(group);
            }
        }
    }
}

fn is_elected<M: Machine>(group: &Group<M>) -> bool {
    group.leader() == Some(group.replica_id())
}

/// To the voter that holds most of the log, of those that answer. Whether this replica leads no more.
async fn hand_over_group<M: Machine>(group: &Group<M>, by: Deadlines) -> bool {
    if !timeout_at(by.led, leads(group)).await.unwrap_or(false) {
        return !is_elected(group);
    }
    let voters = group.membership().voters();
    let mut others: Vec<_> = group.followers().into_iter().filter(|(id, _)| voters.contains(id)).collect();
    others.sort_by_key(|(_, follower)| {
        (std::cmp::Reverse(follower.last_heard), std::cmp::Reverse(follower.matched))
    });
    let candidates = others.into_iter().map(|(id, _)| id).filter(|id| *id != group.replica_id());
    for to in candidates.collect::<Vec<ReplicaId>>() {
        let left = by.given.saturating_duration_since(Instant::now()).min(ONE_WITHIN);
        if left.is_zero() || group.transfer_leadership(to, left).await.is_ok() {
            break;
        }
    }
    !is_elected(group)
}

/// Waits while the replica is elected, but does not lead: it has yet to apply what came before, or to hear from a quorum.
async fn leads<M: Machine>(group: &Group<M>) -> bool {
    let mut role = group.role();
    while role.leads.is_none() && is_elected(group) {
        match group.role_changed(role).await {
            Some(changed) => role = changed,
            None => return false,
        }
    }
    role.leads.is_some()
}
