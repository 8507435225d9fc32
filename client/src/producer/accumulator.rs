//! Where records wait to be sent: the part of a producer that senders and its driver share.
//!
//! A record is copied once, into the open batch of its partition. Invariants: a partition's batches
//! leave in the order in which they were opened; bytes taken from the buffer are given back exactly
//! once, when the batch is resolved; no lock is held across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_proto::record::{RecordBatchBuilder, RecordError, record_bytes_max};
use tokio::sync::{Notify, Semaphore, TryAcquireError};
use tokio::time::Instant;

use super::config::ProducerConfig;
use super::delivery::{BatchState, Delivery};
use super::stats::Counters;
use crate::backoff::Entropy;
use crate::{SendError, TopicPartition};

/// What a batch costs besides its records: its header and its shared state.
const BATCH_OVERHEAD_BYTES: usize = 512;

/// Bytes that a batch's buffer starts with when nothing is known of its partition.
const FIRST_CAPACITY_BYTES: usize = 1024;

/// Number of a queue within its producer.
pub type QueueId = usize;

/// A record by reference.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl RecordRef<'_> {
    fn bytes_max(&self) -> usize {
        record_bytes_max(self.key, self.value, self.headers)
    }
}

/// A batch that is not sealed yet.
#[derive(Debug)]
pub struct OpenBatch {
    pub builder: RecordBatchBuilder,
    pub state: Arc<BatchState>,
    /// Bytes of the buffer that it holds.
    pub charged_bytes: usize,
    pub opened: Instant,
    /// Counts the batches of the queue.
    pub order: u64,
}

/// The batches of one partition that its driver has not taken yet.
#[derive(Debug)]
pub struct Queue {
    pub id: QueueId,
    pub partition: TopicPartition,
    state: Mutex<QueueState>,
    /// Batches that were closed: records without a key then move on to another partition.
    closed_batches: AtomicU64,
    /// A hint: the next record joins a batch.
    has_open: AtomicBool,
    /// Bytes at which a batch is full: the configured number, or less once the broker refused that.
    batch_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct QueueState {
    full: VecDeque<OpenBatch>,
    open: Option<OpenBatch>,
    next_order: u64,
    /// The driver knows of this queue and has not looked yet.
    announced: bool,
    capacity_hint: usize,
}

/// What the driver finds when it looks for a batch to send.
#[derive(Debug)]
pub enum Next {
    Batch(OpenBatch),
    /// An open batch may still grow until then.
    Lingers(Instant),
    Empty,
}

impl Queue {
    fn new(id: QueueId, partition: TopicPartition, batch_bytes: usize) -> Self {
        Self {
            id,
            partition,
            state: Mutex::default(),
            closed_batches: AtomicU64::new(0),
            has_open: AtomicBool::new(false),
            batch_bytes: AtomicUsize::new(batch_bytes),
        }
    }

