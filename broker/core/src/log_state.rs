//! What every group knows about its own log: how far it was applied, and where it starts.
//!
//! Invariants: the base offset of each entry equals the next offset before it; index and term never go
//! back; the log start never goes back and never passes the next offset.

use headwater_proto::types::{LogIndex, Offset, Term};

use crate::control::ControlEntry;
use crate::epoch::EpochTable;
use crate::machine::{ApplyError, Entry, EntryBody};

/// Positions in one log, as of the last applied entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// 0 before the first entry.
    pub applied_index: LogIndex,
    pub applied_term: Term,
    pub next_offset: Offset,
    pub log_start: Offset,
    pub epochs: EpochTable,
}

impl LogState {
    /// Whether the entry may be applied next. Checked in full before anything changes.
    ///
    /// # Errors
    /// The entry contradicts what was applied before it.
    pub fn check(&self, entry: &Entry<'_>) -> Result<(), ApplyError> {
        let index = entry.index;
        if index != self.applied_index.next() {
            return Err(ApplyError::Index { index, applied: self.applied_index });
        }
        if entry.term < self.applied_term {
            return Err(ApplyError::Term { index, applied: self.applied_term, found: entry.term });
        }
        if entry.base_offset != self.next_offset {
            return Err(ApplyError::BaseOffset {
                index,
                expected: self.next_offset,
                found: entry.base_offset,
            });
        }
        let offset_count = entry.header.offset_count();
        let possible = match entry.body {
            EntryBody::Records(_) => {
                offset_count > 0 && self.next_offset.get().checked_add(offset_count).is_some()
            }
            EntryBody::Control(_) => offset_count == 0,
        };
        if !possible {
            return Err(ApplyError::OffsetCount { index, found: offset_count });
        }
        match entry.body {
            EntryBody::Control(ControlEntry::LogStart(found)) if *found > self.next_offset => {
                Err(ApplyError::LogStart { index, found: *found, next_offset: self.next_offset })
            }
            _ => Ok(()),
        }
    }

    /// Advances past an entry that [`LogState::check`] let pass.
    pub fn advance(&mut self, entry: &Entry<'_>) {
        self.epochs.note(entry.term, entry.base_offset, entry.index);
        self.applied_index = entry.index;
        self.applied_term = entry.term;
        self.next_offset = Offset(self.next_offset.get() + entry.header.offset_count());
        if let EntryBody::Control(ControlEntry::LogStart(offset)) = entry.body {
            self.log_start = self.log_start.max(*offset);
            self.epochs.prune(self.log_start);
        }
    }
}
