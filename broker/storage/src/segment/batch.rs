//! The few header fields of a batch that the log looks at.
//!
//! Records are never touched; the CRC of what a producer sealed is checked at the edge, when a log is
//! recovered, and by the scrub.

use crc32c::{crc32c, crc32c_append};
use headwater_proto::record::{Attributes, BatchHeader, HEADER_BYTES};
use headwater_proto::types::{Offset, Term};

use crate::index::IndexEntry;

/// Bytes in front of what a producer's header holds unchanged: base offset, length, leader epoch.
pub const PREFIX_BYTES: usize = 16;

/// Where the coverage of Kafka's CRC begins.
const CRC_START: usize = 21;

/// Reads and checks the header of a batch that is about to be appended.
///
/// # Errors
/// Says what contradicts what.
pub fn check_new(batch: &[u8]) -> Result<BatchHeader, &'static str> {
    let header = BatchHeader::read(batch).ok_or("shorter than a batch header")?;
    if header.size_bytes() != Some(batch.len()) {
        return Err("its length field and its length differ");
    }
    if header.magic != 2 {
        return Err("magic is not 2");
    }
    if header.last_offset_delta < -1 || header.offset_count() > i64::from(i32::MAX) {
        return Err("last offset delta is out of range");
    }
    if u32::try_from(batch.len()).is_err() {
        return Err("longer than 4 GiB");
    }
    Ok(header)
}

/// The first 16 bytes of a batch as the log stores it.
#[must_use]
pub fn stamp(header: &BatchHeader, base_offset: Offset, term: Term) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    prefix[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
    prefix[12..].copy_from_slice(&(term.0 as u32).to_be_bytes());
    prefix
}

/// CRC-32C of a stored header, given in two parts.
#[must_use]
pub fn header_crc(prefix: &[u8; PREFIX_BYTES], batch: &[u8]) -> u32 {
    crc32c_append(crc32c(prefix), &batch[PREFIX_BYTES..HEADER_BYTES])
}

/// CRC-32C of the header of a stored batch; `None` when it is too short to have one.
#[must_use]
pub fn stored_header_crc(batch: &[u8]) -> Option<u32> {
    batch.get(..HEADER_BYTES).map(crc32c)
}

/// Whether the bytes behind the stamped fields are what the producer sealed.
#[must_use]
pub fn crc_holds(header: &BatchHeader, batch: &[u8]) -> bool {
    batch.get(CRC_START..).is_some_and(|sealed| crc32c(sealed) == header.crc)
}

/// The end of what precedes a batch in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    pub position: u64,
    pub offset_delta: u64,
    pub control_count: u32,
    pub running_timestamp: i64,
}

impl Tip {
    /// The beginning of a segment.
    pub const START: Self = Self { position: 0, offset_delta: 0, control_count: 0, running_timestamp: -1 };

    /// What follows an entry.
    #[must_use]
    pub fn after(entry: &IndexEntry) -> Self {
        Self {
            position: entry.end(),
            offset_delta: entry.next_delta(),
            control_count: entry.control_count,
            running_timestamp: entry.running_timestamp,
        }
    }

    /// The index entry of a batch that stands here; `None` where a field of it would overflow, so
    /// that the batch belongs into a new segment.
    #[must_use]
    pub fn entry(
        &self,
        header: &BatchHeader,
        size_bytes: u32,
        term: u32,
        header_crc: u32,
    ) -> Option<IndexEntry> {
        let offset_count = u32::try_from(header.offset_count()).ok()?;
        let max_timestamp = if offset_count > 0 { header.max_timestamp } else { -1 };
        Some(IndexEntry {
            position: u32::try_from(self.position).ok()?,
            size_bytes,
            offset_delta: u32::try_from(self.offset_delta).ok()?,
            offset_count,
            term,
            header_crc,
            control_count: self.control_count + u32::from(offset_count == 0),
            max_timestamp,
            running_timestamp: self.running_timestamp.max(max_timestamp),
        })
    }
}

/// An empty batch that stands for one that was lost: it consumes the same offsets, and holds no record,
/// as Kafka's compaction leaves behind.
#[must_use]
pub fn placeholder(base_offset: Offset, offset_count: i32, term: Term) -> Vec<u8> {
    let mut header = BatchHeader {
        base_offset: base_offset.0,
        batch_length: (HEADER_BYTES - 12) as i32,
        partition_leader_epoch: term.0 as i32,
        magic: 2,
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: offset_count - 1,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 0,
    };
    if offset_count == 0 {
        header.attributes = Attributes(Attributes::CONTROL);
    }
    header.crc = crc32c(&header.to_bytes()[CRC_START..]);
    header.to_bytes().to_vec()
}
