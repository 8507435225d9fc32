//! Requests about partitions go to their leaders, and again when those have moved.

use std::collections::BTreeMap;

use headwater_proto::{ErrorCode, v1};
use tokio::time::Instant;

use super::types::{ListedOffset, OffsetSpec, PerPartition};
use crate::backoff::Attempts;
use crate::client::Whom;
use crate::metadata::find_topic;
use crate::{Client, ClientError, TopicPartition};

/// Partitions with what is asked about them, by the broker that leads them.
type Groups<W> = BTreeMap<i32, Vec<(TopicPartition, W)>>;

/// Partitions by the broker that leads them, and why the others have none; looks up those that
/// aren't known.
pub async fn by_leader<W, T>(
    client: &Client,
    asked: Vec<(TopicPartition, W)>,
) -> Result<(Groups<W>, PerPartition<T>), ClientError> {
    let leader = |partition: &TopicPartition| client.metadata().leader(&partition.topic, partition.partition);
    let mut unknown: Vec<String> =
        asked.iter().filter(|(p, _)| leader(p).is_none()).map(|(p, _)| p.topic.to_string()).collect();
    unknown.dedup();
    let answer = if unknown.is_empty() { None } else { Some(client.refresh(unknown).await?) };
    let mut groups: Groups<W> = BTreeMap::new();
    let mut nowhere = PerPartition::new();
    for (partition, what) in asked {
        if let Some(broker) = leader(&partition) {
            groups.entry(broker).or_default().push((partition, what));
            continue;
        }
        let target = format!("partition {partition}");
        let found = answer.as_ref().map(|answer| find_topic(answer, "look up", &partition.topic));
        let error = match found {
            Some(Err(error)) => error,
            _ => {
                let known = client.metadata().partition_count(&partition.topic).unwrap_or(0);
                let (code, message) = if partition.partition < 0 || partition.partition >= known {
                    (ErrorCode::UnknownTopicOrPartition, format!("the topic has {known} partitions"))
                } else {
                    (ErrorCode::LeaderNotAvailable, "it has no leader".to_owned())
                };
                let retriable = code == ErrorCode::LeaderNotAvailable;
                ClientError::Refused { operation: "look up", target, code, message, retriable }
            }
        };
        nowhere.insert(partition, Err(error));
    }
    Ok((groups, nowhere))
}

/// Asks the leaders for offsets; again, until the request time-out, where one has moved.
pub async fn list_offsets(
    client: &Client,
    asked: Vec<(TopicPartition, OffsetSpec)>,
) -> Result<PerPartition<ListedOffset>, ClientError> {
    let deadline = Instant::now() + client.config().request_timeout;
    let mut attempts = Attempts::default();
    let mut results = PerPartition::new();
    let mut left = asked;
    loop {
        let again = list_offsets_once(client, left, &mut results).await?;
        if again.is_empty() {
            return Ok(results);
        }
        let pause = attempts.failed(&client.config().retry, client.entropy());
        if Instant::now() + pause >= deadline {
            return Ok(results);
        }
        tokio::time::sleep(pause).await;
        let mut topics: Vec<String> = again.iter().map(|(p, _)| p.topic.to_string()).collect();
        topics.dedup();
        client.refresh(topics).await?;
        left = again;
    }
}

/// Fills in results, and gives back what is worth asking again.
async fn list_offsets_once(
    client: &Client,
    asked: Vec<(TopicPartition, OffsetSpec)>,
    results: &mut PerPartition<ListedOffset>,
) -> Result<Vec<(TopicPartition, OffsetSpec)>, ClientError> {
    let mut again = Vec::new();
    let specs: BTreeMap<TopicPartition, OffsetSpec> = asked.iter().cloned().collect();
    let (groups, nowhere) = by_leader(client, asked).await?;
    for (partition, error) in nowhere {
        if error.as_ref().is_err_and(|error| error.code() == Some(ErrorCode::LeaderNotAvailable))
            && let Some(spec) = specs.get(&partition)
        {
            again.push((partition.clone(), *spec));
        }
        results.insert(partition, error);
    }
    for (broker, group) in groups {
        let partitions: Vec<_> = group
            .iter()
            .map(|(partition, spec)| v1::ListOffsetsPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                timestamp: spec.to_wire(),
            })
            .collect();
        let response = client
            .ask_data(client.request("list offsets of", "partitions"), Whom::Broker(broker), |mut data| {
                let request = v1::ListOffsetsRequest { partitions: partitions.clone() };
                async move { data.list_offsets(request).await }
            })
            .await?;
        let mut answers: BTreeMap<TopicPartition, v1::ListOffsetsResult> = response
            .partitions
            .into_iter()
            .map(|result| (TopicPartition::new(result.topic.as_str(), result.partition), result))
            .collect();
        for (partition, spec) in group {
            let result = read_offset(&partition, answers.remove(&partition));
            if result.as_ref().is_err_and(ClientError::is_retriable) {
                again.push((partition.clone(), spec));
            }
            results.insert(partition, result);
        }
    }
    Ok(again)
}

fn read_offset(
    partition: &TopicPartition,
    answer: Option<v1::ListOffsetsResult>,
) -> Result<ListedOffset, ClientError> {
    const OPERATION: &str = "list offsets of";
    let answer = answer.ok_or_else(|| missing(OPERATION, partition))?;
    match &answer.error {
        Some(error) => Err(ClientError::refused(OPERATION, format!("partition {partition}"), error)),
        None => Ok(ListedOffset {
            offset: (answer.offset >= 0).then_some(answer.offset),
            timestamp_ms: answer.timestamp,
            leader_epoch: answer.leader_epoch,
        }),
    }
}

/// A broker left a partition out of its answer.
pub fn missing(operation: &'static str, partition: &TopicPartition) -> ClientError {
    ClientError::Protocol {
        operation,
        target: format!("partition {partition}"),
        reason: "the partition is missing in the answer".to_owned(),
    }
}
