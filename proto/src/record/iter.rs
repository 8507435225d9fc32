//! Records of a batch, decoded one at a time.
//!
//! Invariants: keys, values and headers are slices of the (decompressed) batch; only a record that
//! has headers allocates, and no more than its checked header count. Every length is compared with
//! what remains of the record before it is used. After the first error the iteration is over.

use std::iter::FusedIterator;

use bytes::Bytes;

use super::{BatchHeader, Limits, RecordError, varint};

/// Bytes of the shortest header: two lengths, of an empty key and no value.
const HEADER_BYTES_MIN: usize = 2;

/// One record with its absolute offset and timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Milliseconds since the Unix epoch, -1 for none.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In the producer's order, duplicates included.
    pub headers: Vec<Header>,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by the protocol, but not checked: the bytes are what the producer wrote.
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// The records of one batch in offset order; see [`super::RecordBatch::records`].
#[derive(Debug, Clone)]
pub struct RecordIter {
    /// All records, decompressed.
    records: Bytes,
    /// Where the next record begins in them.
    at: usize,
    /// Records taken so far.
    index: i32,
    record_count: i32,
    header_count_max: i32,
    base_offset: i64,
    last_offset_delta: i32,
    /// Offset delta of the record before the next; -1 at first.
    offset_delta: i32,
    base_timestamp: i64,
    /// The timestamp of all records of a batch whose broker set it.
    append_timestamp: Option<i64>,
}

impl RecordIter {
    pub(super) fn new(header: &BatchHeader, records: Bytes, limits: &Limits) -> Self {
        Self {
            records,
            at: 0,
            index: 0,
            record_count: header.record_count,
            header_count_max: limits.header_count_max,
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            offset_delta: -1,
            base_timestamp: header.base_timestamp,
            append_timestamp: header.attributes.is_log_append_time().then_some(header.max_timestamp),
        }
    }

    fn read_record(&mut self) -> Result<Record, RecordError> {
        let index = self.index;
        let mut rest = &self.records[self.at..];
        let length = varint::take_i32(&mut rest)?;
        let length = usize::try_from(length).map_err(|_| field(index, "record length", length))?;
        let Some(record) = rest.get(..length) else {
            return Err(RecordError::RecordTruncated { index, what: "record" });
        };
        let start = self.records.len() - rest.len();
        let mut fields = Fields { index, batch: &self.records, rest: record };
        // Record attributes: no bit is defined.
        fields.take(1, "attributes")?;
        let timestamp_delta = varint::take_i64(&mut fields.rest)?;
        let offset_delta = varint::take_i32(&mut fields.rest)?;
        let key = fields.take_nullable("key length")?;
        let value = fields.take_nullable("value length")?;
        let headers = fields.take_headers(self.header_count_max)?;
        if !fields.rest.is_empty() {
            return Err(RecordError::TrailingBytes(fields.rest.len()));
        }
        let (offset, timestamp) = self.place(offset_delta, timestamp_delta)?;
        self.offset_delta = offset_delta;
        self.at = start + length;
        Ok(Record { offset, timestamp, key, value, headers })
    }

    /// Absolute offset and timestamp of the record with these deltas.
    fn place(&self, offset_delta: i32, timestamp_delta: i64) -> Result<(i64, i64), RecordError> {
        let index = self.index;
        // Compaction leaves gaps, but nothing reorders the records of a batch.
        if offset_delta <= self.offset_delta || offset_delta > self.last_offset_delta {
            return Err(field(index, "offset delta", offset_delta));
        }
        let offset = self
            .base_offset
            .checked_add(i64::from(offset_delta))
            .ok_or_else(|| field(index, "offset delta", offset_delta))?;
        let timestamp = match self.append_timestamp {
            Some(timestamp) => timestamp,
            None => self
                .base_timestamp
                .checked_add(timestamp_delta)
                .ok_or_else(|| field(index, "timestamp delta", timestamp_delta))?,
        };
        Ok((offset, timestamp))
    }

    fn next_record(&mut self) -> Result<Option<Record>, RecordError> {
        if self.index < self.record_count {
            let record = self.read_record()?;
            self.index += 1;
            return Ok(Some(record));
        }
        match self.records.len() - self.at {
            0 => Ok(None),
            trailing => Err(RecordError::TrailingBytes(trailing)),
        }
    }
}

impl Iterator for RecordIter {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_record();
        if next.is_err() {
            // Nothing after a malformed record can be told apart from noise.
            self.index = self.record_count;
            self.at = self.records.len();
        }
        next.transpose()
    }

    /// Fewer come when a record turns out malformed.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest = usize::try_from(self.record_count - self.index).unwrap_or(0);
        // One error may follow the last record.
        (0, Some(rest + 1))
    }
}

impl FusedIterator for RecordIter {}

/// The fields of one record that are still to be read.
struct Fields<'a> {
    index: i32,
    batch: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(RecordError::RecordTruncated { index: self.index, what });
        };
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes behind their length; -1 stands for null.
    fn take_nullable(&mut self, what: &'static str) -> Result<Option<Bytes>, RecordError> {
        let length = varint::take_i32(&mut self.rest)?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| field(self.index, what, length))?;
        Ok(Some(self.batch.slice_ref(self.take(length, what)?)))
    }

    fn take_headers(&mut self, count_max: i32) -> Result<Vec<Header>, RecordError> {
        let declared = varint::take_i32(&mut self.rest)?;
        let count = usize::try_from(declared).map_err(|_| field(self.index, "header count", declared))?;
        if declared > count_max || count > self.rest.len() / HEADER_BYTES_MIN {
            return Err(field(self.index, "header count", declared));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let key =
                self.take_nullable("header key length")?.ok_or(field(self.index, "header key length", -1))?;
            let value = self.take_nullable("header value length")?;
            headers.push(Header { key, value });
        }
        Ok(headers)
    }
}

fn field(index: i32, what: &'static str, value: impl Into<i64>) -> RecordError {
    RecordError::RecordField { index, what, value: value.into() }
}