    /// A batch was too large, and cut down to this: later ones are to be no larger.
    pub fn shrink(&self, batch_bytes: usize) {
        self.batch_bytes.fetch_min(batch_bytes.max(1), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest batch that may be sent now: a full one, or the open one after its linger. `at_once`
    /// takes the open one as it is.
    pub fn take(&self, config: &ProducerConfig, now: Instant, at_once: bool) -> Next {
        let mut state = self.lock();
        state.announced = false;
        if let Some(batch) = state.full.pop_front() {
            return Next::Batch(batch);
        }
        let Some(open) = &state.open else { return Next::Empty };
        let due = open.opened + config.linger;
        if !at_once && now < due {
            return Next::Lingers(due);
        }
        let batch = self.close(&mut state);
        batch.map_or(Next::Empty, Next::Batch)
    }

    /// Closes the open batch, so that it is sent without waiting for more. Gives the order that the
    /// next batch will have.
    pub fn close_open(&self) -> u64 {
        let mut state = self.lock();
        if let Some(batch) = self.close(&mut state) {
            state.full.push_back(batch);
        }
        state.next_order
    }

    /// Takes out all batches opened before `before`.
    pub fn expire(&self, before: Instant) -> Vec<OpenBatch> {
        let mut state = self.lock();
        let mut expired = Vec::new();
        while state.full.front().is_some_and(|batch| batch.opened <= before) {
            expired.extend(state.full.pop_front());
        }
        if state.full.is_empty() && state.open.as_ref().is_some_and(|batch| batch.opened <= before) {
            expired.extend(self.close(&mut state));
        }
        expired
    }

    /// Order and time of opening of the oldest batch that waits here.
    pub fn oldest(&self) -> Option<(u64, Instant)> {
        let state = self.lock();
        state.full.front().or(state.open.as_ref()).map(|batch| (batch.order, batch.opened))
    }

    fn close(&self, state: &mut QueueState) -> Option<OpenBatch> {
        let batch = state.open.take()?;
        state.capacity_hint = batch.builder.len_bytes();
        self.has_open.store(false, Ordering::Relaxed);
        self.closed_batches.fetch_add(1, Ordering::Relaxed);
        Some(batch)
    }

    /// Puts a record into the open batch, or a new one. Gives also whether the driver must look.
    fn append(
        &self,
        config: &ProducerConfig,
        record: RecordRef<'_>,
        charged_bytes: usize,
    ) -> Result<(Delivery, bool), RecordError> {
        let mut state = self.lock();
        let batch_bytes = self.batch_bytes.load(Ordering::Relaxed);
        let room = |batch: &OpenBatch| batch.builder.len_bytes() + record.bytes_max() <= batch_bytes;
        let mut news = false;
        if state.open.as_ref().is_some_and(|batch| !room(batch))
            && let Some(batch) = self.close(&mut state)
        {
            state.full.push_back(batch);
            news = true;
        }
        if state.open.is_none() {
            let capacity = state.capacity_hint.max(FIRST_CAPACITY_BYTES.min(batch_bytes));
            let capacity = capacity.max(record.bytes_max() + 64);
            state.open = Some(OpenBatch {
                builder: RecordBatchBuilder::with_capacity(
                    config.compression,
                    config.compression_level,
                    capacity,
                ),
                state: Arc::new(BatchState::new(self.partition.clone())),
                charged_bytes: 0,
                opened: Instant::now(),
                order: state.next_order,
            });
            state.next_order += 1;
            self.has_open.store(true, Ordering::Relaxed);
            news = true;
        }
        let Some(batch) = state.open.as_mut() else { return Err(RecordError::NoRecords) };
        let index = batch.builder.record_count();
        let appended = batch.builder.append(record.timestamp_ms, record.key, record.value, record.headers);
        if let Err(error) = appended {
            // A batch without records can't be sent.
            if batch.builder.is_empty() {
                self.has_open.store(false, Ordering::Relaxed);
                state.open = None;
            }
            return Err(error);
        }
        batch.charged_bytes += charged_bytes;
        let delivery = Delivery::new(Arc::clone(&batch.state), index as u32);
        let full = batch.builder.len_bytes() >= batch_bytes
            || config.batch_records.is_some_and(|max| index as usize + 1 >= max);
        if full && let Some(batch) = self.close(&mut state) {
            state.full.push_back(batch);
            news = true;
        }
        let announce = news && !state.announced;
        state.announced |= announce;
        Ok((delivery, announce))
    }
}

/// The queues of one topic.
#[derive(Debug)]
pub struct Topic {
    queues: Vec<Arc<Queue>>,
    sticky: Mutex<Sticky>,
}

/// The partition that records without a key go to until a batch of it is closed (KIP-480).
#[derive(Debug, Clone, Copy)]
struct Sticky {
    partition: usize,
    closed_batches: u64,
}

impl Topic {
    pub fn queue(&self, partition: i32) -> Option<&Arc<Queue>> {
        self.queues.get(usize::try_from(partition).ok()?)
    }

    pub fn partition_count(&self) -> i32 {
        self.queues.len() as i32
    }

    /// The queue that a record without a key goes to; `None` for a topic without partitions.
    pub fn sticky_queue(&self, entropy: &Entropy) -> Option<&Arc<Queue>> {
        let mut sticky = self.sticky.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.queues.get(sticky.partition);
        let stays =
            |queue: &Arc<Queue>| queue.closed_batches.load(Ordering::Relaxed) == sticky.closed_batches;
        if let Some(queue) = current.filter(|queue| stays(queue)) {
            return Some(queue);
        }
        let count = self.queues.len();
        let partition = match current {
            // Any but the one it comes from.
            Some(_) if count > 1 => (sticky.partition + 1 + entropy.below(count as u64 - 1) as usize) % count,
            _ => entropy.below(count as u64) as usize,
        };
        let queue = self.queues.get(partition)?;
        *sticky = Sticky { partition, closed_batches: queue.closed_batches.load(Ordering::Relaxed) };
        Some(queue)
    }
}

/// All that senders and driver share.
#[derive(Debug)]
pub struct Accumulator {
    pub config: ProducerConfig,
    pub counters: Counters,
    /// Wakes the driver.
    pub wake: Notify,
    memory: Semaphore,
    /// Senders that wait for room: nothing lingers while there are any.
    blocked: AtomicUsize,
    topics: Mutex<Topics>,
    /// Queues that the driver has not looked at since they changed.
    changed: Mutex<Vec<Arc<Queue>>>,
}

#[derive(Debug, Default)]
struct Topics {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    queues: Vec<Arc<Queue>>,
}

impl Accumulator {
    pub fn new(config: ProducerConfig) -> Self {
        Self {
            memory: Semaphore::new(config.buffer_bytes),
            config,
            counters: Counters::default(),
            wake: Notify::new(),
            blocked: AtomicUsize::new(0),
            topics: Mutex::default(),
            changed: Mutex::default(),
        }
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics().by_name.get(name).cloned()
    }

    /// The topic with at least `partitions` queues; those that it has stay.
    pub fn ensure_topic(&self, name: &str, partitions: i32) -> Arc<Topic> {
        let mut topics = self.topics();
        let existing = topics.by_name.get_key_value(name);
        if let Some((_, topic)) = existing.filter(|(_, topic)| topic.partition_count() >= partitions) {
            return Arc::clone(topic);
        }
        let name = existing.map_or_else(|| name.into(), |(name, _)| Arc::clone(name));
        let mut queues = existing.map_or_else(Vec::new, |(_, topic)| topic.queues.clone());
        for partition in queues.len() as i32..partitions {
            let place = TopicPartition { topic: Arc::clone(&name), partition };
            let queue = Arc::new(Queue::new(topics.queues.len(), place, self.config.batch_bytes));
            topics.queues.push(Arc::clone(&queue));
            queues.push(queue);
        }
        let sticky = Mutex::new(Sticky { partition: usize::MAX, closed_batches: 0 });
        let topic = Arc::new(Topic { queues, sticky });
        topics.by_name.insert(name, Arc::clone(&topic));
        topic
    }

    pub fn topic_names(&self) -> Vec<String> {
        self.topics().by_name.keys().map(ToString::to_string).collect()
    }

    /// All queues, in the order of their ids.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.topics().queues.clone()
    }

    /// Queues that changed since the last call.
    pub fn take_changed(&self) -> Vec<Arc<Queue>> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn has_blocked_senders(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) > 0
    }

