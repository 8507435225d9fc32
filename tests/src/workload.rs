//! Load that knows what must be there afterwards: the same for real processes and for the simulation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headwater_client::{
    Client, ClientError, ConsumeError, ConsumerConfig, Delivery, DeliveryError, OffsetSpec, Position,
    Producer, ProducerRecord, TopicPartition,
};
use tokio::sync::watch;

use crate::ledger::{Ledger, Outcome, Partition, ReadRecord, Sent};

/// Records that one producer has under way before it waits for the oldest.
const UNDER_WAY_MAX: usize = 200;
/// A reader that hears nothing for this long asks the broker where the end is.
const QUIET: Duration = Duration::from_millis(300);
/// A final read that makes no progress for this long gives up.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A ledger that producers and readers write to.
pub type SharedLedger = Arc<Mutex<Ledger>>;

/// Records in offset order, per topic and partition.
pub type Records = BTreeMap<Partition, Vec<ReadRecord>>;

/// Runs `note` on the ledger.
pub fn note<T>(ledger: &SharedLedger, note: impl FnOnce(&mut Ledger) -> T) -> T {
    note(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Partitions of a topic that a load writes to.
#[derive(Debug, Clone)]
pub struct Target {
    pub topic: Arc<str>,
    pub partitions: i32,
}

impl Target {
    #[must_use]
    pub fn new(topic: &str, partitions: i32) -> Self {
        Self { topic: topic.into(), partitions }
    }

    /// Its partitions.
    pub fn all(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        (0..self.partitions).map(|partition| TopicPartition::new(Arc::clone(&self.topic), partition))
    }
}

/// Sends unique values over all partitions of the targets, in turn, until told to stop; then waits for
/// the last outcome. `pace` is the pause after each record, zero for none.
pub async fn produce(
    producer: Producer,
    number: u32,
    targets: Vec<Target>,
    ledger: SharedLedger,
    mut stop: watch::Receiver<bool>,
    pace: Duration,
) {
    let partitions: Vec<TopicPartition> = targets.iter().flat_map(Target::all).collect();
    let mut under_way: VecDeque<(u64, TopicPartition, Delivery)> = VecDeque::new();
    let mut sequence = 0_u64;
    while !*stop.borrow_and_update() {
        let partition = &partitions[(sequence as usize) % partitions.len()];
        let value = (u64::from(number) << 40) | sequence;
        sequence += 1;
        let record =
            ProducerRecord::new(Arc::clone(&partition.topic), payload(value)).partition(partition.partition);
        // A record that was not accepted was never sent: there is nothing to check.
        if let Ok(delivery) = producer.send(record).await {
            under_way.push_back((value, partition.clone(), delivery));
        }
        while under_way.len() > UNDER_WAY_MAX {
            settle_oldest(&mut under_way, number, &ledger).await;
        }
        if pace.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pace).await;
        }
    }
    while !under_way.is_empty() {
        settle_oldest(&mut under_way, number, &ledger).await;
    }
}

async fn settle_oldest(
    under_way: &mut VecDeque<(u64, TopicPartition, Delivery)>,
    producer: u32,
    ledger: &SharedLedger,
) {
    let Some((value, partition, delivery)) = under_way.pop_front() else { return };
    let outcome = match delivery.await {
        Ok(delivered) => Outcome::Acked(delivered.offset),
        Err(DeliveryError::Unknown { .. }) => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    };
    let sent = Sent { partition: name(&partition), producer, value, outcome };
    note(ledger, |ledger| ledger.sent(sent));
}

/// Reads the target from its start and notes every record, until told to stop. A position that was deleted
/// meanwhile is left for the log start, as a new reader.
pub async fn follow(
    client: Client,
    mut number: u32,
    target: Target,
    ledger: SharedLedger,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ConsumeError> {
    const NEXT_READER: u32 = 1_000;
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign(target.all().map(|partition| (partition, Position::Start)).collect::<Vec<_>>()).await?;
    loop {
        let next = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            next = consumer.next() => next,
        };
        match next {
            Ok(record) => {
                let Some(value) = record.value.as_deref().and_then(value_of) else { continue };
                let partition = (record.topic.to_string(), record.partition);
                note(&ledger, |ledger| ledger.polled(number, partition, record.offset, value));
            }
            Err(ConsumeError::OffsetOutOfRange { partition, .. }) => {
                number += NEXT_READER;
                consumer.seek(&partition, Position::Start).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Everything in the targets' partitions from their log starts to their ends, and the log starts.
pub async fn read_all(
    client: &Client,
    targets: &[Target],
) -> Result<(Records, BTreeMap<Partition, i64>), Box<dyn std::error::Error + Send + Sync>> {
    let partitions: Vec<TopicPartition> = targets.iter().flat_map(Target::all).collect();
    let ends = offsets(client, &partitions, OffsetSpec::HighWatermark).await?;
    let mut records: Records = partitions.iter().map(|partition| (name(partition), Vec::new())).collect();
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer
        .assign(partitions.iter().map(|partition| (partition.clone(), Position::Start)).collect::<Vec<_>>())
        .await?;
    let reached = |consumer: &headwater_client::Consumer| {
        partitions.iter().all(|partition| consumer.position(partition).unwrap_or(0) >= ends[&name(partition)])
    };
    while !reached(&consumer) {
        let next = tokio::time::timeout(FINAL_READ_TIMEOUT, consumer.next())
            .await
            .map_err(|_| format!("the final read stopped before {ends:?}"))?;
        let record = match next {
            Ok(record) => record,
            // Retention overtook the reader; the log starts, listed below, bound what it may have deleted.
            Err(ConsumeError::OffsetOutOfRange { partition, .. }) => {
                consumer.seek(&partition, Position::Start).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(value) = record.value.as_deref().and_then(value_of) else {
            return Err(format!(
                "{}-{} offset {}: not a value of ours",
                record.topic, record.partition, record.offset
            )
            .into());
        };
        records.entry((record.topic.to_string(), record.partition)).or_default().push((record.offset, value));
    }
    // Retention goes on while this reads: what it has deleted by now need not have been read.
    let starts = offsets(client, &partitions, OffsetSpec::LogStart).await?;
    Ok((records, starts))
}

async fn offsets(
    client: &Client,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<BTreeMap<Partition, i64>, ClientError> {
    let listed = client
        .admin()
        .list_offsets(partitions.iter().map(|partition| (partition.clone(), spec)).collect::<Vec<_>>())
        .await?;
    listed.into_iter().map(|(partition, found)| Ok((name(&partition), found?.offset.unwrap_or(0)))).collect()
}

/// Waits until a client's request is answered, for as long as a restart may take.
pub async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    const ATTEMPTS: usize = 200;
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if error.is_retriable() => tokio::time::sleep(QUIET).await,
            done => return done,
        }
    }
    attempt().await
}

fn name(partition: &TopicPartition) -> Partition {
    (partition.topic.to_string(), partition.partition)
}

/// The value, then padding whose length depends on it, so that batches differ in size.
fn payload(value: u64) -> Bytes {
    const PADDING_MAX: u64 = 600;
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % PADDING_MAX as usize, 0x2e);
    bytes.into()
}

fn value_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
