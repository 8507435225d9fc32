//! Encodes records into a batch.
//!
//! Records are written where they stay: behind room for the header in one growing buffer, which
//! becomes the batch. Only compression makes a second one.

use bytes::Bytes;

use super::header::{Attributes, CRC_START, LENGTH_OVERHEAD};
use super::varint::{self, VARLONG_BYTES_MAX};
use super::{BatchHeader, Compression, HEADER_BYTES, RecordError, codec};

/// Bytes of the buffer that a builder without a hint starts with.
const CAPACITY_BYTES: usize = 1024;

/// Bytes that a batch can have: its length field is an `i32`.
const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// Bytes of a record's fields in front of its key: length, attributes, both deltas, key length.
const RECORD_HEAD_BYTES_MAX: usize = 4 * VARLONG_BYTES_MAX + 1;

/// Name and value of a header to be written.
pub type HeaderRef<'a> = (&'a str, Option<&'a [u8]>);

/// Builds one batch of magic 2 with base offset 0, leader epoch -1 and create time, as a producer
/// sends it.
#[derive(Debug)]
pub struct RecordBatchBuilder {
    compression: Compression,
    level: Option<i32>,
    /// Room for the header, then the records.
    buffer: Vec<u8>,
    record_count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
}

impl RecordBatchBuilder {
    /// An empty batch. `level` is the codec's own: gzip 1 to 9, zstd -131072 to 22; snappy and lz4
    /// have none. `None` is Kafka's default, 6 for gzip and 3 for zstd.
    #[must_use]
    pub fn new(compression: Compression, level: Option<i32>) -> Self {
        Self::with_capacity(compression, level, CAPACITY_BYTES)
    }

    /// As [`RecordBatchBuilder::new`], with room for a batch of `capacity_bytes` taken at once: a
    /// buffer that never grows is never copied.
    #[must_use]
    pub fn with_capacity(compression: Compression, level: Option<i32>, capacity_bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity_bytes.max(HEADER_BYTES));
        buffer.resize(HEADER_BYTES, 0);
        Self {
            compression,
            level,
            buffer,
            record_count: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
        }
    }

    /// Appends a record; `timestamp_ms` is since the Unix epoch.
    ///
    /// # Errors
    /// [`RecordError::Unencodable`] when the batch would pass 2 GiB; it is then left as it was.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderRef<'_>],
    ) -> Result<(), RecordError> {
        let bytes_after = self.buffer.len().saturating_add(record_bytes_max(key, value, headers));
        if bytes_after > BATCH_BYTES_MAX {
            return Err(RecordError::Unencodable(bytes_after));
        }
        if self.record_count == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        // Readers add the delta in 64 bits, and refuse one that does not fit.
        let timestamp_delta =
            timestamp_ms.checked_sub(self.base_timestamp).ok_or(RecordError::RecordField {
                index: self.record_count,
                what: "timestamp",
                value: timestamp_ms,
            })?;
        self.write_record(timestamp_delta, key, value, headers);
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.record_count += 1;
        Ok(())
    }

    /// Bytes of the batch so far, header included, before compression.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.buffer.len()
    }

    #[must_use]
    pub const fn record_count(&self) -> i32 {
        self.record_count
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Makes it a batch of an idempotent producer. `base_sequence` is that of its first record.
    pub const fn set_producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
    }

    /// Compresses the records if so asked, and seals the batch.
    ///
    /// # Errors
    /// No record was appended, the codec has no such level, or compressed bytes pass 2 GiB.
    pub fn build(mut self) -> Result<Bytes, RecordError> {
        if self.record_count == 0 {
            return Err(RecordError::NoRecords);
        }
        let mut batch = match self.compression {
            Compression::None => std::mem::take(&mut self.buffer),
            compression => {
                let mut compressed = Vec::with_capacity(self.buffer.len() / 2 + HEADER_BYTES);
                compressed.resize(HEADER_BYTES, 0);
                codec::compress(compression, self.level, &self.buffer[HEADER_BYTES..], &mut compressed)?;
                compressed
            }
        };
        let header = BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: Attributes(0).with_compression(self.compression),
            last_offset_delta: self.record_count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.record_count,
        };
        seal(&mut batch, header)?;
        Ok(Bytes::from(batch))
    }

    fn write_record(
        &mut self,
        timestamp_delta: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[HeaderRef<'_>],
    ) {
        let offset_delta = i64::from(self.record_count);
        let mut length = 1
            + varint::size(timestamp_delta)
            + varint::size(offset_delta)
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varint::size(headers.len() as i64);
        for (name, value) in headers {
            length += nullable_bytes(Some(name.as_bytes())) + nullable_bytes(*value);
        }
        // Everything in front of the key goes through one small array: one append instead of five.
        let mut head = [0; RECORD_HEAD_BYTES_MAX];
        let mut at = varint::write(&mut head, 0, length as i64);
        head[at] = 0; // Record attributes: no bit is defined.
        at = varint::write(&mut head, at + 1, timestamp_delta);
        at = varint::write(&mut head, at, offset_delta);
        at = varint::write(&mut head, at, nullable_length(key));
        self.buffer.reserve(length + VARLONG_BYTES_MAX);
        self.buffer.extend_from_slice(&head[..at]);
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.write_nullable(value);
        self.write_varint(headers.len() as i64);
        for (name, value) in headers {
            self.write_nullable(Some(name.as_bytes()));
            self.write_nullable(*value);
        }
    }

    fn write_nullable(&mut self, bytes: Option<&[u8]>) {
        self.write_varint(nullable_length(bytes));
        self.buffer.extend_from_slice(bytes.unwrap_or_default());
    }

    fn write_varint(&mut self, value: i64) {
        let mut bytes = [0; VARLONG_BYTES_MAX];
        let end = varint::write(&mut bytes, 0, value);
        self.buffer.extend_from_slice(&bytes[..end]);
    }
}

