//! The partitions of this broker: what metadata assigns to it is opened, what it takes away is deleted.
//!
//! Invariants: a partition is served from the moment it is open until its replica is gone from metadata; one
//! that cannot be opened is kept with its reason, and the others are served. **Nothing is deleted and no replica is
//! begun on the word of a state that may be older than what is on disk**: until this broker has caught up with the
//! metadata's leader once since its start, it opens what it finds and no more. An older state could name a replica
//! whose copy was given up, and begun again empty it would vote away what it had acknowledged. Nor does it campaign,
//! or lead by its own vote alone, on such word: what a forced recovery gave up must not come back. It votes, though,
//! for whoever knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::{Group, GroupHost, GroupSpec, Peer, RaftSettings, creation};
use headwater_core::MetadataState;
use headwater_core::metadata::{Replica, Topic};
use headwater_core::topic_config::TopicConfig;
use headwater_proto::types::{BrokerId, GroupId, PartitionId, ReplicaId, TopicId};
use tokio::sync::{Mutex, Semaphore, watch};

use super::recovery;
use crate::cluster::{Cluster, LocalGroup};
use crate::env::Entropy;
use crate::error::RequestError;
use crate::partition::Partition;

/// Partitions that are opened or closed at the same time.
const AT_A_TIME: usize = 64;

/// One partition of a topic, here.
#[derive(Debug, Clone)]
enum Slot {
    Open(Arc<Partition>),
    /// The replica cannot be used, for this reason.
    Failed(ReplicaId, RequestError),
    /// Its replicas are on other brokers.
    Elsewhere,
    /// It is this broker's, as far as is known: to be decided once that is known for sure.
    Undecided,
}

impl Slot {
    /// The replica that is here, usable or not.
    fn replica_id(&self) -> Option<ReplicaId> {
        match self {
            Self::Open(partition) => Some(partition.replica_id()),
            Self::Failed(replica_id, _) => Some(*replica_id),
            Self::Elsewhere | Self::Undecided => None,
        }
    }
}

#[derive(Debug, Clone)]
struct LocalTopic {
    topic: Topic,
    slots: Vec<Slot>,
}

impl LocalTopic {
    fn is_undecided(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Undecided))
    }
}

/// Every partition that this broker holds, by topic name.
pub struct Registry {
    host: GroupHost,
    settings: RaftSettings,
    broker_id: BrokerId,
    cluster: Arc<Cluster>,
    entropy: Arc<dyn Entropy>,
    topics: RwLock<BTreeMap<String, Arc<LocalTopic>>>,
    /// One change at a time.
    changing: Mutex<()>,
    /// Bounds what is opened at the same time, of all topics together.
    opening: Semaphore,
    changed: watch::Sender<()>,
}

impl Registry {
    pub fn new(
        host: GroupHost,
        settings: RaftSettings,
        broker_id: BrokerId,
        cluster: Arc<Cluster>,
        entropy: Arc<dyn Entropy>,
    ) -> Arc<Self> {
        Arc::new(Self {
            host,
            settings,
            broker_id,
            cluster,
            entropy,
            topics: RwLock::default(),
            changing: Mutex::default(),
            opening: Semaphore::new(AT_A_TIME),
            changed: watch::Sender::new(()),
        })
    }

    /// The open partition with this name and number.
    pub fn partition(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, RequestError> {
        let Some(local) = self.local(topic) else {
            return Err(RequestError::UnknownTopic { topic: topic.to_owned() });
        };
        let slot = usize::try_from(partition).ok().and_then(|number| local.slots.get(number));
        match slot {
            Some(Slot::Open(partition)) => Ok(Arc::clone(partition)),
            Some(Slot::Failed(_, error)) => Err(error.clone()),
            Some(Slot::Elsewhere | Slot::Undecided) => Err(RequestError::NotLeader),
            None => Err(RequestError::UnknownPartition {
                topic: topic.to_owned(),
                partition,
                partitions: local.slots.len(),
            }),
        }
    }

    /// Every open partition, by topic name and number.
    pub fn open_partitions(&self) -> Vec<Arc<Partition>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let slots = topics.values().flat_map(|local| &local.slots);
        slots
            .filter_map(|slot| match slot {
                Slot::Open(partition) => Some(Arc::clone(partition)),
                Slot::Failed(..) | Slot::Elsewhere | Slot::Undecided => None,
            })
            .collect()
    }

