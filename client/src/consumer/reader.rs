//! One `Consume` stream: reads messages, cuts them into batches, and puts those into the buffer.

use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::record::{BatchHeader, Limits, RecordBatch, RecordError};
use headwater_proto::{ErrorCode, v1};
use tokio::time::Instant;

use super::batch::ConsumedBatch;
use super::config::{ConsumerConfig, OffsetPolicy, Position};
use super::positions;
use super::state::{Item, Shared, State, StreamId};
use crate::connection::Fault;
use crate::{Client, ClientError, ConsumeError, TopicPartition};

/// Times that a damaged batch is fetched again: with the default pauses, for at least 2.5 s, in which a leader that
/// holds it is replaced.
const CORRUPT_FETCHES_MAX: u32 = 10;

/// Why a stream ended, for the log.
pub type Ending = String;

/// One stream's task.
pub struct Reader {
    pub client: Client,
    pub config: Arc<ConsumerConfig>,
    pub shared: Arc<Shared>,
    pub id: StreamId,
    /// Broker id.
    pub broker: i32,
    /// It was asked to serve as the leader, not as a replica nearby.
    pub from_leader: bool,
}

/// What is left to do after a message.
enum After {
    Go,
    /// The partition's position is gone; the policy says where to go on.
    Reset(TopicPartition, Position),
}

