//! Reading committed records.
//!
//! Source of the rules: Kafka's Fetch and KIP-74 (the first batch comes whatever its size).

use bytes::Bytes;
use headwater_proto::types::Offset;

use super::Partition;
use crate::error::RequestError;

/// Whole batches of one partition, mapped, not copied.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Empty at the end of the partition. The first batch may begin before the offset asked for.
    pub records: Bytes,
    pub next_offset: Offset,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub leader_epoch: i32,
}

impl Partition {
    /// Records from `offset` on, below the high watermark: at most `max_bytes`, at least one batch where
    /// there is one.
    pub async fn read(&self, offset: i64, max_bytes: usize, known_epoch: i32) -> Result<Slice, RequestError> {
        self.check_epoch(known_epoch)?;
        let progress = self.now();
        let (log_start, high_watermark) = (progress.log_start, progress.high_watermark);
        if offset < log_start.get() || offset > high_watermark.get() {
            return Err(RequestError::OffsetOutOfRange { offset, log_start, high_watermark });
        }
        let mut slice = Slice {
            records: Bytes::new(),
            next_offset: Offset(offset),
            high_watermark,
            log_start,
            leader_epoch: self.leader_epoch(),
        };
        if offset < high_watermark.get() {
            let found = self.group().log().read_async(Offset(offset), high_watermark, max_bytes).await?;
            slice.records = found.bytes;
            slice.next_offset = found.next_offset;
        }
        Ok(slice)
    }
}
