//! Load that knows what must be there afterwards: the same for real processes and for the simulation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_client::{
    Client, ClientError, ConsumeError, ConsumedBatch, Consumer, ConsumerConfig, Delivery, DeliveryError,
    OffsetSpec, Position, Producer, ProducerRecord, TopicPartition,
};
use tokio::sync::watch;

use crate::history::{Findings, Listing, Micros, Outcome, Partition, Poll, ReadRecord, Recorder, Sent};

/// Records that one producer has under way before it waits for the oldest.
const UNDER_WAY_MAX: usize = 200;
/// Pause between two attempts at something that a restart interrupts.
const QUIET: Duration = Duration::from_millis(300);
/// A final read that makes no progress for this long gives up.
const FINAL_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A reader that seeks goes on under its number plus this.
const NEXT_READER: u32 = 1_000;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Records in offset order, per topic and partition.
pub type Records = BTreeMap<Partition, Vec<ReadRecord>>;

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

/// A record whose outcome is awaited.
struct UnderWay {
    value: u64,
    partition: TopicPartition,
    begun: Micros,
    delivery: Delivery,
}

/// Sends unique values over all partitions of the targets, in turn, until told to stop; then waits for
/// the last outcome. `pace` is the pause after each record, zero for none.
pub async fn produce(
    producer: Producer,
    number: u32,
    targets: Vec<Target>,
    recorder: Recorder,
    mut stop: watch::Receiver<bool>,
    pace: Duration,
) {
    let partitions: Vec<TopicPartition> = targets.iter().flat_map(Target::all).collect();
    let mut under_way: VecDeque<UnderWay> = VecDeque::new();
    let mut sequence = 0_u64;
    while !*stop.borrow_and_update() {
        let partition = &partitions[(sequence as usize) % partitions.len()];
        let value = (u64::from(number) << 40) | sequence;
        sequence += 1;
        let record =
            ProducerRecord::new(Arc::clone(&partition.topic), payload(value)).partition(partition.partition);
        let begun = recorder.now();
        // A record that was not accepted was never sent: there is nothing to check.
        if let Ok(delivery) = producer.send(record).await {
            under_way.push_back(UnderWay { value, partition: partition.clone(), begun, delivery });
        }
        while under_way.len() > UNDER_WAY_MAX {
            settle_oldest(&mut under_way, number, &recorder).await;
        }
        if pace.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pace).await;
        }
    }
    while !under_way.is_empty() {
        settle_oldest(&mut under_way, number, &recorder).await;
    }
}

async fn settle_oldest(under_way: &mut VecDeque<UnderWay>, producer: u32, recorder: &Recorder) {
    let Some(UnderWay { value, partition, begun, delivery }) = under_way.pop_front() else { return };
    let outcome = match delivery.await {
        Ok(delivered) => Outcome::Acked(delivered.offset),
        Err(DeliveryError::Unknown { .. }) => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    };
    // Noted when it is asked for, in the order of the sends: later than it was known, at times.
    let sent = Sent { producer, value, outcome, begun, ended: recorder.now() };
    recorder.note(|history| history.sent(&name(&partition), sent));
}

