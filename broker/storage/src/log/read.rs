//! Reading: by log index for replication and apply, by offset and timestamp for consumers.
//!
//! Invariant: no batch that rotted on the disk is handed out. Bytes that are not in memory, and those that this process
//! has only found (see [`crate::segment::proof`]), are compared with their CRC when they are read; what it appended and the page
//! cache still holds is not looked at again. What fails the comparison is refused and reported to whoever keeps the
//! log, so that it is known for damage at once and not by the next scrub.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset, TimestampMs};

use super::{EntryMeta, Log, LogError, LogSlice, View, lock};
use crate::index::IndexEntry;
use crate::segment::Segment;

/// A run of data batches that was found and not read yet.
struct Found {
    segment: Arc<Segment>,
    /// Its first entry.
    first: IndexEntry,
    /// Numbers of its first and its last entry.
    numbers: (u32, u32),
    extent: Range<u64>,
    next_offset: Offset,
}

/// A part of a range of entries that was found and not read yet.
enum Piece {
    /// Entries of one segment that lie one after the other, the first with this number.
    Run(Arc<Segment>, u32, Vec<IndexEntry>),
    /// One that was lost, and whose loss was accepted.
    StandIn(EntryMeta),
}

impl Log {
    /// The entry with this index; `None` outside the log.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when it was lost.
    pub fn entry(&self, index: LogIndex) -> Result<Option<EntryMeta>, LogError> {
        let view = self.view();
        if index < view.first_index() || index >= view.next_index() {
            return Ok(None);
        }
        if let Some(meta) = self.damaged_entry(index)? {
            return Ok(Some(meta));
        }
        let (segment, n) = view.find(index).ok_or_else(|| gap(index))?;
        self.noted(segment.meta(n)).map(Some)
    }

    /// The entry with this index and its batch as stored.
    ///
    /// # Errors
    /// As [`Log::entry`]; [`LogError::Corrupt`] when the batch is not the one that was appended.
    pub fn batch(&self, index: LogIndex) -> Result<Option<(EntryMeta, Bytes)>, LogError> {
        Ok(self.batches(index..index.next(), 0)?.pop())
    }

    /// Consecutive entries of `range` with their batches, up to `max_bytes` of them but at least the first. Ends
    /// early where the log does. What is not in memory is waited for on the caller's thread.
    ///
    /// # Errors
    /// As [`Log::batch`].
    pub fn batches(
        &self,
        range: Range<LogIndex>,
        max_bytes: usize,
    ) -> Result<Vec<(EntryMeta, Bytes)>, LogError> {
        let mut out = Vec::new();
        for piece in self.noted(self.pieces(range, max_bytes))? {
            let again = !self.is_in_memory(&piece);
            self.noted(self.read_piece(piece, again, &mut out))?;
        }
        Ok(out)
    }

    /// As [`Log::batches`], after what it returns was brought into memory off the caller's thread.
    ///
    /// # Errors
    /// As [`Log::batches`].
    pub async fn batches_async(
        &self,
        range: Range<LogIndex>,
        max_bytes: usize,
    ) -> Result<Vec<(EntryMeta, Bytes)>, LogError> {
        let mut out = Vec::new();
        for piece in self.noted(self.pieces(range, max_bytes))? {
            let again = !self.is_in_memory(&piece);
            if let Piece::Run(segment, first, _) = &piece
                && again
            {
                self.bring_in(segment, *first, piece.extent()).await?;
            }
            self.noted(self.read_piece(piece, again, &mut out))?;
        }
        Ok(out)
    }

    /// Whether reading a piece would not wait for the device. What is not yet known to be synced was written a moment ago: that
    /// is what Raft reads when it replicates, and it costs no system call.
    fn is_in_memory(&self, piece: &Piece) -> bool {
        match piece {
            Piece::Run(segment, first, _) => {
                let index = LogIndex(segment.first_index().0 + u64::from(*first));
                index >= lock(&self.flush).durable_next || segment.data.is_resident(piece.extent())
            }
            Piece::StandIn(_) => true,
        }
    }

