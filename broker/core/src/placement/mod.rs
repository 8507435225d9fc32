//! Where replicas belong: pure decisions over the brokers that are known.
//!
//! Invariants: no broker twice in one partition; among brokers that are alive and take part, replicas are
//! spread over racks before anything else is balanced; the same input has the same answer on every broker;
//! nothing moves that need not. What is decided here is only proposed: metadata accepts it or not.

mod leaders;
mod moves;
mod voters;

use std::collections::BTreeMap;

use headwater_proto::types::BrokerId;
use thiserror::Error;

pub use leaders::better_leader;
pub use moves::{Move, alter_replication, leave, move_to, regrow, replace};
pub use voters::{VOTERS_MAX, metadata_voters};

use crate::metadata::{BrokerState, MetadataState, Topic};

/// Replicas cannot be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{replicas} replicas need as many brokers that are not being removed, and there are {brokers}")]
pub struct NotEnoughBrokers {
    pub replicas: usize,
    pub brokers: usize,
}

/// What a broker holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    pub replicas: usize,
    /// Partitions of which it is the preferred leader.
    pub leaders: usize,
}

/// A broker that may get replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub rack: String,
    pub state: BrokerState,
    pub alive: bool,
    /// Of all topics together.
    pub load: Load,
}

impl Candidate {
    /// Who is asked first; the later ones only where there are too few of the earlier ones.
    const fn class(&self) -> u8 {
        match (self.state, self.alive) {
            (BrokerState::Active, true) => 0,
            (BrokerState::Draining, true) => 1,
            (BrokerState::Active | BrokerState::Draining, false) => 2,
            (BrokerState::Leaving, _) => 3,
        }
    }

    fn is_eligible(&self) -> bool {
        self.state != BrokerState::Leaving
    }
}

/// The brokers, with what they hold. Decisions add to it as they are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    candidates: BTreeMap<BrokerId, Candidate>,
}

/// What brokers hold of one topic.
type TopicLoad = BTreeMap<BrokerId, Load>;

impl Pool {
    /// The registered brokers with what they hold; `alive` tells who answers at the moment.
    #[must_use]
    pub fn of(state: &MetadataState, alive: impl Fn(BrokerId) -> bool) -> Self {
        let mut pool = Self::of_brokers(state, alive);
        for (_, partition) in state.topics().flat_map(Topic::numbered) {
            pool.count(&partition.brokers().collect::<Vec<_>>());
        }
        pool
    }

    /// The registered brokers, as if they held nothing.
    #[must_use]
    pub fn of_brokers(state: &MetadataState, alive: impl Fn(BrokerId) -> bool) -> Self {
        let candidate = |broker: &crate::metadata::Broker| {
            let (rack, alive) = (broker.rack.clone(), alive(broker.id));
            (broker.id, Candidate { rack, state: broker.state, alive, load: Load::default() })
        };
        Self { candidates: state.brokers().map(candidate).collect() }
    }

    /// Brokers as they are given.
    #[must_use]
    pub const fn new(candidates: BTreeMap<BrokerId, Candidate>) -> Self {
        Self { candidates }
    }

    /// Decides from now on as if the broker were in that state.
    pub fn set_state(&mut self, broker: BrokerId, state: BrokerState) {
        if let Some(candidate) = self.candidates.get_mut(&broker) {
            candidate.state = state;
        }
    }

    #[must_use]
    pub fn load(&self, broker: BrokerId) -> Load {
        self.candidates.get(&broker).map_or_else(Load::default, |candidate| candidate.load)
    }

    /// Places `partitions` more partitions of a topic, `replicas` of each, the preferred leader first. Those that the
    /// topic has already are taken into account.
    ///
    /// # Errors
    /// There are fewer brokers than replicas.
    pub fn place(
        &mut self,
        topic: Option<&Topic>,
        partitions: usize,
        replicas: usize,
    ) -> Result<Vec<Vec<BrokerId>>, NotEnoughBrokers> {
        let mut of_topic = topic.map_or_else(TopicLoad::new, topic_load);
        (0..partitions).map(|_| self.place_one(&mut of_topic, replicas)).collect()
    }

    fn place_one(
        &mut self,
        of_topic: &mut TopicLoad,
        replicas: usize,
    ) -> Result<Vec<BrokerId>, NotEnoughBrokers> {
        let mut brokers = Vec::new();
        for _ in 0..replicas {
            brokers.push(self.choose(&brokers, of_topic, replicas)?);
        }
        let brokers = self.lead_by_least(brokers, of_topic);
        self.count(&brokers);
        count(of_topic, &brokers);
        Ok(brokers)
    }

    /// The best broker for one more replica of a partition that `holders` have.
    fn choose(
        &self,
        holders: &[BrokerId],
        of_topic: &TopicLoad,
        replicas: usize,
    ) -> Result<BrokerId, NotEnoughBrokers> {
        let rack = |id: &BrokerId| self.candidates.get(id).map(|candidate| candidate.rack.as_str());
        let eligible =
            self.candidates.iter().filter(|(id, candidate)| candidate.is_eligible() && !holders.contains(id));
        let preference = |(id, candidate): &(&BrokerId, &Candidate)| {
            let in_rack = holders.iter().filter(|holder| rack(holder) == rack(id)).count();
            let of_topic = of_topic.get(id).copied().unwrap_or_default();
            (candidate.class(), in_rack, of_topic.replicas, candidate.load.replicas, **id)
        };
        eligible.min_by_key(preference).map(|(id, _)| *id).ok_or_else(|| NotEnoughBrokers {
            replicas,
            brokers: self.candidates.values().filter(|candidate| candidate.is_eligible()).count(),
        })
    }

    /// Turns the brokers of a partition until the one that leads fewest is first, so that the next in line differ too.
    fn lead_by_least(&self, mut brokers: Vec<BrokerId>, of_topic: &TopicLoad) -> Vec<BrokerId> {
        let preference = |(position, id): &(usize, &BrokerId)| {
            let class = self.candidates.get(id).map_or(u8::MAX, Candidate::class);
            let of_topic = of_topic.get(id).copied().unwrap_or_default();
            (class, of_topic.leaders, self.load(**id).leaders, *position)
        };
        if let Some((position, _)) = brokers.iter().enumerate().min_by_key(preference) {
            brokers.rotate_left(position);
        }
        brokers
    }

    fn count(&mut self, brokers: &[BrokerId]) {
        for (position, id) in brokers.iter().enumerate() {
            if let Some(candidate) = self.candidates.get_mut(id) {
                candidate.load.add(position);
            }
        }
    }

    fn discount(&mut self, brokers: &[BrokerId]) {
        for (position, id) in brokers.iter().enumerate() {
            if let Some(candidate) = self.candidates.get_mut(id) {
                candidate.load.remove(position);
            }
        }
    }
}

impl Load {
    const fn add(&mut self, position: usize) {
        self.replicas += 1;
        self.leaders += (position == 0) as usize;
    }

    const fn remove(&mut self, position: usize) {
        self.replicas = self.replicas.saturating_sub(1);
        self.leaders = self.leaders.saturating_sub((position == 0) as usize);
    }
}

fn topic_load(topic: &Topic) -> TopicLoad {
    let mut load = TopicLoad::new();
    for (_, partition) in topic.numbered() {
        count(&mut load, &partition.brokers().collect::<Vec<_>>());
    }
    load
}

fn count(load: &mut TopicLoad, brokers: &[BrokerId]) {
    for (position, id) in brokers.iter().enumerate() {
        load.entry(*id).or_default().add(position);
    }
}

#[cfg(test)]
mod tests;
