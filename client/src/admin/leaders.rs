//! Requests about partitions go to their leaders, and again where those have moved or are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_proto::{ErrorCode, v1};
use tokio::time::Instant;

use super::types::{ListedOffset, OffsetSpec, PerPartition};
use crate::backoff::Attempts;
use crate::metadata::find_topic;
use crate::{Client, ClientError, TopicPartition};

/// Partitions with what is asked about them.
pub type Asked<W> = Vec<(TopicPartition, W)>;

/// What a leader answered about one partition.
pub type Answer<T> = (TopicPartition, Result<T, v1::Error>);

/// Partitions by the broker that leads them, and why the others have none; looks up those that
/// aren't known.
async fn by_leader<W, T>(
    client: &Client,
    asked: Asked<W>,
) -> Result<(BTreeMap<i32, Asked<W>>, PerPartition<T>), ClientError> {
    let leader = |partition: &TopicPartition| client.metadata().leader(&partition.topic, partition.partition);
    let unknown = topics(asked.iter().filter(|(partition, _)| leader(partition).is_none()));
    let answer = if unknown.is_empty() { None } else { Some(client.look_up(unknown).await?) };
    let mut groups: BTreeMap<i32, Asked<W>> = BTreeMap::new();
    let mut nowhere = PerPartition::new();
    for (partition, what) in asked {
        if let Some(leader) = leader(&partition) {
            groups.entry(leader.broker).or_default().push((partition, what));
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

fn topics<'a, W: 'a>(asked: impl IntoIterator<Item = &'a (TopicPartition, W)>) -> Vec<String> {
    let mut topics: Vec<String> = asked.into_iter().map(|(p, _)| p.topic.to_string()).collect();
    topics.sort();
    topics.dedup();
    topics
}

/// Asks the leaders until all partitions have an answer that would not be another one in a moment, or
/// the request time-out is over. `call` is given a broker, a bound on the wait and the partitions to
/// ask for; it may be asked twice for one partition.
pub async fn at_leaders<W, T, F>(
    client: &Client,
    operation: &'static str,
    asked: Asked<W>,
    call: impl Fn(i32, Duration, Asked<W>) -> F,
) -> Result<PerPartition<T>, ClientError>
where
    W: Clone,
    F: Future<Output = Result<Vec<Answer<T>>, ClientError>>,
{
    let deadline = Instant::now() + client.config().request_timeout;
    let mut patience = client.config().leader_check;
    let mut attempts = Attempts::default();
    let mut results = PerPartition::new();
    let mut left = asked;
    loop {
        let (groups, nowhere) = by_leader(client, left.clone()).await?;
        results.extend(nowhere);
        let mut hinted = true;
        for (broker, group) in groups {
            let within = patience.min(deadline.saturating_duration_since(Instant::now()));
            match call(broker, within, group.clone()).await {
                Ok(answers) => hinted &= take_answers(client, operation, group, answers, &mut results),
                Err(error) if error.is_retriable() => {
                    hinted = false;
                    results.extend(group.into_iter().map(|(partition, _)| (partition, Err(error.clone()))));
                }
                Err(error) => return Err(error),
            }
        }
        left.retain(|(partition, _)| {
            let result = results.get(partition);
            result.is_some_and(|result| result.as_ref().is_err_and(ClientError::is_retriable))
        });
        if left.is_empty() {
            return Ok(results);
        }
        hinted &= left.iter().all(|(p, _)| client.metadata().leader(&p.topic, p.partition).is_some());
        if hinted {
            continue;
        }
        let pause = attempts.searched(&client.config().retry, client.entropy());
        patience = patience.saturating_mul(2);
        if Instant::now() + pause >= deadline {
            return Ok(results);
        }
        tokio::time::sleep(pause).await;
        // Without an answer there are still the last ones.
        if !matches!(tokio::time::timeout_at(deadline, client.refresh(topics(&left))).await, Ok(Ok(_))) {
            return Ok(results);
        }
    }
}

/// Takes over what a leader answered; `true` if each that can't answer said who can.
fn take_answers<W, T>(
    client: &Client,
    operation: &'static str,
    asked: Asked<W>,
    answers: Vec<Answer<T>>,
    results: &mut PerPartition<T>,
) -> bool {
    let mut hinted = true;
    let mut answers: BTreeMap<TopicPartition, Result<T, v1::Error>> = answers.into_iter().collect();
    for (partition, _) in asked {
        let result = match answers.remove(&partition) {
            None => Err(missing(operation, &partition)),
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => {
                let hint = error.leader.as_ref();
                let learnt = hint
                    .is_some_and(|hint| client.metadata().learn(&partition.topic, partition.partition, hint));
                hinted &= learnt || !error.retriable;
                Err(ClientError::refused(operation, format!("partition {partition}"), &error))
            }
        };
        results.insert(partition, result);
    }
    hinted
}

/// Asks the leaders for offsets.
pub async fn list_offsets(
    client: &Client,
    asked: Asked<OffsetSpec>,
) -> Result<PerPartition<ListedOffset>, ClientError> {
    at_leaders(client, "list offsets of", asked, |broker, within, group| async move {
        let wire = |(partition, spec): (TopicPartition, OffsetSpec)| v1::ListOffsetsPartition {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            timestamp: spec.to_wire(),
        };
        let request = v1::ListOffsetsRequest { partitions: group.into_iter().map(wire).collect() };
        let response = client
            .ask_broker_data(broker, within, |mut data| async move { data.list_offsets(request).await })
            .await?;
        Ok(response.partitions.into_iter().map(read_offset).collect())
    })
    .await
}

fn read_offset(answer: v1::ListOffsetsResult) -> Answer<ListedOffset> {
    let result = match answer.error {
        Some(error) => Err(error),
        None => Ok(ListedOffset {
            offset: (answer.offset >= 0).then_some(answer.offset),
            timestamp_ms: answer.timestamp,
            leader_epoch: answer.leader_epoch,
        }),
    };
    (TopicPartition::new(answer.topic.as_str(), answer.partition), result)
}

/// A broker left a partition out of its answer.
fn missing(operation: &'static str, partition: &TopicPartition) -> ClientError {
    ClientError::Protocol {
        operation,
        target: format!("partition {partition}"),
        reason: "the partition is missing in the answer".to_owned(),
    }
}
