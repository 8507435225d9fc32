//! Which commands are allowed.
//!
//! Invariants: [`MetadataState::check`] lets nothing pass that applying refuses; what applying looks at is
//! this state alone, so that a command that lost a race changes nothing on every replica alike.

use std::collections::BTreeSet;

use headwater_proto::types::{BrokerId, PartitionId, ReplicaId, TopicId};

use super::{
    Broker, BrokerState, Command, FIRST_ALLOCATED_REPLICA_ID, MetadataError, MetadataState,
    PARTITIONS_PER_TOPIC_MAX, Partition, REPLICAS_MAX, Survivor, Topic,
};
use crate::topic_config::{MIN_INSYNC_REPLICAS, TopicConfig};
use crate::topic_name::{check_topic_name, collision_key};

impl MetadataState {
    /// Whether the controller may propose a command: everything that applying would refuse, and what
    /// this version's rules for names, configs and limits refuse.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, command: &Command) -> Result<(), MetadataError> {
        match command {
            Command::CreateTopic { name, assignments, overrides, .. } => {
                check_topic_name(name)?;
                check_partition_count(assignments.len())?;
                let replicas = assignments.first().map_or(0, Vec::len);
                self.check_replica_count(replicas)?;
                TopicConfig::resolve(overrides, replicas)?;
            }
            Command::CreatePartitions { before, assignments, .. } => {
                check_partition_count(before.saturating_add(assignments.len()))?;
            }
            Command::AlterConfigs { id, changes } => {
                let topic = self.known_topic(*id)?;
                // What a recovery left with too few replicas can still be given other configs.
                let is_min = |(name, _): &(String, _)| name == MIN_INSYNC_REPLICAS;
                let replicas = match changes.iter().any(is_min) {
                    true => topic.replica_count_min(),
                    false => topic.replica_count(),
                };
                TopicConfig::resolve(&command.overrides_after(&topic.overrides), replicas)?;
            }
            Command::Reassign { topic, brokers, .. } => {
                let topic = self.known_topic(*topic)?;
                self.check_replica_count(brokers.len())?;
                TopicConfig::stored(&topic.overrides).check_replicas(brokers.len())?;
            }
            Command::RegisterBroker { .. }
            | Command::SetBrokerState { .. }
            | Command::UnregisterBroker { .. }
            | Command::DeleteTopic { .. }
            | Command::AllocateProducerIds { .. }
            | Command::RebuildReplica { .. }
            | Command::CompleteReassign { .. }
            | Command::RecoverPartition { .. }
            | Command::RecoverMetadata { .. } => {}
        }
        self.check_against_state(command)
    }

    pub(super) fn check_against_state(&self, command: &Command) -> Result<(), MetadataError> {
        match command {
            Command::RegisterBroker { broker, metadata_replica } => {
                self.check_registration(broker, *metadata_replica)
            }
            Command::SetBrokerState { id, .. } => self.known_broker(*id).map(|_| ()),
            Command::UnregisterBroker { id } => self.check_unregistration(*id),
            Command::CreateTopic { id, name, assignments, .. } => {
                self.check_new_topic(*id, name)?;
                self.check_assignments(assignments)
            }
            Command::DeleteTopic { id } | Command::AlterConfigs { id, .. } => {
                self.known_topic(*id).map(|_| ())
            }
            Command::CreatePartitions { id, before, assignments } => {
                let found = self.known_topic(*id)?.partitions.len();
                if found != *before {
                    return Err(MetadataError::PartitionsChanged { expected: *before, found });
                }
                self.check_assignments(assignments)
            }
            Command::AllocateProducerIds { count } => {
                let enough = self.next_producer_id.get().checked_add(i64::from(*count)).is_some();
                enough.then_some(()).ok_or(MetadataError::ProducerIdsExhausted)
            }
            Command::Reassign { topic, partition, epoch, brokers } => {
                let assigned = self.known_partition(*topic, *partition)?;
                if !repeats(assigned, *epoch, brokers) {
                    check_epoch(assigned, *epoch)?;
                }
                self.check_brokers(brokers, assigned)
            }
            Command::RebuildReplica { topic, partition, replica } => {
                self.check_rebuild(*topic, *partition, *replica)
            }
            Command::CompleteReassign { topic, partition, epoch, removed } => {
                let assigned = self.known_group(*topic, *partition)?;
                check_epoch(assigned, *epoch)?;
                let distinct: BTreeSet<_> = removed.iter().copied().collect();
                let leaving: BTreeSet<_> = assigned.leaving_ids().into_iter().collect();
                let complete = leaving.is_empty() || distinct == leaving;
                complete.then_some(()).ok_or(MetadataError::NotAllThatLeave)
            }
            Command::RecoverPartition { topic, partition, epoch, survivor, others, .. } => {
                let assigned = self.known_partition(*topic, *partition)?;
                check_epoch(assigned, *epoch)?;
                if !others.is_empty() {
                    self.check_brokers(others, &Partition::default())?;
                }
                self.check_survivor(assigned, *survivor)
            }
            Command::RecoverMetadata { survivor, .. } => {
                self.check_survivor(&self.metadata, Survivor::Replica(*survivor))
            }
        }
    }

    fn check_registration(&self, broker: &Broker, bootstrap: Option<ReplicaId>) -> Result<(), MetadataError> {
        if self.is_retired(broker.id, broker.incarnation) {
            return Err(MetadataError::RetiredIncarnation {
                broker: broker.id,
                incarnation: broker.incarnation,
            });
        }
        let Some(id) = bootstrap else { return Ok(()) };
        // Once bound, for ever bound, as every replica id.
        let bound = self.metadata.created_with.iter().find(|replica| replica.id == id);
        let is_own = |replica: &super::Replica| {
            (replica.broker, replica.incarnation) == (broker.id, broker.incarnation)
        };
        if id >= FIRST_ALLOCATED_REPLICA_ID || bound.is_some_and(|replica| !is_own(replica)) {
            return Err(MetadataError::ReplicaIdInUse(id));
        }
        Ok(())
    }

    fn check_unregistration(&self, id: BrokerId) -> Result<(), MetadataError> {
        self.known_broker(id)?;
        let replicas = self.replicas_of(id);
        if replicas > 0 {
            return Err(MetadataError::BrokerHoldsReplicas { broker: id, replicas });
        }
        Ok(())
    }

    fn check_new_topic(&self, id: TopicId, name: &str) -> Result<(), MetadataError> {
        if let Some(topic) = self.topics.get(&id) {
            // The same request again: an answer was lost on its way.
            return if topic.name == name { Ok(()) } else { Err(MetadataError::TopicIdInUse(id)) };
        }
        if self.names.contains_key(name) {
            return Err(MetadataError::TopicExists(name.to_owned()));
        }
        let key = collision_key(name);
        match self.names.keys().find(|other| collision_key(other) == key) {
            Some(other) => Err(MetadataError::NameCollision { name: name.to_owned(), other: other.clone() }),
            None => Ok(()),
        }
    }

    fn check_assignments(&self, assignments: &[Vec<BrokerId>]) -> Result<(), MetadataError> {
        check_partition_count(assignments.len())?;
        let nobody = Partition::default();
        assignments.iter().try_for_each(|brokers| self.check_brokers(brokers, &nobody))
    }

    /// Brokers of one partition, which may have some of them already.
    fn check_brokers(&self, brokers: &[BrokerId], before: &Partition) -> Result<(), MetadataError> {
        let distinct: BTreeSet<_> = brokers.iter().collect();
        if brokers.is_empty() || distinct.len() != brokers.len() {
            return Err(self.impossible_replicas(brokers.len()));
        }
        for id in brokers {
            let broker = self.known_broker(*id)?;
            let keeps = before.on(broker.id, broker.incarnation).is_some();
            if broker.state == BrokerState::Leaving && !keeps {
                return Err(MetadataError::BrokerLeaving(*id));
            }
        }
        Ok(())
    }

    fn check_replica_count(&self, replicas: usize) -> Result<(), MetadataError> {
        if replicas > REPLICAS_MAX { Err(self.impossible_replicas(replicas)) } else { Ok(()) }
    }

    fn impossible_replicas(&self, replicas: usize) -> MetadataError {
        MetadataError::ReplicationFactor { replicas, brokers: self.brokers.len() }
    }

    fn check_rebuild(
        &self,
        topic: TopicId,
        partition: PartitionId,
        id: ReplicaId,
    ) -> Result<(), MetadataError> {
        let assigned = self.known_group(topic, partition)?;
        let replica = assigned.replicas.iter().find(|replica| replica.id == id);
        let replica = replica.ok_or(MetadataError::UnknownReplica(id))?;
        self.known_broker(replica.broker)?;
        if assigned.replicas.len() == 1 {
            return Err(MetadataError::OnlyReplica(id));
        }
        Ok(())
    }

    fn check_survivor(&self, assigned: &Partition, survivor: Survivor) -> Result<(), MetadataError> {
        match survivor {
            Survivor::Replica(id) => {
                let runs = assigned.holders().any(|replica| {
                    let broker = self.brokers.get(&replica.broker);
                    replica.id == id && broker.is_some_and(|b| b.incarnation == replica.incarnation)
                });
                runs.then_some(()).ok_or(MetadataError::UnknownReplica(id))
            }
            Survivor::Empty(broker) => self.check_brokers(&[broker], &Partition::default()),
        }
    }

    fn known_broker(&self, id: BrokerId) -> Result<&Broker, MetadataError> {
        self.brokers.get(&id).ok_or(MetadataError::UnknownBroker(id))
    }

    fn known_topic(&self, id: TopicId) -> Result<&Topic, MetadataError> {
        self.topics.get(&id).ok_or(MetadataError::UnknownTopicId(id))
    }

    fn known_partition(&self, topic: TopicId, number: PartitionId) -> Result<&Partition, MetadataError> {
        self.known_topic(topic)?.partition(number).ok_or(MetadataError::UnknownPartition(number))
    }

    /// A partition, or the metadata group.
    fn known_group(&self, topic: TopicId, number: PartitionId) -> Result<&Partition, MetadataError> {
        if topic == TopicId::METADATA { Ok(&self.metadata) } else { self.known_partition(topic, number) }
    }
}

/// Whether this reassignment was executed already, so that its sender missed the answer.
pub(super) fn repeats(assigned: &Partition, epoch: u32, brokers: &[BrokerId]) -> bool {
    Some(assigned.epoch) == epoch.checked_add(1) && assigned.brokers().eq(brokers.iter().copied())
}

fn check_epoch(assigned: &Partition, expected: u32) -> Result<(), MetadataError> {
    let found = assigned.epoch;
    if found == expected { Ok(()) } else { Err(MetadataError::AssignmentChanged { expected, found }) }
}

const fn check_partition_count(partitions: usize) -> Result<(), MetadataError> {
    if partitions == 0 || partitions > PARTITIONS_PER_TOPIC_MAX {
        return Err(MetadataError::PartitionCount { partitions });
    }
    Ok(())
}