    pub fn buffered_bytes(&self) -> usize {
        self.config.buffer_bytes.saturating_sub(self.memory.available_permits())
    }

    /// Gives bytes back to the buffer.
    pub fn release(&self, bytes: usize) {
        self.memory.add_permits(bytes);
    }

    /// Ends all waiting for room; nothing is accepted any more.
    pub fn close(&self) {
        self.memory.close();
    }

    /// Accepts a record; waits for room, and for no longer than `max_block`.
    pub async fn append(&self, queue: &Arc<Queue>, record: RecordRef<'_>) -> Result<Delivery, SendError> {
        let record_bytes = record.bytes_max();
        if record_bytes > self.config.record_bytes_max {
            return Err(SendError::RecordTooLarge {
                bytes: record_bytes,
                limit: self.config.record_bytes_max,
            });
        }
        let overhead = if queue.has_open.load(Ordering::Relaxed) { 0 } else { BATCH_OVERHEAD_BYTES };
        let bytes = (record_bytes + overhead).min(self.config.buffer_bytes);
        self.reserve(bytes).await?;
        match queue.append(&self.config, record, bytes) {
            Ok((delivery, announce)) => {
                self.counters.accepted();
                if announce {
                    let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
                    changed.push(Arc::clone(queue));
                    drop(changed);
                    self.wake.notify_one();
                }
                Ok(delivery)
            }
            Err(error) => {
                self.release(bytes);
                Err(SendError::Encoding(error))
            }
        }
    }

    async fn reserve(&self, bytes: usize) -> Result<(), SendError> {
        // Both bounds of the buffer are far below 4 GiB per record: record_bytes_max is 32 MiB.
        let permits = bytes as u32;
        match self.memory.try_acquire_many(permits) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::Closed) => return Err(SendError::Closed),
            Err(TryAcquireError::NoPermits) => {
                let _blocked = Blocked::new(self);
                let after = self.config.max_block;
                match tokio::time::timeout(after, self.memory.acquire_many(permits)).await {
                    Ok(Ok(permit)) => permit.forget(),
                    Ok(Err(_)) => return Err(SendError::Closed),
                    Err(_) => {
                        let buffer_bytes = self.config.buffer_bytes;
                        return Err(SendError::BufferFull { buffer_bytes, after });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Counts a sender as blocked, also when its future is dropped.
struct Blocked<'a>(&'a Accumulator);

impl<'a> Blocked<'a> {
    fn new(accumulator: &'a Accumulator) -> Self {
        accumulator.blocked.fetch_add(1, Ordering::Relaxed);
        accumulator.wake.notify_one();
        Self(accumulator)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}
