//! Batches made by hand, well-formed or not.

#![allow(clippy::unwrap_used, dead_code)]

use bytes::Bytes;
use headwater_proto::record::{Attributes, BatchHeader, HEADER_BYTES};

/// A sound header of `record_count` records with offsets from 100 on.
pub fn header(record_count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: 100,
        batch_length: 0,
        partition_leader_epoch: 3,
        magic: 2,
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: record_count - 1,
        base_timestamp: 1_000,
        max_timestamp: 2_000,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count,
    }
}

/// `header` in front of `body`, with length and CRC-32C as they should be.
pub fn seal(mut header: BatchHeader, body: &[u8]) -> Bytes {
    header.batch_length = (HEADER_BYTES + body.len() - 12) as i32;
    let mut batch = header.to_bytes().to_vec();
    batch.extend_from_slice(body);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// The shortest records there are, with offset deltas from 0 on; up to 64.
pub fn empty_records(count: u8) -> Vec<u8> {
    assert!(count <= 64);
    (0..count).flat_map(|n| [6 << 1, 0, 0, n << 1, 1, 1, 0]).collect()
}
