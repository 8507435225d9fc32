//! Offsets by timestamp.
//!
//! Source: Kafka's ListOffsets. The index finds the batch, its records decide.

use headwater_proto::record::{Limits, Record, RecordBatch};
use headwater_proto::types::{LogIndex, Offset, TimestampMs};

use super::Partition;
use crate::error::RequestError;

/// The high watermark.
const LATEST: i64 = -1;
/// The log start.
const EARLIEST: i64 = -2;
/// The record with the greatest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;

/// Batches looked into before the answer is given to the batch.
const BATCHES_MAX: usize = 1_000;

/// What was found; -1 each when there is no such record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub offset: i64,
    pub timestamp: i64,
}

const NOTHING: Found = Found { offset: -1, timestamp: -1 };

impl Partition {
    /// Answers one of Kafka's timestamps: a time in ms, or -1, -2, -3.
    pub fn list_offset(&self, timestamp: i64, limits: &Limits) -> Result<Found, RequestError> {
        let progress = self.now();
        match timestamp {
            LATEST => Ok(Found { offset: progress.high_watermark.get(), timestamp: -1 }),
            EARLIEST => Ok(Found { offset: progress.log_start.get(), timestamp: -1 }),
            MAX_TIMESTAMP => self.latest_timestamp(limits),
            0.. => {
                let wanted = |record: &Record| record.timestamp >= timestamp;
                Ok(self.first_record(TimestampMs(timestamp), limits, wanted)?.unwrap_or(NOTHING))
            }
            other => Err(RequestError::Invalid(format!(
                "timestamp {other} is neither a time nor one of -1 (latest), -2 (earliest), -3 (greatest)"
            ))),
        }
    }

    fn latest_timestamp(&self, limits: &Limits) -> Result<Found, RequestError> {
        let log_start = self.now().log_start;
        let segments = self.group().log().segments();
        let visible = segments.iter().filter(|segment| segment.next_offset > log_start);
        let Some(greatest) = visible.map(|segment| segment.max_timestamp).max().filter(|t| t.get() >= 0)
        else {
            return Ok(NOTHING);
        };
        let found = self.first_record(greatest, limits, |record| record.timestamp >= greatest.get())?;
        Ok(found.unwrap_or(NOTHING))
    }

    /// The first visible record that is wanted, in the first batch that claims this timestamp or after it.
    fn first_record(
        &self,
        timestamp: TimestampMs,
        limits: &Limits,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Option<Found>, RequestError> {
        let log = self.group().log();
        let progress = self.now();
        let visible = progress.log_start..progress.high_watermark;
        let Some(entry) = log.entry_at_timestamp(timestamp)? else { return Ok(None) };
        let (claimed, mut index) = (entry, entry.index);
        // A producer may have written a larger timestamp into a header than any of its records has: then the
        // next batch is looked at, but not for ever.
        for _ in 0..BATCHES_MAX {
            let Some(entry) = log.entry(index)?.filter(|entry| entry.base_offset < visible.end) else {
                return Ok(None);
            };
            if entry.is_data() && entry.max_timestamp >= timestamp && entry.next_offset() > visible.start {
                let found = self.first_of_batch(index, limits, visible.start, &wanted)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            index = index.next();
        }
        let offset = claimed.base_offset.max(visible.start).get();
        Ok(Some(Found { offset, timestamp: claimed.max_timestamp.get() }))
    }

    fn first_of_batch(
        &self,
        index: LogIndex,
        limits: &Limits,
        log_start: Offset,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Option<Found>, RequestError> {
        let Some((_, bytes)) = self.group().log().batch(index)? else { return Ok(None) };
        for record in RecordBatch::trusted(bytes)?.records(limits)? {
            let record = record?;
            if record.offset >= log_start.get() && wanted(&record) {
                return Ok(Some(Found { offset: record.offset, timestamp: record.timestamp }));
            }
        }
        Ok(None)
    }
}
