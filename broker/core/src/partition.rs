//! The state of one partition: positions, epochs and producers, as a function of its log.

use headwater_proto::record::{BatchHeader, HEADER_BYTES};
use headwater_proto::types::{LogIndex, Offset};

use crate::control::ControlEntry;
use crate::log_state::LogState;
use crate::machine::{ApplyError, DecodeError, Entry, EntryBody, Machine};
use crate::producer::{ProducerBatch, ProducerTable, Verdict};

pub(crate) mod wire;

/// What the proposer of an entry learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    pub index: LogIndex,
    /// Offset of the entry's first record; of the next record for an entry without any.
    pub base_offset: Offset,
    pub next_offset: Offset,
    pub log_start: Offset,
}

/// A partition as of its last applied entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionState {
    pub log: LogState,
    pub producers: ProducerTable,
    /// Entries were lost and the loss was accepted: what is in the log behind them may go on from what they held.
    pub has_loss: bool,
}

impl Machine for PartitionState {
    type Reply = Applied;

    fn apply(&mut self, entry: Entry<'_>) -> Result<Applied, ApplyError> {
        self.log.check(&entry)?;
        if is_lost(entry.header) {
            // Which producers appended there, or were expired, nobody knows any more.
            self.producers = ProducerTable::default();
            self.has_loss = true;
        }
        match entry.body {
            EntryBody::Records(_) => self.append(&entry)?,
            EntryBody::Control(ControlEntry::ProducerExpiry(ids)) => self.producers.expire(ids),
            EntryBody::Control(_) => {}
        }
        self.log.advance(&entry);
        Ok(Applied {
            index: entry.index,
            base_offset: entry.base_offset,
            next_offset: self.log.next_offset,
            log_start: self.log.log_start,
        })
    }

    fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode(bytes)
    }

    fn next_offset(&self) -> Offset {
        self.log.next_offset
    }

    fn log_start(&self) -> Offset {
        self.log.log_start
    }
}

impl PartitionState {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), ApplyError> {
        let broken = |reason: String| ApplyError::Sequence { index: entry.index, reason };
        let batch =
            ProducerBatch::of(entry.header).map_err(|_| broken("its fields are impossible".to_owned()))?;
        let Some(batch) = batch else { return Ok(()) };
        match self.producers.judge(&batch) {
            Verdict::UnknownProducer if !self.has_loss => {
                Err(broken(format!("{batch:?} is of an unknown producer")))
            }
            Verdict::Next | Verdict::UnknownProducer => {
                self.producers.append(&batch, entry.base_offset, entry.index);
                Ok(())
            }
            verdict => Err(broken(format!("{batch:?} is {verdict:?}"))),
        }
    }
}

/// Whether the entry stands for one that was damaged: the log gives it a header and nothing behind it.
fn is_lost(header: &BatchHeader) -> bool {
    header.size_bytes() == Some(HEADER_BYTES)
}

#[cfg(test)]
mod tests;