    /// What [`Log::batches`] has to read.
    fn pieces(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<Piece>, LogError> {
        let view = self.view();
        let (mut pieces, mut budget) = (Vec::new(), max_bytes as u64);
        let mut index = range.start;
        let end = range.end.min(view.next_index());
        if index < view.first_index() {
            return Ok(pieces);
        }
        let is_damaged = self.is_damaged();
        while index < end && (pieces.is_empty() || budget > 0) {
            if is_damaged && let Some(meta) = self.damaged_entry(index)? {
                if !pieces.is_empty() && u64::from(meta.size_bytes) > budget {
                    break;
                }
                budget = budget.saturating_sub(meta.size_bytes.into());
                pieces.push(Piece::StandIn(meta));
                index = index.next();
                continue;
            }
            let (segment, n) = view.find(index).ok_or_else(|| gap(index))?;
            // Between damage each entry is looked up by itself.
            let wanted = if is_damaged { 1 } else { u32::try_from(end.0 - index.0).unwrap_or(u32::MAX) };
            let entries = entries_of(segment, n, wanted, &mut budget, pieces.is_empty())?;
            if entries.is_empty() {
                break;
            }
            index = LogIndex(index.0 + entries.len() as u64);
            pieces.push(Piece::Run(segment.clone(), n, entries));
        }
        Ok(pieces)
    }

    fn read_piece(
        &self,
        piece: Piece,
        again: bool,
        out: &mut Vec<(EntryMeta, Bytes)>,
    ) -> Result<(), LogError> {
        let extent = piece.extent();
        let (segment, first, entries) = match piece {
            Piece::Run(segment, first, entries) => (segment, first, entries),
            Piece::StandIn(meta) => {
                out.push((meta, self.placeholder(&meta)));
                return Ok(());
            }
        };
        let bytes = segment.data.read(extent.clone())?;
        out.reserve(entries.len());
        for (n, entry) in (first..).zip(entries) {
            let at = (u64::from(entry.position) - extent.start) as usize;
            let batch = bytes.slice(at..at + entry.size_bytes as usize);
            segment.prove(n, &entry, &batch, again)?;
            out.push((segment.meta_of(n, &entry), batch));
        }
        Ok(())
    }

    /// The data entry that contains `offset`; `None` outside the log.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when it was lost.
    pub fn entry_at_offset(&self, offset: Offset) -> Result<Option<EntryMeta>, LogError> {
        let view = self.view();
        if offset < self.first_offset(&view) || offset >= view.next_offset() {
            return Ok(None);
        }
        if let Some(range) = self.damaged_at(offset)? {
            return self.entry(range.first_index);
        }
        let Some((segment, n)) = self.noted(find_offset(&view, offset))? else {
            return Ok(None);
        };
        self.noted(segment.meta(n)).map(Some)
    }

    /// The first data entry whose largest timestamp is at least `timestamp`.
    ///
    /// # Errors
    /// Those of reading the index.
    pub fn entry_at_timestamp(&self, timestamp: TimestampMs) -> Result<Option<EntryMeta>, LogError> {
        let view = self.view();
        let first_index = view.first_index();
        for segment in view.segments.iter() {
            if segment.with_state(|s| s.max_timestamp) < timestamp.0 {
                continue;
            }
            let Some(mut n) = self.noted(segment.find_timestamp(timestamp))? else {
                continue;
            };
            // A purge inside the segment may have passed the entry that was found.
            while n < segment.entry_count() {
                let meta = self.noted(segment.meta(n))?;
                if meta.index >= first_index && meta.is_data() && meta.max_timestamp >= timestamp {
                    return Ok(Some(meta));
                }
                n += 1;
            }
        }
        Ok(None)
    }

    /// One run of whole data batches that lie one after the other, beginning with the one that contains `from` and
    /// ending at or below `below`; at most `max_bytes` unless the first is larger. Ends before a control
    /// entry and with its segment. Empty when nothing lies below `below`.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] for a `from` outside the log; [`LogError::Damaged`] when its batch was lost.
    pub fn read(&self, from: Offset, below: Offset, max_bytes: usize) -> Result<LogSlice, LogError> {
        match self.noted(self.find_run(from, below, max_bytes))? {
            Some(found) => {
                let again = !found.is_resident();
                self.noted(found.read(again))
            }
            None => Ok(LogSlice { bytes: Bytes::new(), next_offset: from }),
        }
    }

    /// As [`Log::read`], after what it returns was brought into memory off the caller's thread.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub async fn read_async(
        &self,
        from: Offset,
        below: Offset,
        max_bytes: usize,
    ) -> Result<LogSlice, LogError> {
        let Some(found) = self.noted(self.find_run(from, below, max_bytes))? else {
            return Ok(LogSlice { bytes: Bytes::new(), next_offset: from });
        };
        let again = !found.is_resident();
        if again {
            self.bring_in(&found.segment, found.numbers.0, found.extent.clone()).await?;
        }
        self.noted(found.read(again))
    }

