//! The partitions of this broker: what metadata assigns to it is opened, what it takes away is deleted.
//!
//! Invariants: a partition is served from the moment it is open until its topic is gone from metadata; one
//! that cannot be opened is kept with its reason, and the others are served; files are deleted only for
//! groups of which metadata, fully applied, knows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::{Group, GroupSpec, Peer};
use headwater_core::MetadataState;
use headwater_core::metadata::{Replica, Topic};
use headwater_core::topic_config::TopicConfig;
use headwater_proto::types::{BrokerId, GroupId, PartitionId, TopicId};
use headwater_storage::data_dir::DataDir;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::env::Entropy;
use crate::error::RequestError;
use crate::partition::Partition;

/// Partitions that are opened or closed at the same time.
const AT_A_TIME: usize = 64;

/// One partition of a topic, here.
#[derive(Debug, Clone)]
enum Slot {
    Open(Arc<Partition>),
    /// It cannot be used, for this reason.
    Failed(RequestError),
    /// Its replicas are on other brokers.
    Elsewhere,
}

#[derive(Debug, Clone)]
struct LocalTopic {
    topic: Topic,
    slots: Vec<Slot>,
}

/// Every partition that this broker holds, by topic name.
pub struct Registry {
    data_dir: Arc<DataDir>,
    broker_id: BrokerId,
    entropy: Arc<dyn Entropy>,
    topics: RwLock<BTreeMap<String, Arc<LocalTopic>>>,
    /// One change at a time.
    changing: Mutex<()>,
    /// Bounds what is opened at the same time, of all topics together.
    opening: Semaphore,
    changed: watch::Sender<()>,
}

impl Registry {
    pub fn new(data_dir: Arc<DataDir>, broker_id: BrokerId, entropy: Arc<dyn Entropy>) -> Arc<Self> {
        Arc::new(Self {
            data_dir,
            broker_id,
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
            Some(Slot::Failed(error)) => Err(error.clone()),
            Some(Slot::Elsewhere) => Err(RequestError::NotLeader),
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
                Slot::Failed(_) | Slot::Elsewhere => None,
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

    /// Deletes what a deletion that a crash cut short has left, before anything is opened. Metadata must be
    /// applied in full.
    pub async fn delete_leftovers(&self, state: &BTreeSet<GroupId>) -> std::io::Result<()> {
        for group in self.data_dir.groups() {
            if group != GroupId::METADATA && !state.contains(&group) {
                tracing::info!(%group, "deleting what is left of a deleted partition");
                self.data_dir.delete_group(group).await?;
            }
        }
        Ok(())
    }

    /// Opens, changes and deletes partitions until what is here is what metadata says.
    pub async fn follow(&self, metadata: &Group<MetadataState>) {
        let _one_at_a_time = self.changing.lock().await;
        let held = self.topics.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (gone, changed) = metadata.with_state(|state| {
            let gone = held.values().filter(|local| state.topic_by_id(local.topic.id).is_none());
            let differs = |topic: &&Topic| held.get(&topic.name).is_none_or(|local| local.topic != **topic);
            let changed = state.topics().filter(differs);
            (gone.cloned().collect::<Vec<_>>(), changed.cloned().collect::<Vec<_>>())
        });
        for local in gone {
            self.delete(&local).await;
        }
        let open = |topic: Topic| {
            let before = held.get(&topic.name).filter(|local| local.topic.id == topic.id);
            self.open(topic, before.map(Arc::as_ref))
        };
        stream::iter(changed).for_each_concurrent(AT_A_TIME, open).await;
        self.changed.send_replace(());
    }

    /// Tries again what could not be opened: the reason may have passed, as a full disk's does.
    pub async fn retry_failed(&self) {
        let _one_at_a_time = self.changing.lock().await;
        let held = self.topics.read().unwrap_or_else(PoisonError::into_inner).clone();
        for local in held.values() {
            let failed = |slot: &Slot| matches!(slot, Slot::Failed(_));
            if !local.slots.iter().any(failed) {
                continue;
            }
            let mut local = LocalTopic::clone(local);
            for index in 0..local.slots.len() {
                if failed(&local.slots[index]) {
                    local.slots[index] = self.open_slot(&local.topic, index).await;
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
        before.close().await;
        drop(before);
        let mut local = LocalTopic::clone(&local);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let opened = self.open_slot(&local.topic, index).await;
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
            partition.close().await;
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
        let delete = |(partition, slot): (PartitionId, Slot)| async move {
            match slot {
                Slot::Open(partition) => partition.close().await,
                // What could not be opened may have files all the same.
                Slot::Failed(_) => {}
                Slot::Elsewhere => return,
            }
            let group = GroupId { topic_id: local.topic.id, partition };
            if let Err(error) = self.data_dir.delete_group(group).await {
                tracing::error!(topic = name, %group, %error, "files of a deleted partition stay until the next start");
            }
        };
        let slots = (0..).map(PartitionId).zip(local.slots.iter().cloned());
        stream::iter(slots).for_each_concurrent(AT_A_TIME, delete).await;
        tracing::info!(topic = name, "topic deleted");
    }

    async fn open(&self, topic: Topic, before: Option<&LocalTopic>) {
        let config = TopicConfig::stored(&topic.overrides);
        let mut slots = before.map_or_else(Vec::new, |local| local.slots.clone());
        for slot in &slots {
            if let Slot::Open(partition) = slot {
                partition.set_config(config);
            }
        }
        let open = (slots.len()..topic.partitions.len()).map(|number| self.open_slot(&topic, number));
        slots.extend(stream::iter(open).buffered(AT_A_TIME).collect::<Vec<_>>().await);
        self.publish(LocalTopic { topic, slots });
    }

    async fn open_slot(&self, topic: &Topic, index: usize) -> Slot {
        let (number, partition) = match (i32::try_from(index), topic.partitions.get(index)) {
            (Ok(number), Some(partition)) => (PartitionId(number), partition),
            _ => return Slot::Elsewhere,
        };
        let Some(own) = partition.on(self.broker_id, self.data_dir.incarnation()) else {
            return Slot::Elsewhere;
        };
        let _bounded = self.opening.acquire().await;
        let peer = |r: &Replica| (r.id, Peer { broker_id: r.broker, incarnation: r.incarnation });
        let spec = GroupSpec {
            id: GroupId { topic_id: topic.id, partition: number },
            replica_id: own.id,
            voters: partition.created_with.iter().map(peer).collect(),
            initialize: true,
        };
        let config = TopicConfig::stored(&topic.overrides);
        let name = topic.name.as_str().into();
        let seed = self.entropy.next_u64();
        match Box::pin(Partition::open(name, spec, Arc::clone(&self.data_dir), config, seed)).await {
            Ok(partition) => Slot::Open(partition),
            Err(error) => {
                tracing::error!(topic = topic.name, partition = %number, %error, "a partition cannot be opened");
                Slot::Failed(error)
            }
        }
    }
}
