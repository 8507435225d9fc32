//! The values that a log takes and returns.

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset, Term, TimestampMs};

/// Identity of a Raft entry. Ordered by term, then index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    pub term: Term,
    pub index: LogIndex,
}

/// A batch to append: a whole record batch v2 whose base offset and leader epoch the log stamps.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub term: Term,
    pub batch: Bytes,
}

/// Where an entry lies and what it holds, from its index entry alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryMeta {
    pub index: LogIndex,
    pub term: Term,
    /// Offset of its first record; of the next record to come for an entry without any.
    pub base_offset: Offset,
    /// Offsets that it consumes; 0 for a control batch of Headwater's.
    pub offset_count: u32,
    pub size_bytes: u32,
    /// Byte position in its segment file.
    pub position: u64,
    /// Largest timestamp in this batch; -1 for an entry without records.
    pub max_timestamp: TimestampMs,
}

impl EntryMeta {
    /// The offset that follows its last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0 + i64::from(self.offset_count))
    }

    #[must_use]
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// Whether it holds offsets, so that it is of interest to readers of records.
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.offset_count > 0
    }
}

/// Both ends of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// The last entry purged, if any was.
    pub purged: Option<LogId>,
    /// Index of the first entry that is (or would be) readable.
    pub first_index: LogIndex,
    /// The last entry; the purged one when nothing follows it.
    pub last: Option<LogId>,
    /// Offset that the next record will get.
    pub next_offset: Offset,
    /// Base offset of the first readable entry; `next_offset` when there is none.
    pub first_offset: Offset,
    /// Last entry known to be on stable storage.
    pub durable_index: Option<LogIndex>,
}

/// Whole data batches that lie one after the other in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSlice {
    /// Empty when nothing lies below the reader's bound.
    pub bytes: Bytes,
    /// Where to read on.
    pub next_offset: Offset,
}

/// One segment, as retention and rolling by age need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    pub first_index: LogIndex,
    pub last: LogId,
    pub base_offset: Offset,
    pub next_offset: Offset,
    pub size_bytes: u64,
    /// Largest timestamp of its data batches; -1 when it holds none.
    pub max_timestamp: TimestampMs,
    /// Largest timestamp of its first data batch; -1 when it holds none.
    pub first_timestamp: TimestampMs,
    pub sealed: bool,
}

/// What may change while a log is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// A segment is closed before a batch would make it longer than this; at most `i32::MAX`.
    pub segment_bytes: u64,
    /// A segment is closed when it holds this many batches, which bounds its index file (48 bytes each).
    pub segment_batches: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, segment_batches: 1 << 20 }
    }
}

/// Entries that were durable once and cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRange {
    pub first_index: LogIndex,
    /// Inclusive.
    pub last_index: LogIndex,
    /// Base offset of the first damaged entry.
    pub first_offset: Offset,
    /// First offset behind the damage.
    pub next_offset: Offset,
    /// File name of the segment.
    pub file: String,
    /// Byte position of the first damaged batch.
    pub position: u64,
}

/// Rot: bytes below the durable point that changed or went missing. Reported, never cut by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// In the order of the log, not overlapping. What lies between and behind them is intact.
    pub ranges: Vec<DamagedRange>,
    /// The log should hold every entry below this index but ends earlier: what followed its present
    /// end is gone, its extent unknown.
    pub end_missing_below: Option<LogIndex>,
    /// Whether an operator accepted the loss; appends are refused until then.
    pub accepted: bool,
}

impl Damage {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.end_missing_below.is_none()
    }

    /// What is left of it in a log that holds the entries from `first` to below `next`: what was purged or cut
    /// since is nobody's loss any more.
    pub(crate) fn within(mut self, first: LogIndex, next: LogIndex) -> Self {
        self.ranges.retain(|r| r.last_index >= first && r.first_index < next);
        self
    }
}

/// A tail that a crash tore and the start cut off. Until the replica's peers have vouched for the new end,
/// it must not vote or lead; a sole voter may at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailCut {
    /// The last entry that was kept.
    pub last: Option<LogId>,
}
