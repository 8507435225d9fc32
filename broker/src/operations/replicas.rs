//! Where the replicas of topics are to be.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use headwater_core::metadata::{Command, Partition as Assignment};
use headwater_core::placement::{Move, Pool, alter_replication, move_to};
use headwater_proto::types::{BrokerId, GroupId, PartitionId, ReplicaId};

use super::known_broker;
use crate::error::RequestError;
use crate::node::Node;

/// What is asked for one partition.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub topic: String,
    pub partition: i32,
    /// Brokers, the preferred leader first; empty: back to where the replicas were before the move under way.
    pub brokers: Vec<i32>,
}

impl Node {
    /// Puts the replicas of one partition on these brokers.
    ///
    /// # Errors
    /// They cannot be there, or somebody else changes the assignment.
    pub async fn reassign(self: &Arc<Self>, wanted: Wanted, validate_only: bool) -> Result<(), RequestError> {
        let number = PartitionId(wanted.partition);
        let (topic, assigned) = super::find(self, &wanted.topic, wanted.partition).await?;
        let brokers = if wanted.brokers.is_empty() {
            self.where_it_was(GroupId { topic_id: topic.id, partition: number }, &assigned).await?
        } else {
            let known = wanted.brokers.iter().map(|broker| known_broker(self, *broker));
            try_join_all(known).await?
        };
        match move_to(&topic, number, &brokers) {
            Some(change) => self.make(change, validate_only).await,
            None => Ok(()),
        }
    }

    /// Changes the number of replicas of each partition of a topic.
    ///
    /// # Errors
    /// There are too few brokers, or a config of the topic forbids it. Partitions before the one that failed are changed.
    pub async fn alter_replicas(
        self: &Arc<Self>,
        topic: &str,
        replicas: i32,
        validate_only: bool,
    ) -> Result<usize, RequestError> {
        let topic = self.controller().find_topic(topic).await?;
        let replicas = usize::try_from(replicas).ok().filter(|replicas| *replicas > 0).ok_or_else(|| {
            RequestError::Invalid(format!("a partition has at least one replica, not {replicas}"))
        })?;
        let moves = self.controller().with_state(|state| {
            let mut pool = Pool::of(state, |broker| self.cluster().alive(broker));
            alter_replication(&topic, &mut pool, replicas)
        });
        let moves = moves.map_err(|error| RequestError::NotEnoughBrokers(error.to_string()))?;
        self.make_all(moves, validate_only).await
    }

    /// Makes moves one after the other; how many there were.
    pub(super) async fn make_all(
        self: &Arc<Self>,
        moves: Vec<Move>,
        validate_only: bool,
    ) -> Result<usize, RequestError> {
        let count = moves.len();
        for change in moves {
            self.make(change, validate_only).await?;
        }
        Ok(count)
    }

    async fn make(self: &Arc<Self>, change: Move, validate_only: bool) -> Result<(), RequestError> {
        let (group, brokers) = (change.group, change.brokers.clone());
        let command = change.command();
        if validate_only {
            return self.check(&command);
        }
        self.controller().submit(command).await?;
        let (topic, partition) = super::name_of(self, group);
        tracing::info!(topic, partition, ?brokers, "replicas are assigned anew");
        Ok(())
    }

    pub(super) fn check(&self, command: &Command) -> Result<(), RequestError> {
        self.controller().with_state(|state| state.check(command)).map_err(RequestError::from)
    }

    /// The brokers of a partition before the move that is under way: those that leave, and those that vote already.
    async fn where_it_was(
        self: &Arc<Self>,
        group: GroupId,
        assigned: &Assignment,
    ) -> Result<Vec<BrokerId>, RequestError> {
        let surveyed = self.survey(&[group]).await;
        let leader = surveyed.values().flat_map(|reply| &reply.replicas).max_by_key(|found| found.leads_in);
        let leader = leader.filter(|found| found.leads_in > 0).ok_or(RequestError::NoLeader)?;
        let voters: BTreeSet<_> = leader.voters.iter().copied().map(ReplicaId).collect();
        let stays = assigned.replicas.iter().filter(|replica| voters.contains(&replica.id));
        let mut brokers: Vec<_> = stays.chain(&assigned.leaving).map(|replica| replica.broker).collect();
        let mut seen = BTreeSet::new();
        brokers.retain(|broker| seen.insert(*broker));
        Ok(brokers)
    }
}
