//! Admin requests: one method each, typed, with one result for each topic or partition asked for.
//!
//! Any broker takes any request, and passes on what another must do; what is about one partition goes
//! straight to its leader. What only reads is asked again until the request time-out. What changes
//! something is asked again only if it is certain that nothing was done; once a broker may have seen it,
//! [`ClientError::OutcomeUnknown`] says so, and the caller looks first.

mod changes;
mod cluster;
mod leaders;
mod types;

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_proto::types::TopicId;
use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use tokio::task::JoinSet;

pub(crate) use leaders::list_offsets;
pub use types::{
    Cluster, ListedOffset, NewTopic, OffsetSpec, PerPartition, PerTopic, Topic, TopicCreated,
    TopicPartitionInfo,
};

use self::changes::change_topics;
use self::leaders::at_leaders;
use crate::client::Request;
use crate::metadata::find_topic;
use crate::{Client, ClientError, ConfigDescription, PartitionDescription, TopicPartition};

/// Bound on the wait for one of several brokers that are asked at the same time.
const ONE_OF_SEVERAL: Duration = Duration::from_secs(5);

/// Asks about the cluster and changes it. Cheap to clone.
///
/// The outer error says that nothing could be asked (or, for a change, that its outcome is unknown);
/// the inner ones are the broker's answers, one for each topic or partition.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The cluster as the asked broker sees it.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        let v1::MetadataResponse { cluster_id, controller_id, brokers, .. } =
            self.client.refresh(Vec::new()).await?;
        Ok(Cluster { cluster_id, controller_id, brokers })
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn list_topics(&self) -> Result<Vec<Topic>, ClientError> {
        let response = self.client.refresh(Vec::new()).await?;
        let mut topics: Vec<Topic> =
            response.topics.into_iter().filter(|topic| topic.error.is_none()).map(Topic::from).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// The named topics with their partitions.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn describe_topics<S: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = S>,
    ) -> Result<PerTopic<Topic>, ClientError> {
        let names: Vec<String> = topics.into_iter().map(Into::into).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let response = self.client.look_up(names.clone()).await?;
        let describe = |name: String| {
            let topic = find_topic(&response, "describe", &name).map(|topic| Topic::from(topic.clone()));
            (name, topic)
        };
        Ok(names.into_iter().map(describe).collect())
    }

    /// Creates topics, or only checks whether they could be.
    ///
    /// # Errors
    /// No broker answered; [`ClientError::OutcomeUnknown`] where one may have done it.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Result<PerTopic<TopicCreated>, ClientError> {
        let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
        let topics = topics.into_iter().map(|topic| (topic.name.clone(), topic.into_wire())).collect();
        let request = self.change("create", "topics", validate_only);
        let create = |mut admin: AdminClient<_>, topics| async move {
            admin.create_topics(v1::CreateTopicsRequest { topics, validate_only, timeout_ms: 0 }).await
        };
        let results = change_topics(&self.client, request, topics, create).await?;
        Ok(per_topic("create", names, results, |result| TopicCreated {
            topic_id: topic_id(&result.topic_id),
            partitions: result.partitions,
            replicas: result.replicas,
        }))
    }

    /// Deletes topics with all their records.
    ///
    /// # Errors
    /// As [`Admin::create_topics`].
    pub async fn delete_topics<S: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = S>,
    ) -> Result<PerTopic<()>, ClientError> {
        let names: Vec<String> = topics.into_iter().map(Into::into).collect();
        let request = self.change("delete", "topics", false);
        let topics = names.iter().map(|name| (name.clone(), name.clone())).collect();
        let delete = |mut admin: AdminClient<_>, topics| async move {
            admin.delete_topics(v1::DeleteTopicsRequest { topics }).await
        };
        let results = change_topics(&self.client, request, topics, delete).await?;
        Ok(per_topic("delete", names, results, |_| ()))
    }

    /// Raises the number of partitions of each topic to a new total.
    ///
    /// # Errors
    /// As [`Admin::create_topics`].
    pub async fn create_partitions(
        &self,
        totals: Vec<(String, i32)>,
        validate_only: bool,
    ) -> Result<PerTopic<()>, ClientError> {
        let names: Vec<String> = totals.iter().map(|(topic, _)| topic.clone()).collect();
        let topics = totals
            .into_iter()
            .map(|(topic, partitions)| (topic.clone(), v1::NewPartitions { topic, partitions }))
            .collect();
        let request = self.change("add partitions to", "topics", validate_only);
        let add = |mut admin: AdminClient<_>, topics| async move {
            admin.create_partitions(v1::CreatePartitionsRequest { topics, validate_only }).await
        };
        let results = change_topics(&self.client, request, topics, add).await?;
        if !validate_only {
            self.client.refresh(names.clone()).await?;
        }
        Ok(per_topic("add partitions to", names, results, |_| ()))
    }

    /// Every config of each topic, with value, default and documentation.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn describe_configs<S: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = S>,
    ) -> Result<PerTopic<Vec<ConfigDescription>>, ClientError> {
        const OPERATION: &str = "describe the configs of";
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        let response = self
            .client
            .ask_admin(self.client.request(OPERATION, "topics"), |mut admin| {
                let topics = topics.clone();
                async move { admin.describe_configs(v1::DescribeConfigsRequest { topics }).await }
            })
            .await?;
        let mut answers: BTreeMap<String, v1::TopicConfigs> =
            response.topics.into_iter().map(|topic| (topic.topic.clone(), topic)).collect();
        let describe = |name: String| {
            let result = answer(OPERATION, &name, answers.remove(&name), |topic| topic.error.as_ref());
            (name, result.map(|topic| topic.configs))
        };
        Ok(topics.into_iter().map(describe).collect())
    }

    /// Sets configs of one topic; `None` resets one to its default.
    ///
    /// # Errors
    /// As [`Admin::create_topics`], and what the broker refuses.
    pub async fn alter_configs(
        &self,
        topic: &str,
        configs: Vec<(String, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), ClientError> {
        const OPERATION: &str = "alter the configs of";
        let configs = configs.into_iter().map(|(name, value)| v1::ConfigEntry { name, value }).collect();
        let change = v1::AlterTopicConfigs { topic: topic.to_owned(), configs };
        let request = self.change(OPERATION, topic, validate_only);
        let alter = |mut admin: AdminClient<_>, topics| async move {
            admin.alter_configs(v1::AlterConfigsRequest { topics, validate_only }).await
        };
        let mut results =
            change_topics(&self.client, request, vec![(topic.to_owned(), change)], alter).await?;
        answer(OPERATION, topic, results.remove(topic), |result| result.error.as_ref()).map(|_| ())
    }

    /// Moves log starts: what lies below an offset is gone. `None` deletes all there is. Gives the
    /// new log starts. Sent again until the request time-out: doing it twice does no more.
    ///
    /// # Errors
    /// A leader did not answer.
    pub async fn delete_records(
        &self,
        below: Vec<(TopicPartition, Option<i64>)>,
    ) -> Result<PerPartition<i64>, ClientError> {
        at_leaders(&self.client, "delete records of", below, |broker, within, group| async move {
            let wire = |(partition, offset): (TopicPartition, Option<i64>)| v1::DeleteRecordsPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                offset: offset.unwrap_or(-1),
            };
            let request = v1::DeleteRecordsRequest { partitions: group.into_iter().map(wire).collect() };
            let call = |mut admin: AdminClient<_>| async move { admin.delete_records(request).await };
            let response = self.client.ask_broker_admin(broker, within, call).await?;
            let read = |answer: v1::DeleteRecordsResult| {
                let result = answer.error.map_or(Ok(answer.log_start_offset), Err);
                (TopicPartition::new(answer.topic.as_str(), answer.partition), result)
            };
            Ok(response.partitions.into_iter().map(read).collect())
        })
        .await
    }

    /// Accepts that damaged records of these partitions are lost, so that they can be written again.
    /// Sent again until the request time-out: doing it twice does no more.
    ///
    /// # Errors
    /// A leader did not answer.
    pub async fn accept_loss(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> Result<PerPartition<()>, ClientError> {
        let asked = partitions.into_iter().map(|partition| (partition, ())).collect();
        at_leaders(&self.client, "accept the loss of", asked, |broker, within, group| async move {
            let wire = |(partition, ()): (TopicPartition, ())| v1::TopicPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
            };
            let request = v1::AcceptLossRequest { partitions: group.into_iter().map(wire).collect() };
            let call = |mut admin: AdminClient<_>| async move { admin.accept_loss(request).await };
            let response = self.client.ask_broker_admin(broker, within, call).await?;
            let read = |answer: v1::AcceptLossResult| {
                let result = answer.error.map_or(Ok(()), Err);
                (TopicPartition::new(answer.topic.as_str(), answer.partition), result)
            };
            Ok(response.partitions.into_iter().map(read).collect())
        })
        .await
    }

    /// Offsets of partitions, from their leaders.
    ///
    /// # Errors
    /// A leader did not answer.
    pub async fn list_offsets(
        &self,
        asked: Vec<(TopicPartition, OffsetSpec)>,
    ) -> Result<PerPartition<ListedOffset>, ClientError> {
        list_offsets(&self.client, asked).await
    }

    /// Sizes, offsets and segments of each partition of the topics (all, when none is named), as the
    /// brokers that lead them hold them, or as any does where the leader did not answer; by topic and
    /// partition.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn describe_partitions<S: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = S>,
    ) -> Result<Vec<PartitionDescription>, ClientError> {
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        let brokers = self.client.refresh(Vec::new()).await?.brokers;
        let within = match brokers.len() {
            1 => self.client.config().request_timeout,
            _ => self.client.config().request_timeout.min(ONE_OF_SEVERAL),
        };
        let mut asked = JoinSet::new();
        for broker in brokers {
            let (client, topics) = (self.client.clone(), topics.clone());
            asked.spawn(async move {
                let call = |mut admin: AdminClient<_>| async move {
                    admin.describe_partitions(v1::DescribePartitionsRequest { topics }).await
                };
                (broker.id, client.ask_broker_admin(broker.id, within, call).await)
            });
        }
        let mut answers: Vec<_> = asked.join_all().await;
        answers.sort_by_key(|(broker, _)| *broker);
        let mut found: BTreeMap<(String, i32), PartitionDescription> = BTreeMap::new();
        let (mut answered, mut failed) = (false, None);
        for (broker, answer) in answers {
            let partitions = match answer {
                Ok(response) => response.partitions,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            answered = true;
            for partition in partitions {
                let key = (partition.topic.clone(), partition.partition);
                if partition.leader_id == broker || !found.contains_key(&key) {
                    found.insert(key, partition);
                }
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(found.into_values().collect()),
        }
    }

    fn change<'a>(&self, operation: &'static str, target: &'a str, validate_only: bool) -> Request<'a> {
        Request { changes: !validate_only, ..self.client.request(operation, target) }
    }
}

/// The results in the order in which they were asked for.
fn per_topic<T>(
    operation: &'static str,
    names: Vec<String>,
    mut results: BTreeMap<String, v1::TopicResult>,
    read: impl Fn(v1::TopicResult) -> T,
) -> PerTopic<T> {
    let find = |name: String| {
        let result = answer(operation, &name, results.remove(&name), |result| result.error.as_ref());
        (name, result.map(&read))
    };
    names.into_iter().map(find).collect()
}

/// One topic's part of an answer, or why there is none.
fn answer<T>(
    operation: &'static str,
    name: &str,
    found: Option<T>,
    error: impl Fn(&T) -> Option<&v1::Error>,
) -> Result<T, ClientError> {
    let target = format!("topic {name}");
    let Some(found) = found else {
        let reason = "the topic is missing in the answer".to_owned();
        return Err(ClientError::Protocol { operation, target, reason });
    };
    match error(&found) {
        Some(error) => Err(ClientError::refused(operation, target, error)),
        None => Ok(found),
    }
}

/// 32 hexadecimal digits; empty for what is no topic id.
fn topic_id(bytes: &[u8]) -> String {
    <[u8; 16]>::try_from(bytes).map_or_else(|_| String::new(), |id| TopicId(id).to_string())
}

impl From<v1::TopicMetadata> for Topic {
    fn from(topic: v1::TopicMetadata) -> Self {
        let mut partitions: Vec<_> = topic
            .partitions
            .into_iter()
            .map(|p| TopicPartitionInfo {
                partition: p.partition,
                leader_id: (p.leader_id >= 0).then_some(p.leader_id),
                leader_epoch: p.leader_epoch,
                replicas: p.replicas,
                in_sync: p.in_sync,
            })
            .collect();
        partitions.sort_by_key(|partition| partition.partition);
        Self { name: topic.name, topic_id: topic_id(&topic.topic_id), internal: topic.internal, partitions }
    }
}
