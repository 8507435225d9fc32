//! Reading: by log index for replication and apply, by offset and timestamp for consumers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset, TimestampMs};

use super::{EntryMeta, Log, LogError, LogSlice, View};
use crate::segment::Segment;

/// A run of batches that was found and not read yet.
struct Found {
    segment: Arc<Segment>,
    first: EntryMeta,
    header_crc: u32,
    end: u64,
    next_offset: Offset,
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
        segment.meta(n).map(Some)
    }

    /// The entry with this index and its batch as stored.
    ///
    /// # Errors
    /// As [`Log::entry`]; [`LogError::Corrupt`] when the batch's header is not the one that was indexed.
    pub fn batch(&self, index: LogIndex) -> Result<Option<(EntryMeta, Bytes)>, LogError> {
        let view = self.view();
        if index < view.first_index() || index >= view.next_index() {
            return Ok(None);
        }
        if let Some(meta) = self.damaged_entry(index)? {
            return Ok(Some((meta, self.placeholder(&meta))));
        }
        let (segment, n) = view.find(index).ok_or_else(|| gap(index))?;
        let entry = segment.entry(n)?;
        let meta = segment.meta_of(n, &entry);
        Ok(Some((meta, segment.batch(&meta, entry.header_crc)?)))
    }

    /// Consecutive entries of `range` with their batches, up to `max_bytes` of them but at least the first. Ends
    /// early where the log does.
    ///
    /// # Errors
    /// As [`Log::batch`].
    pub fn batches(
        &self,
        range: Range<LogIndex>,
        max_bytes: usize,
    ) -> Result<Vec<(EntryMeta, Bytes)>, LogError> {
        let view = self.view();
        let mut out: Vec<(EntryMeta, Bytes)> = Vec::new();
        let mut budget = max_bytes as u64;
        let mut index = range.start;
        let end = range.end.min(view.next_index());
        if index < view.first_index() {
            return Ok(out);
        }
        while index < end && (out.is_empty() || budget > 0) {
            let found = if self.is_damaged() { None } else { view.find(index) };
            let count = out.len();
            match found {
                Some((segment, n)) => {
                    let wanted = u32::try_from(end.0 - index.0).unwrap_or(u32::MAX);
                    read_run(segment, n, wanted, &mut budget, &mut out)?;
                }
                None => match self.batch(index)? {
                    Some(found) if out.is_empty() || found.1.len() as u64 <= budget => {
                        budget = budget.saturating_sub(found.1.len() as u64);
                        out.push(found);
                    }
                    _ => break,
                },
            }
            if out.len() == count {
                break;
            }
            index = LogIndex(range.start.0 + out.len() as u64);
        }
        Ok(out)
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
        let Some((segment, n)) = find_offset(&view, offset)? else {
            return Ok(None);
        };
        segment.meta(n).map(Some)
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
            let Some(mut n) = segment.find_timestamp(timestamp)? else {
                continue;
            };
            // A purge inside the segment may have passed the entry that was found.
            while n < segment.entry_count() {
                let meta = segment.meta(n)?;
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
        match self.find_run(from, below, max_bytes)? {
            Some(found) => found.read(),
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
        let Some(found) = self.find_run(from, below, max_bytes)? else {
            return Ok(LogSlice { bytes: Bytes::new(), next_offset: from });
        };
        let range = found.first.position..found.end;
        if !found.segment.data.is_resident(range.clone()) {
            found.segment.data.populate(range).await?;
        }
        found.read()
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
        let entry = segment.entry(n)?;
        let first = segment.meta_of(n, &entry);
        if first.next_offset() > below {
            return Ok(None);
        }
        let last = segment.run_end(n, below, max_bytes as u64)?;
        let next_offset = Offset(segment.base_offset().0 + last.next_delta().cast_signed());
        Ok(Some(Found { segment, first, header_crc: entry.header_crc, end: last.end(), next_offset }))
    }
}

impl Found {
    fn read(self) -> Result<LogSlice, LogError> {
        let bytes = self.segment.data.read(self.first.position..self.end)?;
        self.segment.check_header(&bytes, &self.first, self.header_crc)?;
        Ok(LogSlice { bytes, next_offset: self.next_offset })
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

/// Appends up to `wanted` entries of a segment from number `n` on, in one read.
fn read_run(
    segment: &Segment,
    n: u32,
    wanted: u32,
    budget: &mut u64,
    out: &mut Vec<(EntryMeta, Bytes)>,
) -> Result<(), LogError> {
    let count = segment.entry_count();
    let mut metas: Vec<(EntryMeta, u32)> = Vec::new();
    for n in n..count.min(n.saturating_add(wanted)) {
        let entry = segment.entry(n)?;
        let size = u64::from(entry.size_bytes);
        if size > *budget && !(out.is_empty() && metas.is_empty()) {
            *budget = 0;
            break;
        }
        *budget = budget.saturating_sub(size);
        metas.push((segment.meta_of(n, &entry), entry.header_crc));
    }
    let (Some((first, _)), Some((last, _))) = (metas.first(), metas.last()) else {
        return Ok(());
    };
    let start = first.position;
    let bytes = segment.data.read(start..last.position + u64::from(last.size_bytes))?;
    for (meta, header_crc) in metas {
        let at = (meta.position - start) as usize;
        let batch = bytes.slice(at..at + meta.size_bytes as usize);
        segment.check_header(&batch, &meta, header_crc)?;
        out.push((meta, batch));
    }
    Ok(())
}

fn gap(index: LogIndex) -> LogError {
    LogError::Corrupt {
        file: "segments".to_owned(),
        detail: format!("log index {index} lies in none of them"),
    }
}
