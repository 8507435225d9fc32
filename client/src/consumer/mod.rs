//! The consumer, by assignment: streams from the brokers that lead its partitions, or hold them nearby,
//! fill a bounded buffer, from which batches or records are taken.

mod batch;
mod config;
mod planner;
mod positions;
mod reader;
mod state;

use std::sync::Arc;

use headwater_proto::record::RecordError;
use tokio::task::AbortHandle;

pub use batch::{ConsumedBatch, ConsumedRecord, ConsumedRecords};
pub use config::{ConsumerConfig, OffsetPolicy, Position};

use self::planner::Planner;
use self::state::{Item, Part, Shared, State};
use crate::{Client, ClientError, ConsumeError, TopicPartition};

/// Reads the partitions that it is assigned.
pub struct Consumer {
    client: Client,
    shared: Arc<Shared>,
    planner: AbortHandle,
    /// The batch that [`Consumer::next`] is in the middle of.
    current: Option<Current>,
}

/// A batch of which some records were returned.
struct Current {
    batch: ConsumedBatch,
    records: ConsumedRecords,
    /// Offset of the next record; the shared state learns it at the end of the batch.
    position: i64,
}

impl Consumer {
    pub(crate) fn start(client: Client, config: ConsumerConfig) -> Result<Self, ClientError> {
        config.check()?;
        let shared = Arc::new(Shared::default());
        let planner = Planner::new(client.clone(), Arc::new(config), Arc::clone(&shared));
        let planner = tokio::spawn(Box::pin(planner.run())).abort_handle();
        Ok(Self { client, shared, planner, current: None })
    }

    /// Replaces the assignment. Resolves the positions before it returns; what was prefetched is
    /// dropped.
    ///
    /// # Errors
    /// A position could not be resolved; the assignment is then as it was.
    pub async fn assign(
        &mut self,
        partitions: impl IntoIterator<Item = (TopicPartition, Position)>,
    ) -> Result<(), ConsumeError> {
        let wanted = partitions.into_iter().collect();
        let starts = Box::pin(positions::resolve(&self.client, wanted)).await?;
        let mut state = self.shared.lock();
        state.clear();
        state.parts = starts
            .into_iter()
            .map(|(partition, start)| (partition, Part::at(start.offset, start.high_watermark)))
            .collect();
        drop(state);
        self.current = None;
        self.replan();
        Ok(())
    }

    /// Goes on elsewhere in a partition; one that rests after an error is active again.
    ///
    /// # Errors
    /// The partition isn't assigned, or the position could not be resolved.
    pub async fn seek(&mut self, partition: &TopicPartition, to: Position) -> Result<(), ConsumeError> {
        if self.position(partition).is_none() {
            return Err(not_assigned(partition));
        }
        let wanted = vec![(partition.clone(), to)];
        let found = Box::pin(positions::resolve(&self.client, wanted)).await?;
        let Some(start) = found.get(partition) else { return Err(not_assigned(partition)) };
        self.leave_current(partition);
        self.change(partition, |state, part| {
            state.drop_items(partition, true);
            *part = Part { paused: part.paused, ..Part::at(start.offset, start.high_watermark) };
        })
    }

    /// Stops the partition's records until [`Consumer::resume`]; none is lost.
    ///
    /// # Errors
    /// The partition isn't assigned.
    pub fn pause(&mut self, partition: &TopicPartition) -> Result<(), ConsumeError> {
        self.leave_current(partition);
        self.change(partition, |state, part| {
            state.drop_items(partition, false);
            part.paused = true;
            part.stream = None;
            part.fetch_from = part.position;
        })
    }

    /// Takes up a paused partition where it was left.
    ///
    /// # Errors
    /// The partition isn't assigned.
    pub fn resume(&mut self, partition: &TopicPartition) -> Result<(), ConsumeError> {
        self.change(partition, |_, part| part.paused = false)
    }