impl Reader {
    /// Reads until the stream ends or is dropped.
    pub async fn run(&self, partitions: Vec<v1::FetchPartition>) -> Ending {
        let mut data = match self.client.data(self.broker) {
            Ok(data) => data,
            Err(error) => return error.to_string(),
        };
        let max_message_bytes = self.config.max_message_bytes;
        let allow_follower = !self.from_leader;
        let request = v1::ConsumeRequest { partitions, max_message_bytes, allow_follower };
        let mut messages = match Box::pin(data.consume(request)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Fault::of(status).reason(),
        };
        loop {
            self.wait_for_room().await;
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return "the broker ended the stream".to_owned(),
                Err(status) => return Fault::of(status).reason(),
            };
            let Some(records) = message.records else { continue };
            if let After::Reset(partition, to) = self.accept(records) {
                self.reset(&partition, to).await;
            }
        }
    }

    /// Returns once the buffer is below its bound. Until then nothing is read, and the receive
    /// window stops the broker.
    async fn wait_for_room(&self) {
        loop {
            let room = self.shared.room.notified();
            if self.shared.lock().buffered_bytes() < self.config.prefetch_bytes {
                return;
            }
            room.await;
        }
    }

    fn accept(&self, records: v1::PartitionRecords) -> After {
        let partition = TopicPartition::new(records.topic.as_str(), records.partition);
        let mut state = self.shared.lock();
        if let Some(served) = state.served.get_mut(&self.id) {
            served.news = true;
        }
        if records.error.is_some() {
            // The broker has taken it off the stream.
            state.ended(self.id, &partition);
            self.shared.plan.notify_one();
        }
        // Sought, paused or unassigned since, or moved: what still comes is not wanted.
        let Some(part) = state.bound(&partition, self.id) else { return After::Go };
        if let Some(error) = &records.error {
            return self.refused(&mut state, partition, &records, error);
        }
        part.attempts.succeeded();
        part.high_watermark = records.high_watermark;
        let before = part.fetch_from;
        if let Some(served) = state.served.get_mut(&self.id) {
            served.brought = true;
        }
        self.take_batches(&mut state, partition, records);
        let arrived = !state.is_empty();
        drop(state);
        if arrived {
            self.shared.arrived.notify_one();
        }
        tracing::trace!(before, "records accepted");
        After::Go
    }

    fn take_batches(&self, state: &mut State, partition: TopicPartition, records: v1::PartitionRecords) {
        let Some(part) = state.parts.get(&partition) else { return };
        let mut fetch_from = part.fetch_from;
        let mut rest = records.records;
        loop {
            let batch = match self.split_first(&mut rest) {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(error) => {
                    self.corrupt(state, &partition, fetch_from, error);
                    break;
                }
            };
            let next_offset = batch.header().base_offset + batch.header().offset_count();
            if next_offset <= fetch_from || batch.header().attributes.is_control() {
                continue;
            }
            let first_offset = batch.header().base_offset.max(fetch_from);
            fetch_from = next_offset;
            state.push(Item::Batch(ConsumedBatch {
                partition: partition.clone(),
                batch,
                first_offset,
                high_watermark: records.high_watermark,
                log_start_offset: records.log_start_offset,
                leader_epoch: records.leader_epoch,
                decompressed_bytes_max: self.config.decompressed_bytes_max,
            }));
        }
        // Compaction may have left nothing where the last records were.
        if rest.is_empty() && records.next_offset > fetch_from {
            fetch_from = records.next_offset;
            state.push(Item::Moved(partition.clone(), fetch_from));
        }
        if let Some(part) = state.parts.get_mut(&partition) {
            if part.fetch_from < fetch_from && part.stream.is_some() {
                part.corrupt.succeeded();
            }
            part.fetch_from = fetch_from;
        }
    }

    /// What arrived is not what was produced. It may be so on one replica alone: the batch is fetched again, of
    /// another leader if there is one by then, and only then the partition rests.
    fn corrupt(&self, state: &mut State, partition: &TopicPartition, offset: i64, error: RecordError) {
        let Some(part) = state.parts.get_mut(partition) else { return };
        if part.corrupt.count() < CORRUPT_FETCHES_MAX {
            tracing::warn!(%partition, offset, %error, "a damaged batch is fetched again");
            let now = Instant::now();
            part.not_before =
                Some(now + part.corrupt.failed(&self.client.config().retry, self.client.entropy()));
            if !self.from_leader {
                part.leave_follower(now);
            }
            part.stream = None;
            self.shared.plan.notify_one();
        } else {
            let error = ConsumeError::Corrupt { partition: partition.clone(), offset, error };
            self.rest(state, partition, error);
        }
    }

    fn split_first(&self, rest: &mut Bytes) -> Result<Option<RecordBatch>, RecordError> {
        if self.config.check_crc {
            return RecordBatch::split_first(rest, &Limits::default());
        }
        if rest.is_empty() {
            return Ok(None);
        }
        let size = BatchHeader::read(rest).and_then(|header| header.size_bytes());
        let size = size.filter(|size| *size <= rest.len()).unwrap_or(rest.len());
        let batch = RecordBatch::trusted(rest.slice(..size))?;
        *rest = rest.slice(size..);
        Ok(Some(batch))
    }

    fn refused(
        &self,
        state: &mut State,
        partition: TopicPartition,
        records: &v1::PartitionRecords,
        error: &v1::Error,
    ) -> After {
        let Some(part) = state.parts.get_mut(&partition) else { return After::Go };
        let metadata = self.client.metadata();
        if let Some(hint) = &error.leader {
            metadata.learn(&partition.topic, partition.partition, hint);
        }
        if !self.from_leader {
            // It may lag behind, or not hold the partition any more: the leader has the last word.
            part.leave_follower(Instant::now());
            part.stream = None;
            return After::Go;
        }
        let code = ErrorCode::from_number(error.code).unwrap_or(ErrorCode::UnknownServerError);
        let known_epoch = part.server.map_or(-1, |server| server.epoch);
        if code == ErrorCode::OffsetOutOfRange {
            let failed = ConsumeError::OffsetOutOfRange {
                partition: partition.clone(),
                offset: part.fetch_from,
                log_start_offset: records.log_start_offset,
                high_watermark: records.high_watermark,
            };
            match self.config.offset_policy {
                OffsetPolicy::Error => self.rest(state, &partition, failed),
                OffsetPolicy::Earliest => return After::Reset(partition, Position::Start),
                OffsetPolicy::Latest => return After::Reset(partition, Position::End),
            }
        } else if error.retriable {
            part.stream = None;
            let leader = metadata.leader(&partition.topic, partition.partition);
            if code == ErrorCode::FencedLeaderEpoch {
                part.fenced = part.fenced.max(known_epoch);
            } else if leader.is_none_or(|leader| leader.epoch <= known_epoch) {
                let pause = part.attempts.searched(&self.client.config().retry, self.client.entropy());
                part.not_before = Some(Instant::now() + pause);
            }
        } else {
            let error = ClientError::refused("consume", format!("partition {partition}"), error);
            self.rest(state, &partition, ConsumeError::Refused { partition: partition.clone(), error });
        }
        After::Go
    }

    /// Lets a partition rest, and says why in its turn.
    fn rest(&self, state: &mut State, partition: &TopicPartition, error: ConsumeError) {
        if let Some(part) = state.parts.get_mut(partition) {
            part.resting = true;
            part.stream = None;
        }
        state.push(Item::Failed(partition.clone(), error));
        self.shared.arrived.notify_one();
        self.shared.plan.notify_one();
    }

    /// Goes on where the policy says.
    async fn reset(&self, partition: &TopicPartition, to: Position) {
        let found = Box::pin(positions::resolve(&self.client, vec![(partition.clone(), to)])).await;
        let mut state = self.shared.lock();
        let Some(part) = state.bound(partition, self.id) else { return };
        part.stream = None;
        match found.ok().and_then(|found| found.get(partition).copied()) {
            Some(start) => {
                part.fetch_from = start.offset;
                part.high_watermark = start.high_watermark;
                state.push(Item::Moved(partition.clone(), start.offset));
                self.shared.arrived.notify_one();
            }
            None => {
                let pause = part.attempts.failed(&self.client.config().retry, self.client.entropy());
                part.not_before = Some(Instant::now() + pause);
            }
        }
        self.shared.plan.notify_one();
    }
}
