//! A batch in its final form: stamped with its producer and sequence, sent again, or cut in two.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use headwater_proto::record::{
    BatchHeader, CRC_START, HEADER_BYTES, Limits, RecordBatch, RecordBatchBuilder, RecordError,
};
use headwater_proto::types::Sequence;
use tokio::time::Instant;

use super::accumulator::{Accumulator, OpenBatch};
use super::config::ProducerConfig;
use super::delivery::{BatchState, Outcome};
use crate::DeliveryError;

/// A producer id with its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub id: i64,
    pub epoch: i16,
}

/// The place of a batch, or of a part of one, among those of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Counts the batches.
    pub order: u64,
    /// Index, in the batch, of the part's first record.
    pub first: u32,
}

/// A sealed batch, or a part of one that was too large.
#[derive(Debug)]
pub struct Batch {
    pub bytes: Bytes,
    pub state: Arc<BatchState>,
    pub records: i32,
    /// Records of the batch that this is a part of; `None` for a whole one.
    pub part_of: Option<u32>,
    pub charged_bytes: usize,
    pub opened: Instant,
    pub key: Key,
    pub sequence: Sequence,
    /// An attempt was sent whose outcome is not known.
    pub in_doubt: bool,
}

impl Batch {
    pub fn is_stamped(&self, identity: Identity) -> bool {
        BatchHeader::read(&self.bytes).is_some_and(|header| header.producer_id == identity.id)
    }

    /// Gives it another producer id and sequence.
    pub fn restamp(&mut self, identity: Identity, sequence: Sequence) {
        self.sequence = sequence;
        self.in_doubt = false;
        let Some(mut header) = BatchHeader::read(&self.bytes) else { return };
        header.producer_id = identity.id;
        header.producer_epoch = identity.epoch;
        header.base_sequence = sequence.get();
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_START..]);
        bytes[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
        self.bytes = bytes.freeze();
    }

    /// Cuts it in two that together have the same records under the same sequences, as Kafka's clients
    /// do (KIP-126): those of later batches stay. It must be certain that this one is not stored. Gives
    /// also the bytes of a half before compression.
    pub fn split(&self, config: &ProducerConfig) -> Result<([Self; 2], usize), RecordError> {
        let records: Vec<_> = RecordBatch::trusted(self.bytes.clone())?
            .records(&Limits { decompressed_bytes_max: usize::MAX, ..Limits::default() })?
            .collect::<Result<_, _>>()?;
        let header = BatchHeader::read(&self.bytes);
        let identity = header.filter(|header| header.producer_id >= 0);
        let half = records.len() / 2;
        let build = |range: std::ops::Range<usize>| -> Result<(Self, usize), RecordError> {
            let first = range.start as u32;
            let sequence = self.sequence.advance(range.start as i32);
            let mut builder = RecordBatchBuilder::new(config.compression, config.compression_level);
            for record in records.get(range.clone()).unwrap_or_default() {
                let headers: Vec<_> = record
                    .headers
                    .iter()
                    .map(|header| {
                        (std::str::from_utf8(&header.key).unwrap_or_default(), header.value.as_deref())
                    })
                    .collect();
                builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers)?;
            }
            if let Some(header) = identity {
                builder.set_producer(header.producer_id, header.producer_epoch, sequence.get());
            }
            let left = first == 0;
            let half_charge = self.charged_bytes / 2;
            let uncompressed_bytes = builder.len_bytes();
            let part = Self {
                bytes: builder.build()?,
                state: Arc::clone(&self.state),
                records: range.len() as i32,
                part_of: Some(self.part_of.unwrap_or(self.records as u32)),
                charged_bytes: if left { half_charge } else { self.charged_bytes - half_charge },
                opened: self.opened,
                key: Key { order: self.key.order, first: self.key.first + first },
                sequence,
                in_doubt: false,
            };
            Ok((part, uncompressed_bytes))
        };
        let ((left, left_bytes), (right, right_bytes)) = (build(0..half)?, build(half..records.len())?);
        Ok(([left, right], left_bytes.max(right_bytes)))
    }

    /// Tells the records' senders what became of them, and gives back the memory.
    pub fn resolve(self, shared: &Accumulator, outcome: Outcome) {
        match &outcome {
            Ok(_) => shared.counters.delivered(self.records as u64, self.bytes.len() as u64),
            Err(error) => shared.counters.undelivered(self.records as u64, error),
        }
        shared.release(self.charged_bytes);
        match self.part_of {
            Some(of) => self.state.resolve_part(self.key.first, self.records as u32, of, outcome),
            None => self.state.resolve(outcome),
        }
    }
}

/// As [`Batch::resolve`], for one that was never sealed.
pub fn discard(shared: &Accumulator, open: OpenBatch, error: DeliveryError) {
    shared.counters.undelivered(open.builder.record_count() as u64, &error);
    shared.release(open.charged_bytes);
    open.state.resolve(Err(error));
}
