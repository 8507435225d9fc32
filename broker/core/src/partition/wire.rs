//! The encoding of a partition's tables: a protobuf message, so that later versions add sections.
//!
//! Invariants: rows are in the order of their keys; numbers keep their field for ever; a section that an
//! older version would misread raises [`VERSION`].

use headwater_proto::types::{LogIndex, Offset, ProducerEpoch, ProducerId, Sequence, Term};
use prost::Message;

use super::PartitionState;
use crate::epoch::{EpochStart, EpochTable};
use crate::log_state::LogState;
use crate::machine::DecodeError;
use crate::mutant::{self, Mutant};
use crate::producer::{Producer, ProducerTable, Remembered, Window};

const VERSION: u32 = 1;
const WHAT: &str = "partition tables";

#[derive(Clone, PartialEq, Message)]
struct Tables {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    log: Option<LogSection>,
    #[prost(message, repeated, tag = "3")]
    producers: Vec<ProducerRow>,
    #[prost(bool, tag = "4")]
    has_loss: bool,
}

/// Shared with the metadata group.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogSection {
    #[prost(uint64, tag = "1")]
    applied_index: u64,
    #[prost(uint64, tag = "2")]
    applied_term: u64,
    #[prost(int64, tag = "3")]
    next_offset: i64,
    #[prost(int64, tag = "4")]
    log_start: i64,
    #[prost(message, repeated, tag = "5")]
    epochs: Vec<EpochRow>,
}

#[derive(Clone, PartialEq, Message)]
struct EpochRow {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(int64, tag = "2")]
    first_offset: i64,
    #[prost(uint64, tag = "3")]
    first_index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ProducerRow {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int32, tag = "2")]
    epoch: i32,
    #[prost(uint64, tag = "3")]
    last_index: u64,
    #[prost(message, repeated, tag = "4")]
    batches: Vec<BatchRow>,
}

#[derive(Clone, PartialEq, Message)]
struct BatchRow {
    #[prost(int32, tag = "1")]
    first_sequence: i32,
    #[prost(int32, tag = "2")]
    last_sequence: i32,
    #[prost(int64, tag = "3")]
    base_offset: i64,
}

pub(super) fn encode(state: &PartitionState) -> Vec<u8> {
    let all = state.producers.iter().filter(|_| !mutant::active(Mutant::SnapshotWithoutProducers));
    let producers = all.map(|(id, producer)| producer_row(id, producer)).collect();
    Tables { version: VERSION, log: Some(LogSection::of(&state.log)), producers, has_loss: state.has_loss }
        .encode_to_vec()
}

pub(super) fn decode(bytes: &[u8]) -> Result<PartitionState, DecodeError> {
    let tables = Tables::decode(bytes).map_err(|e| malformed(e.to_string()))?;
    if tables.version != VERSION {
        return Err(DecodeError::Version { what: WHAT, found: tables.version, supported: VERSION });
    }
    let log = tables.log.ok_or_else(|| malformed("the log section is missing".to_owned()))?.read()?;
    let mut producers = ProducerTable::default();
    for row in tables.producers {
        let id = row.id;
        let restored = producer(row).is_some_and(|producer| producers.restore(ProducerId(id), producer));
        if !restored {
            return Err(malformed(format!("the row of producer id {id} is impossible")));
        }
    }
    Ok(PartitionState { log, producers, has_loss: tables.has_loss })
}

impl LogSection {
    pub(crate) fn of(log: &LogState) -> Self {
        let epochs = log.epochs.iter().map(|(term, start)| EpochRow {
            term: term.get(),
            first_offset: start.first_offset.get(),
            first_index: start.first_index.get(),
        });
        Self {
            applied_index: log.applied_index.get(),
            applied_term: log.applied_term.get(),
            next_offset: log.next_offset.get(),
            log_start: log.log_start.get(),
            epochs: epochs.collect(),
        }
    }

    pub(crate) fn read(self) -> Result<LogState, DecodeError> {
        let mut epochs = EpochTable::default();
        for row in self.epochs {
            let start =
                EpochStart { first_offset: Offset(row.first_offset), first_index: LogIndex(row.first_index) };
            if !epochs.push(Term(row.term), start) {
                return Err(malformed(format!("the row of term {} is out of order", row.term)));
            }
        }
        if self.log_start < 0 || self.log_start > self.next_offset {
            return Err(malformed(format!(
                "log start {} of {} is impossible",
                self.log_start, self.next_offset
            )));
        }
        Ok(LogState {
            applied_index: LogIndex(self.applied_index),
            applied_term: Term(self.applied_term),
            next_offset: Offset(self.next_offset),
            log_start: Offset(self.log_start),
            epochs,
        })
    }
}

fn producer_row(id: ProducerId, producer: &Producer) -> ProducerRow {
    let batches = producer.window.batches.iter().map(|batch| BatchRow {
        first_sequence: batch.first.get(),
        last_sequence: batch.last.get(),
        base_offset: batch.place.get(),
    });
    ProducerRow {
        id: id.get(),
        epoch: producer.window.epoch.get().into(),
        last_index: producer.last_index.get(),
        batches: batches.collect(),
    }
}

fn producer(row: ProducerRow) -> Option<Producer> {
    let epoch = ProducerEpoch(i16::try_from(row.epoch).ok()?);
    let batches = row.batches.into_iter().map(|batch| Remembered {
        first: Sequence(batch.first_sequence),
        last: Sequence(batch.last_sequence),
        place: Offset(batch.base_offset),
    });
    Some(Producer {
        window: Window { epoch, batches: batches.collect() },
        last_index: LogIndex(row.last_index),
    })
}

fn malformed(reason: String) -> DecodeError {
    DecodeError::Malformed { what: WHAT, reason }
}