    /// Waits until this broker holds the topic with that many partitions, or (`None`) not at all.
    pub async fn wait_for(&self, name: &str, expected: Option<(TopicId, usize)>) {
        let mut changed = self.changed.subscribe();
        loop {
            let held = self.local(name).map(|local| (local.topic.id, local.slots.len()));
            let done = match (held, expected) {
                (Some((id, count)), Some((expected, at_least))) => id == expected && count >= at_least,
                (None, Some(_)) => false,
                (_, None) => held.is_none(),
            };
            // The registry outlives every waiter.
            if done || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Deletes the replicas on disk that metadata does not assign to this broker: of topics that were deleted while it
    /// was away, and of deletions that a crash cut short. Metadata must be current.
    pub async fn delete_leftovers(&self, metadata: &Group<MetadataState>) -> std::io::Result<()> {
        let _one_at_a_time = self.changing.lock().await;
        let assigned: BTreeSet<_> = metadata.with_state(|state| {
            let own = state.groups().filter(|(_, partition)| {
                partition.on(self.broker_id, self.host.data_dir.incarnation()).is_some()
            });
            own.map(|(group, _)| group).collect()
        });
        for group in self.host.data_dir.groups() {
            if group != GroupId::METADATA && !assigned.contains(&group) {
                tracing::info!(%group, "deleting what is left of a replica that is no longer this broker's");
                self.host.data_dir.delete_group(group).await?;
            }
        }
        Ok(())
    }

    /// Opens, changes and deletes replicas until what is here is what metadata says. `is_current`: the state reflects
    /// everything that this broker went by before it was started.
    pub async fn follow(&self, metadata: &Group<MetadataState>, is_current: bool) {
        let _one_at_a_time = self.changing.lock().await;
        let held = self.topics.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (gone, changed) = metadata.with_state(|state| {
            let gone = held.values().filter(|local| state.topic_by_id(local.topic.id).is_none());
            let differs = |topic: &&Topic| {
                let local = held.get(&topic.name);
                local.is_none_or(|local| local.topic != **topic || (is_current && local.is_undecided()))
            };
            let changed = state.topics().filter(differs);
            (gone.cloned().collect::<Vec<_>>(), changed.cloned().collect::<Vec<_>>())
        });
        for local in gone {
            self.delete(&local).await;
        }
        let change = |topic: Topic| {
            let before = held.get(&topic.name).filter(|local| local.topic.id == topic.id);
            self.change(topic, before.map(Arc::as_ref), is_current)
        };
        stream::iter(changed).for_each_concurrent(AT_A_TIME, change).await;
        self.changed.send_replace(());
    }

    /// Tries again what could not be opened: the reason may have passed, as a full disk's does.
    pub async fn retry_failed(&self) {
        let _one_at_a_time = self.changing.lock().await;
        let held = self.topics.read().unwrap_or_else(PoisonError::into_inner).clone();
        for local in held.values() {
            let failed = |slot: &Slot| matches!(slot, Slot::Failed(..));
            if !local.slots.iter().any(failed) {
                continue;
            }
            let mut local = LocalTopic::clone(local);
            for index in 0..local.slots.len() {
                if failed(&local.slots[index]) {
                    // It failed as a replica that was this broker's to begin.
                    local.slots[index] = self.open_slot(&local.topic, index, true).await;
                }
            }
            self.publish(local);
            self.changed.send_replace(());
        }
    }

    /// Opens a damaged partition again, once its loss was accepted. Once begun it goes on, whether or not the result
    /// is awaited: else a client that hangs up would leave the partition closed.
    pub async fn reopen(self: &Arc<Self>, name: &str, number: i32) -> Result<(), RequestError> {
        let (registry, name) = (Arc::clone(self), name.to_owned());
        let reopened = tokio::spawn(async move { registry.reopen_in_turn(&name, number).await });
        reopened.await.unwrap_or(Err(RequestError::Stopping))
    }

    async fn reopen_in_turn(&self, name: &str, number: i32) -> Result<(), RequestError> {
        let _one_at_a_time = self.changing.lock().await;
        let before = self.partition(name, number)?;
        let Some(local) = self.local(name) else {
            return Err(RequestError::UnknownTopic { topic: name.to_owned() });
        };
        self.close(&before).await;
        drop(before);
        let mut local = LocalTopic::clone(&local);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        // It was open: it is the one on disk.
        let opened = self.open_slot(&local.topic, index, true).await;
        if let Some(slot) = local.slots.get_mut(index) {
            *slot = opened;
        }
        self.publish(local);
        self.changed.send_replace(());
        Ok(())
    }

    /// Stops every partition, leaving tables that spare the next start a replay.
    pub async fn close_all(&self) {
        let _one_at_a_time = self.changing.lock().await;
        let close = |partition: Arc<Partition>| async move {
            partition.checkpoint_now().await;
            self.close(&partition).await;
        };
        stream::iter(self.open_partitions()).for_each_concurrent(AT_A_TIME, close).await;
    }

    fn local(&self, name: &str) -> Option<Arc<LocalTopic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn publish(&self, local: LocalTopic) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(local.topic.name.clone(), Arc::new(local));
    }

    async fn delete(&self, local: &LocalTopic) {
        let name = &local.topic.name;
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let delete = |(partition, slot): (PartitionId, Slot)| {
            self.delete_replica(GroupId { topic_id: local.topic.id, partition }, slot)
        };
        let slots = (0..).map(PartitionId).zip(local.slots.iter().cloned());
        stream::iter(slots).for_each_concurrent(AT_A_TIME, delete).await;
        tracing::info!(topic = name, "topic deleted");
    }

    /// Stops a replica and deletes its copy.
    async fn delete_replica(&self, group: GroupId, slot: Slot) {
        match slot {
            Slot::Open(partition) => self.close(&partition).await,
            // What could not be opened may have files all the same.
            Slot::Failed(..) => {}
            Slot::Elsewhere | Slot::Undecided => return,
        }
        if let Err(error) = self.host.data_dir.delete_group(group).await {
            tracing::error!(%group, %error, "files of a deleted replica stay until the next start");
        }
    }

    async fn change(&self, topic: Topic, before: Option<&LocalTopic>, is_current: bool) {
        let config = TopicConfig::stored(&topic.overrides);
        let held = |index: usize| before.and_then(|local| local.slots.get(index)).cloned();
        let change = (0..topic.partitions.len()).map(|index| {
            let (slot, topic) = (held(index).unwrap_or(Slot::Undecided), &topic);
            let recovered = |topic: &Topic| topic.partitions.get(index).and_then(|p| p.recovered_above);
            let to_recover = before.is_some_and(|before| recovered(&before.topic) != recovered(topic));
            if to_recover && let Some(partition) = topic.partitions.get(index) {
                tracing::warn!(
                    topic = topic.name,
                    partition = index,
                    survivor = ?partition.created_with,
                    above = ?partition.recovered_above,
                    "a loss was accepted: the partition goes on with what one replica holds"
                );
            }
            async move {
                let own = self.own_replica(topic, index);
                match (&slot, own) {
                    (Slot::Open(partition), Some(own)) if partition.replica_id() == own.id && !to_recover => {
                        partition.set_config(config);
                        slot
                    }
                    (Slot::Failed(replica_id, _), Some(own)) if *replica_id == own.id && !to_recover => slot,
                    (Slot::Open(partition), Some(own)) if partition.replica_id() == own.id => {
                        self.close(partition).await;
                        self.open_slot(topic, index, is_current).await
                    }
                    (Slot::Failed(replica_id, _), Some(own)) if *replica_id == own.id => {
                        self.open_slot(topic, index, is_current).await
                    }
                    _ => {
                        // Committed metadata has given up the replica that is here, whatever came since.
                        if slot.replica_id().is_some() {
                            tracing::info!(
                                topic = topic.name,
                                partition = index,
                                "a replica leaves this broker"
                            );
                            self.delete_replica(group_id(topic, index), slot).await;
                        }
                        self.open_slot(topic, index, is_current).await
                    }
                }
            }
        });
        let slots = stream::iter(change).buffered(AT_A_TIME).collect::<Vec<_>>().await;
        self.publish(LocalTopic { topic, slots });
    }

    fn own_replica(&self, topic: &Topic, index: usize) -> Option<Replica> {
        topic.partitions.get(index)?.on(self.broker_id, self.host.data_dir.incarnation()).copied()
    }

    async fn open_slot(&self, topic: &Topic, index: usize, may_begin: bool) -> Slot {
        let Some(own) = self.own_replica(topic, index) else { return Slot::Elsewhere };
        let _bounded = self.opening.acquire().await;
        match self.open_replica(topic, index, own, may_begin).await {
            Ok(Some(partition)) => Slot::Open(partition),
            Ok(None) => Slot::Undecided,
            Err(error) => {
                tracing::error!(topic = topic.name, partition = index, %error, "a partition cannot be opened");
                Slot::Failed(own.id, error)
            }
        }
    }

    /// Opens the replica that is on disk; where it is another one or none, begins it if that may be.
    async fn open_replica(
        &self,
        topic: &Topic,
        index: usize,
        own: Replica,
        may_begin: bool,
    ) -> Result<Option<Arc<Partition>>, RequestError> {
        let Some(partition) = topic.partitions.get(index) else { return Ok(None) };
        let group = group_id(topic, index);
        // It would lead at once, by its own vote, even where it was given up while this broker was away.
        let is_alone = partition.replicas.len() == 1;
        let founds = partition.created_with.contains(&own);
        let recovered_above = partition.recovered_above.filter(|_| founds);
        let is_due = |above| !recovery::is_done(&self.host.data_dir, group, above);
        if !may_begin && (is_alone || recovered_above.is_some_and(is_due)) {
            return Ok(None);
        }
        let on_disk = creation(&self.host.data_dir, group)?.map(|record| record.replica_id);
        if on_disk != Some(own.id) {
            if !may_begin {
                return Ok(None);
            }
            if let Some(obsolete) = on_disk {
                tracing::info!(%group, %obsolete, replica_id = %own.id, "a replica is built anew");
                let deleted = self.host.data_dir.delete_group(group).await;
                deleted.map_err(|error| RequestError::Storage(error.to_string()))?;
            }
        }
        let peer = |r: &Replica| (r.id, Peer { broker_id: r.broker, incarnation: r.incarnation });
        let spec = GroupSpec {
            id: group,
            replica_id: own.id,
            // Who joins later learns from the leader who votes.
            voters: if founds { partition.created_with.iter().map(peer).collect() } else { BTreeMap::new() },
            initialize: founds,
        };
        if let Some(above) = recovered_above {
            recovery::make_sole_voter(&self.host.data_dir, group, own, above).await?;
        }
        let config = TopicConfig::stored(&topic.overrides);
        let (name, seed) = (topic.name.as_str().into(), self.entropy.next_u64());
        // The cluster wakes it, in its turn. Its log may have it vote alone while the metadata has more replicas.
        let settings = RaftSettings { start_at_rest: true, lone_voter_leads: may_begin, ..self.settings };
        let opened = Partition::open(name, spec, self.host.clone(), config, settings, seed);
        let partition = Box::pin(opened).await?;
        self.cluster.enlist(Arc::clone(partition.group()) as Arc<dyn LocalGroup>);
        Ok(Some(partition))
    }

    async fn close(&self, partition: &Partition) {
        let group = Arc::clone(partition.group()) as Arc<dyn LocalGroup>;
        self.cluster.dismiss(&group);
        partition.close().await;
    }
}

fn group_id(topic: &Topic, index: usize) -> GroupId {
    // A topic has at most 10,000 partitions.
    GroupId { topic_id: topic.id, partition: PartitionId(i32::try_from(index).unwrap_or(i32::MAX)) }
}