/// Reads the target from its start and notes every answer, until told to stop. A position that was deleted
/// meanwhile is left for the log start, as a new reader.
pub async fn follow(
    client: Client,
    mut number: u32,
    target: Target,
    recorder: Recorder,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ConsumeError> {
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign(target.all().map(|partition| (partition, Position::Start)).collect::<Vec<_>>()).await?;
    loop {
        let next = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            next = consumer.next_batch() => next,
        };
        match next {
            Ok(batch) => note_batch(&recorder, number, &batch)?,
            Err(ConsumeError::OffsetOutOfRange { partition, .. }) => {
                number += NEXT_READER;
                patient_seek(&mut consumer, &partition).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn note_batch(recorder: &Recorder, reader: u32, batch: &ConsumedBatch) -> Result<(), ConsumeError> {
    let records = values(batch)?;
    let poll = Poll {
        reader,
        leader_epoch: batch.leader_epoch,
        log_start: batch.log_start_offset,
        high_watermark: batch.high_watermark,
        records: &records,
    };
    recorder.note(|history| history.polled(&name(&batch.partition), poll));
    Ok(())
}

/// Offsets and values of a batch. A record that is no value of ours gets one that nobody sent.
fn values(batch: &ConsumedBatch) -> Result<Vec<ReadRecord>, ConsumeError> {
    let corrupt = |error| ConsumeError::Corrupt {
        partition: batch.partition.clone(),
        offset: batch.first_offset,
        error,
    };
    let records = batch.records().map_err(corrupt)?;
    records
        .map(|record| {
            let record = record.map_err(corrupt)?;
            Ok((record.offset, record.value.as_deref().and_then(value_of).unwrap_or(u64::MAX)))
        })
        .collect()
}

/// Asks for the bounds of each partition, now and again, until told to stop, and notes the answers.
pub async fn list(
    client: Client,
    target: Target,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
    pace: Duration,
) {
    while !*stop.borrow() {
        for partition in target.all() {
            let begun = recorder.now();
            let end = listed(&client, &partition, OffsetSpec::HighWatermark).await;
            let ended = recorder.now();
            if end.is_some() {
                let listing = Listing { log_start: None, end, begun, ended };
                recorder.note(|history| history.listed(&name(&partition), listing));
            }
        }
        tokio::time::sleep(pace).await;
    }
}

async fn listed(client: &Client, partition: &TopicPartition, spec: OffsetSpec) -> Option<i64> {
    let listed = client.admin().list_offsets(vec![(partition.clone(), spec)]).await.ok()?;
    listed.into_iter().find_map(|(_, found)| found.ok()?.offset)
}

/// Notes a record that was sent apart from the load, and acknowledged.
pub fn note_acked(
    recorder: &Recorder,
    partition: &TopicPartition,
    producer: u32,
    value: u64,
    offset: i64,
    begun: Micros,
) {
    let sent = Sent { producer, value, outcome: Outcome::Acked(offset), begun, ended: recorder.now() };
    recorder.note(|history| history.sent(&name(partition), sent));
}

/// Reads everything and notes it as what is there in the end; then says what is wrong.
///
/// # Errors
/// The read did not come to its end.
pub async fn conclude(
    client: &Client,
    targets: &[Target],
    recorder: &Recorder,
) -> Result<(Findings, BTreeMap<Partition, i64>), AnyError> {
    let starts = read_finally(client, targets, recorder).await?;
    Ok((recorder.note(|history| history.check()), starts))
}

/// Reads everything and notes it as what is there in the end. The log starts that the partitions have by then bound
/// what may have been deleted.
///
/// # Errors
/// The read did not come to its end.
pub async fn read_finally(
    client: &Client,
    targets: &[Target],
    recorder: &Recorder,
) -> Result<BTreeMap<Partition, i64>, AnyError> {
    let (records, starts) = read_all(client, targets).await?;
    recorder.note(|history| {
        starts.iter().for_each(|(partition, start)| history.log_start(partition, *start));
        records.into_iter().for_each(|(partition, records)| history.finally(&partition, records));
    });
    Ok(starts)
}

/// Everything in the targets' partitions from their log starts to their ends, and the log starts.
async fn read_all(
    client: &Client,
    targets: &[Target],
) -> Result<(Records, BTreeMap<Partition, i64>), AnyError> {
    let partitions: Vec<TopicPartition> = targets.iter().flat_map(Target::all).collect();
    let ends = offsets(client, &partitions, OffsetSpec::HighWatermark).await?;
    let mut records: Records = partitions.iter().map(|partition| (name(partition), Vec::new())).collect();
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    let starts = partitions.iter().map(|partition| (partition.clone(), Position::Start)).collect::<Vec<_>>();
    consumer.assign(starts).await?;
    let reached = |consumer: &Consumer| {
        partitions.iter().all(|partition| consumer.position(partition).unwrap_or(0) >= ends[&name(partition)])
    };
    while !reached(&consumer) {
        let next = tokio::time::timeout(FINAL_READ_TIMEOUT, consumer.next_batch())
            .await
            .map_err(|_| format!("the final read stopped before {ends:?}"))?;
        match next {
            Ok(batch) => {
                let read = values(&batch)?;
                records.entry(name(&batch.partition)).or_default().extend(read);
            }
            // Retention overtook the reader; the log starts, listed below, bound what it may have deleted.
            Err(ConsumeError::OffsetOutOfRange { partition, .. }) => {
                patient_seek(&mut consumer, &partition).await?;
            }
            Err(error) => return Err(error.into()),
        }
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
    let asked = || partitions.iter().map(|partition| (partition.clone(), spec)).collect::<Vec<_>>();
    patiently(|| async {
        let listed = client.admin().list_offsets(asked()).await?;
        listed
            .into_iter()
            .map(|(partition, found)| Ok((name(&partition), found?.offset.unwrap_or(0))))
            .collect()
    })
    .await
}

async fn patient_seek(consumer: &mut Consumer, partition: &TopicPartition) -> Result<(), ConsumeError> {
    for _ in 1..ATTEMPTS {
        if consumer.seek(partition, Position::Start).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(QUIET).await;
    }
    consumer.seek(partition, Position::Start).await
}

const ATTEMPTS: usize = 200;

/// Waits until a client's request is answered, for as long as a restart may take.
pub async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
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
#[must_use]
pub fn payload(value: u64) -> Bytes {
    const PADDING_MAX: u64 = 600;
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % PADDING_MAX as usize, 0x2e);
    bytes.into()
}

/// The value of a payload of ours.
#[must_use]
pub fn value_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
