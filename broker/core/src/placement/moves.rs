//! Changes of assignments: which partitions move where, and nothing more than that.

use std::collections::BTreeSet;

use headwater_proto::types::{BrokerId, GroupId, PartitionId};

use super::{Candidate, NotEnoughBrokers, Pool, TopicLoad, topic_load};
use crate::metadata::{Command, MetadataState, Partition, Topic};

/// New brokers of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub group: GroupId,
    /// The epoch of the assignment that it changes.
    pub epoch: u32,
    /// The preferred leader first.
    pub brokers: Vec<BrokerId>,
}

impl Move {
    fn of(topic: &Topic, number: PartitionId, partition: &Partition, brokers: Vec<BrokerId>) -> Self {
        Self { group: GroupId { topic_id: topic.id, partition: number }, epoch: partition.epoch, brokers }
    }

    /// The command that makes it.
    #[must_use]
    pub fn command(self) -> Command {
        let GroupId { topic_id: topic, partition } = self.group;
        Command::Reassign { topic, partition, epoch: self.epoch, brokers: self.brokers }
    }
}

/// Moves one partition to the given brokers; `None` if it is there.
#[must_use]
pub fn move_to(topic: &Topic, number: PartitionId, brokers: &[BrokerId]) -> Option<Move> {
    let partition = topic.partition(number)?;
    let is_there = partition.brokers().eq(brokers.iter().copied());
    (!is_there).then(|| Move::of(topic, number, partition, brokers.to_vec()))
}

/// Moves everything away from brokers that are being removed: each replica to the best broker that has none of its
/// partition. The second list names what cannot move, for want of a broker.
#[must_use]
pub fn leave(state: &MetadataState, pool: &mut Pool) -> (Vec<Move>, Vec<GroupId>) {
    let leaving = pool.ineligible();
    replace_each(state, pool, &leaving, |pool, holders, of_topic, replicas| {
        pool.choose(holders, of_topic, replicas).ok()
    })
}

/// Puts one broker in the place of another. A partition that the new one has already goes to the best other broker.
#[must_use]
pub fn replace(
    state: &MetadataState,
    pool: &mut Pool,
    old: BrokerId,
    new: BrokerId,
) -> (Vec<Move>, Vec<GroupId>) {
    replace_each(state, pool, &BTreeSet::from([old]), |pool, holders, of_topic, replicas| {
        if holders.contains(&new) { pool.choose(holders, of_topic, replicas).ok() } else { Some(new) }
    })
}

/// Changes how many replicas each partition of a topic has, and spreads its preferred leaders over them: those of a
/// topic that grew from one broker would all be on that one.
///
/// # Errors
/// There are fewer brokers than replicas.
pub fn alter_replication(
    topic: &Topic,
    pool: &mut Pool,
    replicas: usize,
) -> Result<Vec<Move>, NotEnoughBrokers> {
    let mut of_topic = topic_load(topic);
    of_topic.values_mut().for_each(|load| load.leaders = 0);
    let mut moves = Vec::new();
    for (number, partition) in topic.numbered() {
        let before: Vec<_> = partition.brokers().collect();
        if before.len() == replicas {
            count_leader(&mut of_topic, &before);
            continue;
        }
        let mut brokers = before.clone();
        while brokers.len() > replicas.max(1) {
            brokers.remove(pool.least_needed(&brokers, &of_topic));
        }
        while brokers.len() < replicas {
            brokers.push(pool.choose(&brokers, &of_topic, replicas)?);
        }
        let brokers = pool.lead_by_least(brokers, &of_topic);
        recount(pool, &mut of_topic, &before, &brokers);
        count_leader(&mut of_topic, &brokers);
        moves.push(Move::of(topic, number, partition, brokers));
    }
    Ok(moves)
}

/// Where a partition that goes on with one replica grows back to so many: brokers that are alive first. Fewer, where
/// there are too few brokers.
#[must_use]
pub fn regrow(topic: &Topic, pool: &Pool, survivor: BrokerId, replicas: usize) -> Vec<BrokerId> {
    let of_topic = topic_load(topic);
    let mut brokers = vec![survivor];
    while brokers.len() < replicas
        && let Ok(next) = pool.choose(&brokers, &of_topic, replicas)
    {
        brokers.push(next);
    }
    brokers.split_off(1)
}

impl Pool {
    fn ineligible(&self) -> BTreeSet<BrokerId> {
        let leaving = self.candidates.iter().filter(|(_, candidate)| !candidate.is_eligible());
        leaving.map(|(id, _)| *id).collect()
    }

    /// The position of the replica that is missed least: not the first of several equals, which may lead.
    fn least_needed(&self, brokers: &[BrokerId], of_topic: &TopicLoad) -> usize {
        let rack = |id: &BrokerId| self.candidates.get(id).map(|candidate| candidate.rack.as_str());
        let need = |(position, id): &(usize, &BrokerId)| {
            let class = self.candidates.get(id).map_or(u8::MAX, Candidate::class);
            let in_rack = brokers.iter().filter(|other| rack(other) == rack(id)).count();
            let of_topic = of_topic.get(id).copied().unwrap_or_default();
            (class, in_rack, of_topic.replicas, self.load(**id).replicas, *position)
        };
        brokers.iter().enumerate().max_by_key(need).map_or(0, |(position, _)| position)
    }
}

/// Replaces brokers wherever they hold something, keeping everybody else.
fn replace_each(
    state: &MetadataState,
    pool: &mut Pool,
    replaced: &BTreeSet<BrokerId>,
    by: impl Fn(&Pool, &[BrokerId], &TopicLoad, usize) -> Option<BrokerId>,
) -> (Vec<Move>, Vec<GroupId>) {
    let (mut moves, mut stuck) = (Vec::new(), Vec::new());
    for topic in state.topics() {
        let mut of_topic = topic_load(topic);
        for (number, partition) in topic.numbered() {
            let before: Vec<_> = partition.brokers().collect();
            let mut brokers = before.clone();
            for position in 0..brokers.len() {
                if !replaced.contains(&brokers[position]) {
                    continue;
                }
                match by(pool, &brokers, &of_topic, brokers.len()) {
                    Some(broker) => brokers[position] = broker,
                    None => stuck.push(GroupId { topic_id: topic.id, partition: number }),
                }
            }
            if brokers == before {
                continue;
            }
            let replaces_leader = brokers.first() != before.first();
            if replaces_leader {
                brokers = pool.lead_by_least(brokers, &of_topic);
            }
            recount(pool, &mut of_topic, &before, &brokers);
            moves.push(Move::of(topic, number, partition, brokers));
        }
    }
    (moves, stuck)
}

fn recount(pool: &mut Pool, of_topic: &mut TopicLoad, before: &[BrokerId], after: &[BrokerId]) {
    pool.discount(before);
    pool.count(after);
    for id in before {
        of_topic.entry(*id).or_default().replicas -= 1;
    }
    for id in after {
        of_topic.entry(*id).or_default().replicas += 1;
    }
}

/// Counts the leader alone.
fn count_leader(of_topic: &mut TopicLoad, brokers: &[BrokerId]) {
    if let Some(leader) = brokers.first() {
        of_topic.entry(*leader).or_default().leaders += 1;
    }
}
