//! A view of one record batch over [`Bytes`].
//!
//! Invariants: a [`RecordBatch`] holds the bytes of exactly one batch, as long as its length field
//! says, with magic 2. Making one copies nothing, allocates nothing and touches no record: that is
//! left to [`RecordBatch::records`], which a broker never needs on its way to the log.

use bytes::{Buf, Bytes};

use super::header::{Attributes, CRC_START, LENGTH_OVERHEAD};
use super::iter::RecordIter;
use super::{BatchHeader, HEADER_BYTES, RecordError, codec};

/// Bytes of the shortest record: seven fields of one byte each, all lengths zero or null.
const RECORD_BYTES_MIN: usize = 7;

/// The attribute bits that a producer may set: codec and, within a transaction, transactional.
const PRODUCER_ATTRIBUTES: u16 = 0b111 | Attributes::TRANSACTIONAL as u16;

/// What a reader of batches takes; each is checked before memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one whole batch, header included.
    pub batch_bytes_max: usize,
    /// Records that one batch may declare.
    pub record_count_max: i32,
    /// Bytes of the records of one batch after decompression.
    pub decompressed_bytes_max: usize,
    /// Headers of one record.
    pub header_count_max: i32,
}

/// What a reader takes that has no configuration of its own: 64 MiB batches, 256 MiB decompressed.
impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_bytes_max: 64 << 20,
            record_count_max: 16_000_000,
            decompressed_bytes_max: 256 << 20,
            header_count_max: 65_536,
        }
    }
}