/// An upper bound on the bytes that a record adds to a batch before compression.
#[must_use]
pub fn record_bytes_max(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[HeaderRef<'_>]) -> usize {
    let bytes = |field: Option<&[u8]>| field.map_or(0, <[u8]>::len) + VARLONG_BYTES_MAX;
    let headers = headers.iter().map(|(name, value)| bytes(Some(name.as_bytes())) + bytes(*value));
    RECORD_HEAD_BYTES_MAX + VARLONG_BYTES_MAX + bytes(key) + bytes(value) + headers.sum::<usize>()
}

/// A control batch without records, which consumes no offset: what Headwater keeps in its log
/// besides records. `payload` follows the header, under its CRC.
///
/// # Panics
/// When `payload` passes 2 GiB; what Headwater puts there has a few kilobytes at most.
#[must_use]
pub fn empty_control_batch(payload: &[u8]) -> Bytes {
    let mut batch = Vec::with_capacity(HEADER_BYTES + payload.len());
    batch.resize(HEADER_BYTES, 0);
    batch.extend_from_slice(payload);
    let header = BatchHeader {
        base_offset: 0,
        batch_length: 0,
        partition_leader_epoch: -1,
        magic: 2,
        crc: 0,
        attributes: Attributes(Attributes::CONTROL),
        last_offset_delta: -1,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 0,
    };
    seal(&mut batch, header).expect("a control payload is far below 2 GiB");
    Bytes::from(batch)
}

/// Writes the header in front of what `batch` holds behind it, with length and CRC-32C filled in.
fn seal(batch: &mut [u8], mut header: BatchHeader) -> Result<(), RecordError> {
    let length = batch.len() - LENGTH_OVERHEAD;
    header.batch_length = i32::try_from(length).map_err(|_| RecordError::Unencodable(batch.len()))?;
    batch[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

fn nullable_length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    varint::size(nullable_length(bytes)) + bytes.map_or(0, <[u8]>::len)
}
