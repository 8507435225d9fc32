//! What commands do to the state that allowed them.
//!
//! Invariants: a replica id is given once; whoever held a copy stays among those that leave until a
//! [`Command::CompleteReassign`] says that the membership without it is committed.

use headwater_proto::types::{
    BrokerId, GroupId, Incarnation, PartitionId, ProducerId, ReplicaId, Term, TopicId,
};

use super::check::repeats;
use super::{Broker, Command, Effect, MetadataState, Partition, Replica, Survivor, Topic};

/// More than the metadata that a forced recovery gives up can have handed out.
const LOST_REPLICA_IDS_MAX: u64 = 1 << 32;
const LOST_PRODUCER_IDS_MAX: i64 = 1 << 40;

impl MetadataState {
    /// Executes a command that the state allows.
    pub(super) fn execute(&mut self, command: Command) -> Effect {
        match command {
            Command::RegisterBroker { broker, metadata_replica } => self.register(broker, metadata_replica),
            Command::SetBrokerState { id, state } => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.state = state;
                }
                Effect::BrokerStateSet
            }
            Command::UnregisterBroker { id } => self.unregister(id),
            Command::CreateTopic { id, .. } if self.topics.contains_key(&id) => Effect::TopicCreated,
            Command::CreateTopic { id, name, assignments, overrides } => {
                let partitions = assignments.iter().map(|brokers| self.new_partition(brokers)).collect();
                self.names.insert(name.clone(), id);
                self.topics.insert(id, Topic { id, name, partitions, overrides });
                Effect::TopicCreated
            }
            Command::DeleteTopic { id } => {
                if let Some(topic) = self.topics.remove(&id) {
                    self.names.remove(&topic.name);
                }
                Effect::TopicDeleted
            }
            Command::CreatePartitions { id, assignments, .. } => {
                let added: Vec<_> = assignments.iter().map(|brokers| self.new_partition(brokers)).collect();
                if let Some(topic) = self.topics.get_mut(&id) {
                    topic.partitions.extend(added);
                }
                Effect::PartitionsCreated
            }
            Command::AlterConfigs { id, .. } => {
                if let Some(topic) = self.topics.get_mut(&id) {
                    topic.overrides = command.overrides_after(&topic.overrides);
                }
                Effect::ConfigsAltered
            }
            Command::AllocateProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id = ProducerId(first.get() + i64::from(count));
                Effect::ProducerIds { first, count }
            }
            Command::Reassign { topic, partition, epoch, brokers } => {
                self.reassign(topic, partition, epoch, &brokers)
            }
            Command::RebuildReplica { topic, partition, replica } => self.rebuild(topic, partition, replica),
            Command::CompleteReassign { topic, partition, .. } => {
                if let Some(assigned) = self.group_mut(topic, partition) {
                    assigned.leaving.clear();
                }
                Effect::ReassignCompleted
            }
            Command::RecoverPartition { topic, partition, survivor, above, others, .. } => {
                self.recover(topic, partition, survivor, above, &others)
            }
            Command::RecoverMetadata { survivor, above } => self.recover_metadata(survivor, above),
        }
    }

    fn register(&mut self, mut broker: Broker, bootstrap: Option<ReplicaId>) -> Effect {
        let (id, incarnation) = (broker.id, broker.incarnation);
        let known = self.brokers.get(&id);
        broker.state = known.map_or(broker.state, |known| known.state);
        let replaced = known.map(|known| known.incarnation).filter(|before| *before != incarnation);
        if let Some(before) = replaced {
            self.retired.entry(id).or_default().insert(before);
        }
        self.brokers.insert(id, broker);
        if let Some(replica) = self.metadata.replicas.iter().find(|replica| replica.broker == id)
            && replica.incarnation == incarnation
        {
            return Effect::BrokerRegistered { metadata_replica: replica.id };
        }
        let replica = match bootstrap {
            Some(bootstrap) => Replica { id: bootstrap, broker: id, incarnation },
            None => self.new_replica(id),
        };
        if bootstrap.is_some() {
            self.metadata.created_with.push(replica);
            self.metadata.created_with.sort_unstable();
            self.metadata.created_with.dedup();
        }
        let others = self.metadata.replicas.iter().filter(|other| other.broker != id).copied();
        let mut replicas: Vec<_> = others.chain([replica]).collect();
        replicas.sort_unstable_by_key(|replica| replica.broker);
        assign(&mut self.metadata, replicas);
        Effect::BrokerRegistered { metadata_replica: replica.id }
    }

    fn unregister(&mut self, id: BrokerId) -> Effect {
        if let Some(broker) = self.brokers.remove(&id) {
            self.retired.entry(id).or_default().insert(broker.incarnation);
        }
        let others = self.metadata.replicas.iter().filter(|replica| replica.broker != id).copied();
        let others = others.collect();
        assign(&mut self.metadata, others);
        Effect::BrokerUnregistered
    }

    fn reassign(
        &mut self,
        topic: TopicId,
        partition: PartitionId,
        epoch: u32,
        brokers: &[BrokerId],
    ) -> Effect {
        let Some(mut assigned) = self.partition(topic, partition).cloned() else { return Effect::None };
        if !repeats(&assigned, epoch, brokers) {
            let replicas = brokers.iter().map(|broker| {
                // One that is on its way out keeps its copy until the end, so that it can stay after all.
                let kept = assigned.on(*broker, self.incarnation_of(*broker)).copied();
                kept.unwrap_or_else(|| self.new_replica(*broker))
            });
            let replicas = replicas.collect();
            assign(&mut assigned, replicas);
        }
        let epoch = assigned.epoch;
        self.replace(topic, partition, assigned);
        Effect::Reassigned { epoch }
    }

    fn rebuild(&mut self, topic: TopicId, partition: PartitionId, id: ReplicaId) -> Effect {
        let group = GroupId { topic_id: topic, partition };
        let Some(mut assigned) = self.group(group).cloned() else { return Effect::None };
        let Some(index) = assigned.replicas.iter().position(|replica| replica.id == id) else {
            return Effect::None;
        };
        let replica = self.new_replica(assigned.replicas[index].broker);
        let mut replicas = assigned.replicas.clone();
        replicas[index] = replica;
        assign(&mut assigned, replicas);
        self.replace(topic, partition, assigned);
        Effect::ReplicaRebuilt { replica }
    }

    fn recover(
        &mut self,
        topic: TopicId,
        partition: PartitionId,
        survivor: Survivor,
        above: Term,
        others: &[BrokerId],
    ) -> Effect {
        let Some(assigned) = self.partition(topic, partition) else { return Effect::None };
        let epoch = assigned.epoch.saturating_add(1);
        let replica = match survivor {
            Survivor::Replica(id) => assigned.holders().find(|replica| replica.id == id).copied(),
            Survivor::Empty(broker) => Some(self.new_replica(broker)),
        };
        let Some(replica) = replica else { return Effect::None };
        let mut recovered =
            Partition { epoch, recovered_above: Some(above), ..Partition::created(vec![replica]) };
        // Whoever had a copy begins another one, under an id that never voted.
        let others = others.iter().filter(|broker| **broker != replica.broker);
        recovered.replicas.extend(others.map(|broker| self.new_replica(*broker)));
        self.replace(topic, partition, recovered);
        Effect::PartitionRecovered { replica }
    }

    /// The others' replicas are given up even where their brokers live: they may hold what the survivor lacks.
    fn recover_metadata(&mut self, survivor: ReplicaId, above: Term) -> Effect {
        let found = self.metadata.replicas.iter().find(|replica| replica.id == survivor).copied();
        let Some(survivor) = found.filter(|_| self.metadata.recovered_above < Some(above)) else {
            return Effect::None;
        };
        // The others may have been given ids that the survivor has not heard of: those must never be given again.
        self.next_replica_id = ReplicaId(self.next_replica_id.get().saturating_add(LOST_REPLICA_IDS_MAX));
        self.next_producer_id = ProducerId(self.next_producer_id.get().saturating_add(LOST_PRODUCER_IDS_MAX));
        let others: Vec<_> = self.brokers.keys().copied().filter(|id| *id != survivor.broker).collect();
        let others = others.into_iter().map(|broker| self.new_replica(broker));
        let mut replicas: Vec<_> = others.chain([survivor]).collect();
        replicas.sort_unstable_by_key(|replica| replica.broker);
        assign(&mut self.metadata, replicas);
        self.metadata.leaving.clear();
        self.metadata.recovered_above = Some(above);
        Effect::PartitionRecovered { replica: survivor }
    }

    /// A partition with a replica of its own for each broker.
    fn new_partition(&mut self, brokers: &[BrokerId]) -> Partition {
        Partition::created(brokers.iter().map(|broker| self.new_replica(*broker)).collect())
    }

    /// A replica id that nobody ever had, bound to the data directory that the broker has now.
    fn new_replica(&mut self, broker: BrokerId) -> Replica {
        let id = self.next_replica_id;
        self.next_replica_id = ReplicaId(id.get() + 1);
        Replica { id, broker, incarnation: self.incarnation_of(broker) }
    }

    fn incarnation_of(&self, broker: BrokerId) -> Incarnation {
        self.brokers.get(&broker).map_or(Incarnation::NONE, |broker| broker.incarnation)
    }

    fn group_mut(&mut self, topic: TopicId, number: PartitionId) -> Option<&mut Partition> {
        if topic == TopicId::METADATA {
            return Some(&mut self.metadata);
        }
        let index = usize::try_from(number.get()).ok()?;
        self.topics.get_mut(&topic)?.partitions.get_mut(index)
    }

    fn replace(&mut self, topic: TopicId, number: PartitionId, assigned: Partition) {
        if let Some(partition) = self.group_mut(topic, number) {
            *partition = assigned;
        }
    }
}

/// Changes who holds a group: whoever is no longer among them leaves.
fn assign(assigned: &mut Partition, replicas: Vec<Replica>) {
    let mut leaving: Vec<_> =
        assigned.holders().filter(|replica| !replicas.contains(replica)).copied().collect();
    leaving.sort_unstable();
    assigned.leaving = leaving;
    assigned.replicas = replicas;
    assigned.epoch = assigned.epoch.saturating_add(1);
}
