//! Raft's reads of the log: for replication, and to apply.
//!
//! Invariants: a range comes back whole, but for what was purged at its front or not yet appended at its
//! end; an entry whose bytes contradict themselves, or are not what was appended, is an error, never left out. Bytes
//! are slices of the map: nothing is copied, and applying what is in memory touches headers only. The device is waited for off
//! the caller's thread.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};

use bytes::Bytes;
use futures_util::{Stream, stream};
use headwater_core::ControlEntry;
use headwater_proto::record::{BatchHeader, HEADER_BYTES};
use headwater_proto::types::{LogIndex, Offset};
use headwater_storage::log::{EntryMeta, LogError};
use openraft::{OptionalSend, RaftLogReader};

use crate::encoding::decode_membership;
use crate::log_store::{Shared, log_failed};
use crate::types::{
    CommittedLeader, Payload, RaftEntry, RaftLogId, RaftVote, StoredBatch, Types, from_raft_index,
};

/// openraft limits what it sends by count only; this is the limit by size.
const REPLICATION_BYTES_MAX: usize = 1 << 20;

/// Mapped bytes taken in one step to apply or to replay: addresses, not memory.
const STEP_BYTES_MAX: usize = 16 << 20;

/// A reader of one group's log; any number at once.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    shared: std::sync::Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: std::sync::Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Entries from the front of the range, at least one if the log holds any of it.
    pub(crate) async fn chunk(&self, range: Range<LogIndex>, max_bytes: usize) -> io::Result<Vec<RaftEntry>> {
        let bounds = self.shared.log.bounds();
        let end = bounds.last.map_or(LogIndex(0), |last| last.index).next().min(range.end);
        let start = range.start.max(bounds.first_index);
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = match self.shared.log.batches_async(start..end, max_bytes).await {
            Ok(batches) => batches.into_iter().map(|(meta, batch)| entry(meta, batch)).collect(),
            Err(error @ LogError::Io(_)) => return Err(log_failed(error)),
            Err(error) => Err(log_failed(error)),
        };
        entries.inspect_err(|_| self.shared.note_unreadable())
    }

    /// The entries of a range, a step at a time.
    pub(crate) fn stream(&self, range: Range<LogIndex>) -> impl Stream<Item = io::Result<RaftEntry>> + use<> {
        let reader = self.clone();
        let steps = stream::unfold(Some(range), move |rest| {
            let reader = reader.clone();
            async move { reader.step(rest?).await }
        });
        futures_util::StreamExt::flatten(steps)
    }

    /// The next entries of a range, and what remains of it.
    async fn step(&self, range: Range<LogIndex>) -> Option<(StepStream, Option<Range<LogIndex>>)> {
        match self.chunk(range.clone(), STEP_BYTES_MAX).await {
            Ok(entries) => {
                let next = from_raft_index(entries.last()?.log_id.index).next();
                Some((stream::iter(ok_all(entries)), Some(next..range.end)))
            }
            Err(error) => Some((stream::iter(vec![Err(error)]), None)),
        }
    }
}

type StepStream = stream::Iter<std::vec::IntoIter<io::Result<RaftEntry>>>;

fn ok_all(entries: Vec<RaftEntry>) -> Vec<io::Result<RaftEntry>> {
    entries.into_iter().map(Ok).collect()
}

/// An entry of the log as openraft knows it.
fn entry(meta: EntryMeta, batch: Bytes) -> io::Result<RaftEntry> {
    let damaged = |reason: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("entry {} of the log: {reason}", meta.index))
    };
    let index = meta.index.get().checked_sub(1).ok_or_else(|| damaged("index 0 is no entry".to_owned()))?;
    Ok(RaftEntry {
        log_id: RaftLogId::new(CommittedLeader::new(meta.term.get()), index),
        payload: Payload::Stored(StoredBatch {
            opens_segment: meta.position == 0,
            ..stored(meta.base_offset, batch).map_err(damaged)?
        }),
    })
}

/// A batch of the log, or on its way there from the leader's.
pub(crate) fn stored(base_offset: Offset, batch: Bytes) -> Result<StoredBatch, String> {
    let header = BatchHeader::read(&batch).ok_or("no batch header")?;
    let control = if header.offset_count() == 0 { Some(control(&batch)?) } else { None };
    Ok(StoredBatch { header, base_offset, batch, control, opens_segment: false })
}

/// What a batch without records says.
fn control(batch: &Bytes) -> Result<ControlEntry, String> {
    if batch.len() == HEADER_BYTES {
        // The log's stand-in for an entry that was damaged and whose loss an operator accepted.
        return Ok(ControlEntry::Void);
    }
    let control = ControlEntry::decode(&batch.slice(HEADER_BYTES..)).map_err(|error| error.to_string())?;
    if let ControlEntry::Membership(bytes) = &control {
        decode_membership(bytes).map_err(|error| error.to_string())?;
    }
    Ok(control)
}

/// Indexes of openraft's, as the log counts them.
fn log_range(range: &impl RangeBounds<u64>) -> Range<LogIndex> {
    let start = match range.start_bound() {
        Bound::Included(start) => from_raft_index(*start),
        Bound::Excluded(start) => from_raft_index(*start).next(),
        Bound::Unbounded => LogIndex(1),
    };
    let end = match range.end_bound() {
        Bound::Included(end) => from_raft_index(*end).next(),
        Bound::Excluded(end) => from_raft_index(*end),
        Bound::Unbounded => LogIndex(u64::MAX),
    };
    start..end
}

impl<R: Send + Sync + 'static> RaftLogReader<Types<R>> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut range = log_range(&range);
        let mut entries = Vec::new();
        loop {
            let chunk = self.chunk(range.clone(), STEP_BYTES_MAX).await?;
            let Some(last) = chunk.last() else { return Ok(entries) };
            range.start = from_raft_index(last.log_id.index).next();
            entries.extend(chunk);
        }
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.stream(log_range(&range))
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.shared.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        self.chunk(log_range(&(start..end)), REPLICATION_BYTES_MAX).await
    }
}
