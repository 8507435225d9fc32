//! What a consumer hands out.

use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::record::{Header, Limits, RecordBatch, RecordError, RecordIter};

use crate::TopicPartition;

/// One record with where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch, -1 for none.
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// One record batch as its producer sealed it, decoded only on demand.
#[derive(Debug, Clone)]
pub struct ConsumedBatch {
    pub partition: TopicPartition,
    pub batch: RecordBatch,
    /// The first record wanted: a batch is whole, and may begin before it.
    pub first_offset: i64,
    /// The partition's end when the batch was sent.
    pub high_watermark: i64,
    pub log_start_offset: i64,
    pub leader_epoch: i32,
    pub(crate) decompressed_bytes_max: usize,
}

impl ConsumedBatch {
    /// The offset after the batch's last record.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        let header = self.batch.header();
        header.base_offset + header.offset_count()
    }

    /// Records from [`first_offset`](Self::first_offset) on, at most; compaction may have left fewer.
    #[must_use]
    pub fn offset_count(&self) -> i64 {
        self.next_offset() - self.first_offset
    }

    /// Bytes of the whole batch, as sent.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.batch.bytes().len()
    }

    /// The records from [`first_offset`](Self::first_offset) on, decoded one at a time.
    ///
    /// # Errors
    /// The batch can't be decompressed within the consumer's limit.
    pub fn records(&self) -> Result<ConsumedRecords, RecordError> {
        let limits = Limits { decompressed_bytes_max: self.decompressed_bytes_max, ..Limits::default() };
        Ok(ConsumedRecords {
            partition: self.partition.clone(),
            first_offset: self.first_offset,
            records: Some(self.batch.records(&limits)?),
        })
    }
}

/// The wanted records of one batch.
#[derive(Debug, Clone)]
pub struct ConsumedRecords {
    partition: TopicPartition,
    first_offset: i64,
    records: Option<RecordIter>,
}

impl ConsumedRecords {
    /// None of the batch's records: it can't be decoded.
    pub(super) fn none(batch: &ConsumedBatch) -> Self {
        Self { partition: batch.partition.clone(), first_offset: batch.first_offset, records: None }
    }
}

impl Iterator for ConsumedRecords {
    type Item = Result<ConsumedRecord, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = match self.records.as_mut()?.next()? {
                Ok(record) => record,
                Err(error) => return Some(Err(error)),
            };
            if record.offset < self.first_offset {
                continue;
            }
            return Some(Ok(ConsumedRecord {
                topic: Arc::clone(&self.partition.topic),
                partition: self.partition.partition,
                offset: record.offset,
                timestamp_ms: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            }));
        }
    }
}
