//! Administration of topics, as both protocols offer it.

use std::collections::BTreeSet;
use std::time::Duration;

use headwater_core::metadata::{Command, MetadataError, Topic};
use headwater_core::placement::{NotEnoughBrokers, Pool};
use headwater_core::topic_config::Overrides;
use headwater_proto::types::{BrokerId, GroupId, PartitionId, TopicId};
use tokio::time::Instant;

use super::{Controller, within};
use crate::error::RequestError;

/// A new partition elects its leader within a second, unless most of its brokers are away.
const LED_WITHIN: Duration = Duration::from_secs(3);
/// A broker of a new cluster registers within a second of its founding, unless it is away.
const REGISTERED_WITHIN: Duration = Duration::from_secs(3);

/// A topic to be created; zeros stand for the broker's defaults.
#[derive(Debug, Clone)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    pub replicas: i32,
    pub configs: Vec<ConfigChange>,
}

/// A config and its value; `None`: back to the default.
pub type ConfigChange = (String, Option<String>);

/// A topic after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOutcome {
    pub id: TopicId,
    pub partitions: usize,
    pub replicas: usize,
}

impl TopicOutcome {
    fn of(topic: &Topic) -> Self {
        Self { id: topic.id, partitions: topic.partitions.len(), replicas: topic.replica_count() }
    }
}

impl Controller {
    /// Creates a topic, and returns once its partitions can be used.
    pub async fn create_topic(
        &self,
        topic: NewTopic,
        validate_only: bool,
        timeout_ms: u64,
    ) -> Result<TopicOutcome, RequestError> {
        let partitions = match topic.partitions {
            0 => self.limits.default_partitions,
            partitions => partitions,
        };
        let partitions = usize::try_from(partitions)
            .map_err(|_| RequestError::from(MetadataError::PartitionCount { partitions: 0 }))?;
        let replicas = usize::try_from(topic.replicas.max(1)).unwrap_or(1);
        let id = self.new_topic_id();
        self.check_room(1, partitions)?;
        let command = Command::CreateTopic {
            id,
            name: topic.name.clone(),
            assignments: self.assign(None, partitions, replicas).await?,
            overrides: overrides(topic.configs)?,
        };
        let outcome = TopicOutcome { id, partitions, replicas };
        if validate_only {
            self.check(&command)?;
            return Ok(outcome);
        }
        within(timeout_ms, async {
            self.submit(command).await?;
            self.registry.wait_for(&topic.name, Some((id, partitions))).await;
            self.wait_led(id, 0..partitions).await;
            Ok(outcome)
        })
        .await
    }

    /// Deletes a topic with all its records.
    pub async fn delete_topic(&self, name: &str, timeout_ms: u64) -> Result<TopicOutcome, RequestError> {
        let topic = self.find_topic(name).await?;
        within(timeout_ms, async {
            self.submit(Command::DeleteTopic { id: topic.id }).await?;
            self.registry.wait_for(name, None).await;
            Ok(TopicOutcome::of(&topic))
        })
        .await
    }

    /// Adds partitions, up to `total`.
    pub async fn create_partitions(
        &self,
        name: &str,
        total: i32,
        validate_only: bool,
        timeout_ms: u64,
    ) -> Result<TopicOutcome, RequestError> {
        let topic = self.find_topic(name).await?;
        let before = topic.partitions.len();
        let total = usize::try_from(total).unwrap_or(0);
        if total <= before {
            return Err(MetadataError::PartitionsNotAdded { found: before }.into());
        }
        self.check_room(0, total - before)?;
        let replicas = topic.replica_count();
        let assignments = self.assign(Some(&topic), total - before, replicas).await?;
        let command = Command::CreatePartitions { id: topic.id, before, assignments };
        let outcome = TopicOutcome { id: topic.id, partitions: total, replicas };
        if validate_only {
            self.check(&command)?;
            return Ok(outcome);
        }
        within(timeout_ms, async {
            self.submit(command).await?;
            self.registry.wait_for(name, Some((topic.id, total))).await;
            self.wait_led(topic.id, before..total).await;
            Ok(outcome)
        })
        .await
    }