    /// The offset of the next record that will be returned; `None` for a partition not assigned.
    #[must_use]
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        let position = self.shared.lock().parts.get(partition)?.position;
        let current = self.current.as_ref().filter(|current| current.batch.partition == *partition);
        Some(current.map_or(position, |current| current.position))
    }

    /// The partition's end as the broker last told it; `None` for a partition not assigned.
    #[must_use]
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared.lock().parts.get(partition).map(|part| part.high_watermark)
    }

    /// Whether each assigned partition's position has reached its last known high watermark. To read
    /// up to where the end is now, take the end from [`Admin::list_offsets`](crate::Admin::list_offsets).
    #[must_use]
    pub fn at_end(&self) -> bool {
        let state = self.shared.lock();
        let current = self.current.as_ref();
        state.parts.iter().all(|(partition, part)| {
            let current = current.filter(|current| current.batch.partition == *partition);
            current.map_or(part.position, |current| current.position) >= part.high_watermark
        })
    }

    /// Record bytes that have arrived and were not taken yet.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.shared.lock().buffered_bytes()
    }

    /// Streams from brokers that are open now; usually one per broker that leads any of the partitions.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.shared.lock().served.len()
    }

    /// The assigned partitions, in order.
    #[must_use]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.lock().parts.keys().cloned().collect()
    }

    /// The next batch of any partition, its records not decoded; waits for one. Cancel safe. After
    /// [`Consumer::next`], the rest of the batch that it was in.
    ///
    /// # Errors
    /// A partition can't go on (the others can: call again), or nothing is left to wait for.
    pub async fn next_batch(&mut self) -> Result<ConsumedBatch, ConsumeError> {
        let batch = match self.current.take() {
            Some(Current { batch, position, .. }) => ConsumedBatch { first_offset: position, ..batch },
            None => self.take_batch().await?,
        };
        self.move_to(&batch.partition, batch.next_offset());
        Ok(batch)
    }

    /// The next record of any partition; waits for one. Cancel safe.
    ///
    /// # Errors
    /// As [`Consumer::next_batch`].
    pub async fn next(&mut self) -> Result<ConsumedRecord, ConsumeError> {
        loop {
            if let Some(current) = &mut self.current {
                let record = current.records.next();
                if let Some(Ok(record)) = &record {
                    current.position = record.offset + 1;
                }
                let (position, end) = (current.position, current.batch.next_offset());
                match record {
                    Some(Ok(record)) if position < end => return Ok(record),
                    Some(Err(error)) => return Err(self.rest(error)),
                    // The batch is at its end; compaction may have taken its last records.
                    last => {
                        if let Some(current) = self.current.take() {
                            self.move_to(&current.batch.partition, end);
                        }
                        if let Some(Ok(record)) = last {
                            return Ok(record);
                        }
                    }
                }
            }
            let batch = self.take_batch().await?;
            let position = batch.first_offset;
            let records = batch.records();
            let (records, error) = match records {
                Ok(records) => (records, None),
                Err(error) => (ConsumedRecords::none(&batch), Some(error)),
            };
            self.current = Some(Current { batch, records, position });
            if let Some(error) = error {
                return Err(self.rest(error));
            }
        }
    }

    /// The next batch in the buffer; its position is the caller's to move.
    async fn take_batch(&self) -> Result<ConsumedBatch, ConsumeError> {
        loop {
            let arrived = self.shared.arrived.notified();
            {
                let mut state = self.shared.lock();
                while let Some(item) = state.pop() {
                    self.shared.room.notify_waiters();
                    match item {
                        Item::Batch(batch) => return Ok(batch),
                        Item::Failed(_, error) => return Err(error),
                        Item::Moved(partition, offset) => {
                            if let Some(part) = state.parts.get_mut(&partition) {
                                part.position = offset;
                            }
                        }
                    }
                }
                if !state.parts.values().any(Part::is_wanted) {
                    return Err(ConsumeError::NothingToWaitFor);
                }
            }
            arrived.await;
        }
    }

    /// The current batch can't be decoded: its partition rests where it is.
    fn rest(&mut self, error: RecordError) -> ConsumeError {
        let Some(current) = self.current.take() else { return ConsumeError::NothingToWaitFor };
        let partition = current.batch.partition;
        let offset = current.position;
        // It was assigned when the batch was taken, and nothing was changed since.
        let _ = self.change(&partition, |state, part| {
            state.drop_items(&partition, true);
            part.resting = true;
            part.stream = None;
            part.position = offset;
            part.fetch_from = offset;
        });
        ConsumeError::Corrupt { partition, offset, error }
    }

    /// Leaves the batch that `next` is in the middle of, if it is this partition's.
    fn leave_current(&mut self, partition: &TopicPartition) {
        if let Some(current) = self.current.take_if(|current| current.batch.partition == *partition) {
            self.move_to(partition, current.position);
        }
    }

    fn move_to(&self, partition: &TopicPartition, offset: i64) {
        if let Some(part) = self.shared.lock().parts.get_mut(partition) {
            part.position = offset;
        }
    }

    /// Changes a partition and what arrived for it in one step: its stream can't come in between.
    fn change(
        &self,
        partition: &TopicPartition,
        change: impl FnOnce(&mut State, &mut Part),
    ) -> Result<(), ConsumeError> {
        let mut state = self.shared.lock();
        let (partition, mut part) =
            state.parts.remove_entry(partition).ok_or_else(|| not_assigned(partition))?;
        change(&mut state, &mut part);
        state.parts.insert(partition, part);
        drop(state);
        self.replan();
        Ok(())
    }

    fn replan(&self) {
        self.shared.plan.notify_one();
        self.shared.room.notify_waiters();
    }
}

fn not_assigned(partition: &TopicPartition) -> ConsumeError {
    ConsumeError::NotAssigned { partition: partition.clone() }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.planner.abort();
    }
}