/// One record batch v2. Cheap to clone: the bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// A view of `bytes`, which must be exactly one batch: checks length, size limit, magic, codec,
    /// counts, producer identity and CRC-32C. Base offset and leader epoch, which a broker stamps,
    /// may hold anything.
    ///
    /// A batch without records is legal here: compaction leaves such, and Headwater's own control
    /// batches are such. What a client may send is narrower: [`RecordBatch::check_from_producer`].
    ///
    /// # Errors
    /// The first check that fails; every truncation, trailing byte or changed bit under the CRC.
    pub fn validate(bytes: Bytes, limits: &Limits) -> Result<Self, RecordError> {
        let size = batch_size(&bytes, limits)?;
        if bytes.len() > size {
            return Err(RecordError::TrailingBytes(bytes.len() - size));
        }
        let batch = Self::trusted(bytes)?;
        batch.check_fields(limits)?;
        batch.check_crc()?;
        Ok(batch)
    }

    /// Splits the first batch off `bytes` and validates it; `None` when `bytes` is empty.
    ///
    /// # Errors
    /// As [`RecordBatch::validate`]; `bytes` is then left as it was.
    pub fn split_first(bytes: &mut Bytes, limits: &Limits) -> Result<Option<Self>, RecordError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let size = batch_size(bytes, limits)?;
        let batch = Self::validate(bytes.slice(..size), limits)?;
        bytes.advance(size);
        Ok(Some(batch))
    }

    /// A view of a batch that was validated before, as one read back from our own log: the header is
    /// parsed, length and magic are checked, nothing else.
    ///
    /// # Errors
    /// When `bytes` is not one batch of magic 2 by its length.
    pub fn trusted(bytes: Bytes) -> Result<Self, RecordError> {
        let header = BatchHeader::read(&bytes)
            .ok_or(RecordError::Truncated { needed: HEADER_BYTES, remaining: bytes.len() })?;
        let size = header.size_bytes().ok_or(RecordError::BatchLength(header.batch_length))?;
        if size > bytes.len() {
            return Err(RecordError::Truncated { needed: size, remaining: bytes.len() });
        }
        if size < bytes.len() {
            return Err(RecordError::TrailingBytes(bytes.len() - size));
        }
        if header.magic != 2 {
            return Err(RecordError::Magic(header.magic));
        }
        Ok(Self { header, bytes })
    }

    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// What follows the header: records, compressed or not, or the payload of a control batch of
    /// Headwater's.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// Compares the CRC-32C of everything from the attributes on with the header's.
    ///
    /// # Errors
    /// [`RecordError::Crc`].
    pub fn check_crc(&self) -> Result<(), RecordError> {
        let computed = crc32c::crc32c(&self.bytes[CRC_START..]);
        if computed != self.header.crc {
            return Err(RecordError::Crc { stored: self.header.crc, computed });
        }
        Ok(())
    }

    /// What a broker asks of a validated batch that a client produces, beyond being well-formed:
    /// records, numbered without gaps, no control bit, only attributes that are a producer's, and a
    /// sequence where there is a producer id. Its base offset is irrelevant.
    ///
    /// # Errors
    /// One variant for each of these.
    pub fn check_from_producer(&self) -> Result<(), RecordError> {
        let header = &self.header;
        let attributes = header.attributes;
        if attributes.is_control() {
            return Err(RecordError::ControlFromProducer);
        }
        if attributes.is_log_append_time() {
            return Err(RecordError::LogAppendTimeFromProducer);
        }
        let reserved = attributes.0 as u16 & !PRODUCER_ATTRIBUTES;
        if reserved != 0 {
            return Err(RecordError::ReservedAttributes(reserved));
        }
        if attributes.is_transactional() {
            return Err(RecordError::Transactional);
        }
        if header.record_count <= 0 {
            return Err(RecordError::NoRecords);
        }
        if header.last_offset_delta != header.record_count - 1 {
            return Err(RecordError::OffsetGaps {
                last_offset_delta: header.last_offset_delta,
                record_count: header.record_count,
            });
        }
        if header.producer_id >= 0 && header.base_sequence < 0 {
            return Err(RecordError::NegativeSequence(header.base_sequence));
        }
        Ok(())
    }

    /// The records, decoded as they are asked for. Of an uncompressed batch they are slices of its
    /// own bytes; a compressed one is decompressed here, into at most
    /// [`Limits::decompressed_bytes_max`] bytes.
    ///
    /// # Errors
    /// An unknown codec, a malformed stream, or one that holds more than the limit.
    pub fn records(&self, limits: &Limits) -> Result<RecordIter, RecordError> {
        let header = &self.header;
        let compression = self.compression()?;
        // A control batch of ours has a payload where others have records.
        if header.record_count == 0 && header.attributes.is_control() {
            return Ok(RecordIter::new(header, Bytes::new(), limits));
        }
        let records = codec::decompress(compression, self.body(), limits.decompressed_bytes_max)?;
        check_records_fit(header.record_count, records.len())?;
        Ok(RecordIter::new(header, records, limits))
    }

    fn compression(&self) -> Result<super::Compression, RecordError> {
        let attributes = self.header.attributes;
        attributes.compression().ok_or(RecordError::UnknownCompression((attributes.0 & 0b111) as u8))
    }

    fn check_fields(&self, limits: &Limits) -> Result<(), RecordError> {
        let header = &self.header;
        let compression = self.compression()?;
        let record_count = header.record_count;
        if record_count < 0 {
            return Err(RecordError::NegativeRecordCount(record_count));
        }
        if record_count > limits.record_count_max {
            return Err(RecordError::TooManyRecords { count: record_count, limit: limits.record_count_max });
        }
        if compression == super::Compression::None {
            check_records_fit(record_count, self.bytes.len() - HEADER_BYTES)?;
        }
        // Only a control batch without records consumes no offset.
        let last_offset_delta = header.last_offset_delta;
        let least = if header.attributes.is_control() && record_count == 0 { -1 } else { 0 };
        if last_offset_delta < least || i64::from(record_count) > header.offset_count() {
            return Err(RecordError::LastOffsetDelta { last_offset_delta, record_count });
        }
        if header.producer_id < -1 || (header.producer_id >= 0 && header.producer_epoch < 0) {
            return Err(RecordError::Producer { id: header.producer_id, epoch: header.producer_epoch });
        }
        Ok(())
    }
}

/// Bytes of the batch at the front of `bytes`, once they are known to be within the limit and there.
fn batch_size(bytes: &[u8], limits: &Limits) -> Result<usize, RecordError> {
    let Some(length) = bytes.get(8..LENGTH_OVERHEAD).and_then(|field| field.first_chunk()) else {
        return Err(RecordError::Truncated { needed: HEADER_BYTES, remaining: bytes.len() });
    };
    let length = i32::from_be_bytes(*length);
    let size = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(LENGTH_OVERHEAD))
        .filter(|size| *size >= HEADER_BYTES)
        .ok_or(RecordError::BatchLength(length))?;
    if size > limits.batch_bytes_max {
        return Err(RecordError::BatchTooLarge { bytes: size, limit: limits.batch_bytes_max });
    }
    if size > bytes.len() {
        return Err(RecordError::Truncated { needed: size, remaining: bytes.len() });
    }
    Ok(size)
}

fn check_records_fit(count: i32, bytes: usize) -> Result<(), RecordError> {
    let fit = usize::try_from(count).is_ok_and(|count| count <= bytes / RECORD_BYTES_MIN);
    if fit { Ok(()) } else { Err(RecordError::RecordsDoNotFit { count, bytes }) }
}