    /// Sets configs, or puts them back to their defaults; all or none of a topic.
    pub async fn alter_configs(
        &self,
        name: &str,
        changes: Vec<ConfigChange>,
        validate_only: bool,
        timeout_ms: u64,
    ) -> Result<TopicOutcome, RequestError> {
        let topic = self.find_topic(name).await?;
        for (config, _) in &changes {
            headwater_core::topic_config::known(config).map_err(MetadataError::from)?;
        }
        let command = Command::AlterConfigs { id: topic.id, changes };
        if validate_only {
            self.check(&command)?;
        } else {
            within(timeout_ms, self.submit(command)).await?;
        }
        Ok(TopicOutcome::of(&topic))
    }

    /// Brokers for more partitions, of a topic that may have some already: balanced, over as many racks as there are,
    /// and those first that answer at the moment. Waits for those that are about to register if they are needed.
    async fn assign(
        &self,
        topic: Option<&Topic>,
        partitions: usize,
        replicas: usize,
    ) -> Result<Vec<Vec<BrokerId>>, RequestError> {
        // A number beyond every limit is refused later; it must not take memory before that.
        let partitions = partitions.min(headwater_core::metadata::PARTITIONS_PER_TOPIC_MAX + 1);
        let (mut progress, mut current) = (self.group().progress(), self.current());
        let deadline = Instant::now() + REGISTERED_WITHIN;
        loop {
            let mut pool = self.with_state(|state| Pool::of(state, |broker| self.cluster.alive(broker)));
            let brokers = match pool.place(topic, partitions, replicas) {
                Ok(assignments) => return Ok(assignments),
                Err(NotEnoughBrokers { brokers, .. }) => brokers,
            };
            let complete = *current.borrow_and_update();
            if complete && brokers + self.unregistered() < replicas {
                return Err(MetadataError::ReplicationFactor { replicas, brokers }.into());
            }
            let changed = async {
                tokio::select! {
                    changed = progress.changed() => changed,
                    changed = current.changed() => changed,
                }
            };
            if !matches!(tokio::time::timeout_at(deadline, changed).await, Ok(Ok(()))) {
                return Err(RequestError::BrokersStarting { replicas, brokers });
            }
        }
    }

    /// Brokers with a replica of the metadata that have not registered: those of a cluster that was just founded.
    fn unregistered(&self) -> usize {
        let members = self.group().membership().peers;
        let brokers: BTreeSet<_> = members.values().map(|peer| peer.broker_id).collect();
        self.with_state(|state| brokers.into_iter().filter(|id| state.broker(*id).is_none()).count())
    }

    /// Waits until somebody leads each of the partitions from `first` on. Who gives up waiting has a topic all the same.
    async fn wait_led(&self, topic: TopicId, partitions: std::ops::Range<usize>) {
        let mut changes = self.cluster.changes();
        let is_led = |partition: usize| {
            let partition = PartitionId(i32::try_from(partition).unwrap_or(i32::MAX));
            self.cluster.leader(GroupId { topic_id: topic, partition }).is_some()
        };
        let all_led = async {
            for partition in partitions {
                while !is_led(partition) {
                    // The cluster outlives every waiter.
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(LED_WITHIN, all_led).await;
    }

    /// Whether the broker's own limits allow that many more.
    fn check_room(&self, topics: usize, partitions: usize) -> Result<(), RequestError> {
        let (topics_now, partitions_now) = self.with_state(|state| {
            state.topics().fold((0, 0), |(topics, sum), topic| (topics + 1, sum + topic.partitions.len()))
        });
        for (what, found, more, limit) in [
            ("topics", topics_now, topics, self.limits.topics_max),
            ("partitions", partitions_now, partitions, self.limits.partitions_max),
        ] {
            if more > limit.saturating_sub(found) {
                return Err(RequestError::LimitReached { what, found, limit });
            }
        }
        Ok(())
    }
}

/// The configs of a new topic; one without a value asks for the default, and is not stored.
fn overrides(configs: Vec<ConfigChange>) -> Result<Overrides, RequestError> {
    let mut overrides = Overrides::new();
    for (name, value) in configs {
        headwater_core::topic_config::known(&name).map_err(MetadataError::from)?;
        let Some(value) = value else { continue };
        if overrides.insert(name.clone(), value).is_some() {
            return Err(RequestError::Invalid(format!("config {name} is given twice")));
        }
    }
    Ok(overrides)
}