    /// Brings a range into memory that begins with entry `first`. A device that can't is one more kind of rot.
    async fn bring_in(&self, segment: &Segment, first: u32, extent: Range<u64>) -> Result<(), LogError> {
        let populated = segment.data.populate(extent).await;
        Ok(populated.inspect_err(|_| {
            self.host.suspect(self.group, LogIndex(segment.first_index().0 + u64::from(first)));
        })?)
    }

    /// Reports an entry that did not read back.
    fn noted<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        result.inspect_err(|error| {
            if let LogError::Corrupt { at: Some(index), .. } = error {
                tracing::error!(group = %self.group, %error, "an entry does not read back as it was written");
                self.host.suspect(self.group, *index);
            }
        })
    }

    fn find_run(&self, from: Offset, below: Offset, max_bytes: usize) -> Result<Option<Found>, LogError> {
        let view = self.view();
        let (first, next) = (self.first_offset(&view), view.next_offset());
        if from < first || from > next {
            return Err(LogError::OffsetOutOfRange { offset: from, first, next });
        }
        let mut below = below.min(next);
        let mut from = from;
        if self.is_damaged() {
            // An accepted loss is stepped over; the run ends before the next one.
            while let Some(range) = self.damaged_at(from)? {
                from = range.next_offset;
            }
            below = self.damaged_after(from).map_or(below, |start| below.min(start));
        }
        if from >= below {
            return Ok(None);
        }
        let Some((segment, n)) = find_offset(&view, from)? else {
            return Ok(None);
        };
        let first = segment.entry(n)?;
        if segment.meta_of(n, &first).next_offset() > below {
            return Ok(None);
        }
        let (last_n, last) = segment.run_end(n, below, max_bytes as u64)?;
        let next_offset = Offset(segment.base_offset().0 + last.next_delta().cast_signed());
        let extent = u64::from(first.position)..last.end();
        Ok(Some(Found { segment, first, numbers: (n, last_n), extent, next_offset }))
    }
}

impl Found {
    fn is_resident(&self) -> bool {
        self.segment.data.is_resident(self.extent.clone())
    }

    /// `again`: whatever is known of its batches already.
    fn read(self, again: bool) -> Result<LogSlice, LogError> {
        let bytes = self.segment.data.read(self.extent)?;
        let (n, last) = self.numbers;
        self.segment.prove_run(n, &self.first, last, &bytes, again)?;
        Ok(LogSlice { bytes, next_offset: self.next_offset })
    }
}

impl Piece {
    fn extent(&self) -> Range<u64> {
        match self {
            Self::Run(_, _, entries) => {
                let start = entries.first().map_or(0, |first| u64::from(first.position));
                start..entries.last().map_or(start, IndexEntry::end)
            }
            Self::StandIn(_) => 0..0,
        }
    }
}

/// The data entry that contains `offset`, in the segment that holds it.
fn find_offset(view: &View, offset: Offset) -> Result<Option<(Arc<Segment>, u32)>, LogError> {
    let begins = view.segments.partition_point(|s| s.base_offset() <= offset);
    for segment in &view.segments[begins.saturating_sub(1)..] {
        // Segments without records share their base offset with the one that follows.
        if let Some(n) = segment.find_offset(offset)? {
            return Ok(Some((segment.clone(), n)));
        }
    }
    Ok(None)
}

/// Up to `wanted` entries of a segment from number `n` on, as far as the budget goes; the `first` of all whatever its size.
fn entries_of(
    segment: &Segment,
    n: u32,
    wanted: u32,
    budget: &mut u64,
    first: bool,
) -> Result<Vec<IndexEntry>, LogError> {
    let mut entries = Vec::new();
    for n in n..segment.entry_count().min(n.saturating_add(wanted)) {
        let entry = segment.entry(n)?;
        let size = u64::from(entry.size_bytes);
        if size > *budget && !(first && entries.is_empty()) {
            *budget = 0;
            break;
        }
        *budget = budget.saturating_sub(size);
        entries.push(entry);
    }
    Ok(entries)
}

fn gap(index: LogIndex) -> LogError {
    LogError::Corrupt {
        file: "segments".to_owned(),
        detail: format!("log index {index} lies in none of them"),
        at: None,
    }
}
