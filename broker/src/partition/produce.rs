//! Appending the batches of one request to one partition.
//!
//! Invariants: batches are decided on and proposed in the order of the request; the first that is refused
//! ends the append of those after it; an outcome is awaited outside the lock of the partition.

use bytes::Bytes;
use headwater_core::{Applied, PartitionState};
use headwater_proto::ErrorCode;
use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::types::{Offset, ProducerId, TimestampMs};

use super::Partition;
use crate::error::RequestError;
use crate::proposer::{Await, Charge, Receipt};

/// What the broker, as opposed to the topic, allows of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    pub records_max: i32,
    pub decompressed_bytes_max: usize,
    /// Producers that a partition remembers; the longest silent ones make room.
    pub producers_max: usize,
}

/// What became of the batches of one partition, once they were proposed.
#[derive(Debug)]
pub struct Submission {
    receipts: Vec<Receipt<Applied>>,
    refused: Option<RequestError>,
    pub record_count: u64,
}

/// The acknowledgement of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Of the first batch; `None` when it is not known any more or nothing was appended.
    pub base_offset: Option<Offset>,
    pub batches_appended: u32,
    pub error: Option<RequestError>,
}

impl Submission {
    /// One that was refused as a whole.
    pub const fn refused(error: RequestError) -> Self {
        Self { receipts: Vec::new(), refused: Some(error), record_count: 0 }
    }

    /// Waits until every batch is committed, durably, or known not to be; where the producer asked for no more, until
    /// it is durable here.
    pub async fn acknowledged(self) -> Acknowledged {
        let mut acknowledged = Acknowledged { base_offset: None, batches_appended: 0, error: None };
        for receipt in self.receipts {
            match receipt.outcome().await {
                Ok(outcome) => {
                    let base_offset = outcome.map_or_else(|original| original, |applied| applied.base_offset);
                    acknowledged.base_offset = acknowledged.base_offset.or(Some(base_offset));
                    acknowledged.batches_appended += 1;
                }
                Err(error) => {
                    acknowledged.error = Some(error);
                    return acknowledged;
                }
            }
        }
        acknowledged.error = self.refused;
        acknowledged
    }
}

impl Partition {
    /// Validates and proposes whole batches, one after the other.
    pub async fn submit(
        &self,
        mut records: Bytes,
        acks: i32,
        limits: BatchLimits,
        now: TimestampMs,
        charge: Charge,
    ) -> Submission {
        if records.is_empty() {
            return Submission::refused(RequestError::NoRecords);
        }
        let mut submission = Submission { receipts: Vec::new(), refused: None, record_count: 0 };
        while !records.is_empty() {
            let appended = match self.next_batch(&mut records, limits, now) {
                Ok(batch) => {
                    submission.record_count += u64::try_from(batch.header().record_count).unwrap_or(0);
                    self.append(batch, acks, limits, charge.clone()).await
                }
                Err(error) => Err(error),
            };
            match appended {
                Ok(receipt) => submission.receipts.push(receipt),
                Err(error) => {
                    submission.refused = Some(error);
                    break;
                }
            }
        }
        submission
    }

    /// Splits off the first batch and checks it against the limits of topic and broker.
    fn next_batch(
        &self,
        records: &mut Bytes,
        limits: BatchLimits,
        now: TimestampMs,
    ) -> Result<RecordBatch, RequestError> {
        let config = self.config();
        let limits = Limits {
            batch_bytes_max: config.max_message_bytes,
            record_count_max: limits.records_max,
            decompressed_bytes_max: limits.decompressed_bytes_max,
            ..Limits::default()
        };
        let batch = RecordBatch::split_first(records, &limits)?.ok_or(RequestError::NoRecords)?;
        batch.check_from_producer()?;
        let latest = batch.header().max_timestamp;
        if latest.saturating_sub(now.get()) > config.timestamp_after_max_ms {
            let limit_ms = config.timestamp_after_max_ms;
            return Err(RequestError::Timestamp { timestamp: latest, limit_ms, side: "after", now });
        }
        if config.timestamp_before_max_ms < i64::MAX {
            let limit_ms = config.timestamp_before_max_ms;
            let earliest = earliest_timestamp(&batch, &limits)?;
            if now.get().saturating_sub(earliest) > limit_ms {
                return Err(RequestError::Timestamp { timestamp: earliest, limit_ms, side: "before", now });
            }
        }
        Ok(batch)
    }

    async fn append(
        &self,
        batch: RecordBatch,
        acks: i32,
        limits: BatchLimits,
        charge: Charge,
    ) -> Result<Receipt<Applied>, RequestError> {
        // A repeat of a producer's batch is told where the first one is: that must not change any more.
        let until = match batch.header().producer_id {
            ..0 if acks == 1 => Await::LocalDisk,
            _ => Await::Commit,
        };
        self.make_room_for_producer(ProducerId(batch.header().producer_id), limits.producers_max).await;
        let decide = |gate: &mut headwater_core::Gate, state: &PartitionState| {
            (gate.decide(&state.producers, batch.header()), batch.bytes().clone())
        };
        self.proposer.propose(charge, until, decide).await
    }

    /// Expires the longest silent producers when a new one would pass the bound.
    async fn make_room_for_producer(&self, id: ProducerId, producers_max: usize) {
        if id.get() < 0 {
            return;
        }
        let oldest = self.group().with_state(|state| {
            let producers = &state.producers;
            (producers.len() >= producers_max && producers.get(id).is_none())
                .then(|| producers.longest_silent(producers_max / 10 + 1))
        });
        if let Some(oldest) = oldest
            && let Err(error) = self.expire_producers(oldest).await
            && error.code() != ErrorCode::NotLeaderOrFollower
        {
            tracing::warn!(topic = self.topic(), %error, "producers could not be expired");
        }
    }
}

/// The smallest timestamp of a batch, which its header does not tell.
fn earliest_timestamp(batch: &RecordBatch, limits: &Limits) -> Result<i64, RequestError> {
    let mut earliest = i64::MAX;
    for record in batch.records(limits)? {
        earliest = earliest.min(record?.timestamp);
    }
    Ok(earliest)
}
