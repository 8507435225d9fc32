//! Finding entries and batches of a segment.

use std::ops::Range;

use headwater_proto::record::{BatchHeader, HEADER_BYTES};
use headwater_proto::types::{LogIndex, Offset, Term, TimestampMs};

use super::{Segment, batch};
use crate::index::{ENTRY_BYTES, IndexEntry, entry_position};
use crate::log::{EntryMeta, LogError};

impl Segment {
    /// Entry number `n` of the segment.
    ///
    /// # Errors
    /// When `n` is not below the published count, or the index does not prove the entry.
    pub fn entry(&self, n: u32) -> Result<IndexEntry, LogError> {
        let index = self.header.first_index.0 + u64::from(n);
        let decoded = self.with_state(|s| {
            let at = (n as usize).checked_sub(s.indexed as usize)? * ENTRY_BYTES;
            Some(s.tail.get(at..at + ENTRY_BYTES).and_then(|e| IndexEntry::decode(e, self.seed, index)))
        });
        let entry = match decoded {
            Some(entry) => entry,
            None => self.mapped_entry(n, index)?,
        };
        entry.ok_or_else(|| LogError::Corrupt {
            file: self.name().index_file(),
            detail: format!("the index entry of log index {index} does not prove itself"),
            at: Some(LogIndex(index)),
        })
    }

    fn mapped_entry(&self, n: u32, index: u64) -> Result<Option<IndexEntry>, LogError> {
        let (from, to) = (entry_position(n) as usize, entry_position(n + 1) as usize);
        let mut map = self.lock_map();
        if map.len() < to {
            // The written part only grows, and each growth is mapped once.
            let indexed = self.with_state(|s| s.indexed);
            *map = self.index.read(0..entry_position(indexed))?;
        }
        Ok(map.get(from..to).and_then(|e| IndexEntry::decode(e, self.seed, index)))
    }

    pub fn meta(&self, n: u32) -> Result<EntryMeta, LogError> {
        Ok(self.meta_of(n, &self.entry(n)?))
    }

    pub fn meta_of(&self, n: u32, entry: &IndexEntry) -> EntryMeta {
        EntryMeta {
            index: LogIndex(self.header.first_index.0 + u64::from(n)),
            term: Term(u64::from(entry.term)),
            base_offset: Offset(self.header.base_offset.0 + i64::from(entry.offset_delta)),
            offset_count: entry.offset_count,
            size_bytes: entry.size_bytes,
            position: u64::from(entry.position),
            max_timestamp: TimestampMs(entry.max_timestamp),
        }
    }

    /// The first entry number in `range` for which `holds`; `holds` must not turn false again.
    fn partition_point(
        &self,
        range: Range<u32>,
        holds: impl Fn(&IndexEntry) -> bool,
    ) -> Result<Option<u32>, LogError> {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(&self.entry(middle)?) { high = middle } else { low = middle + 1 }
        }
        Ok((low < range.end).then_some(low))
    }

    /// The first entry that ends behind `offset`: the data entry that contains it, when it lies in
    /// this segment.
    pub fn find_offset(&self, offset: Offset) -> Result<Option<u32>, LogError> {
        let delta = offset.0.saturating_sub(self.header.base_offset.0).max(0).cast_unsigned();
        self.partition_point(0..self.entry_count(), |e| e.next_delta() > delta)
    }

    /// The first data entry whose largest timestamp is at least `timestamp`.
    pub fn find_timestamp(&self, timestamp: TimestampMs) -> Result<Option<u32>, LogError> {
        let Some(mut n) =
            self.partition_point(0..self.entry_count(), |e| e.running_timestamp >= timestamp.0)?
        else {
            return Ok(None);
        };
        // Where the running maximum steps up stands the entry that raised it; only a timestamp at or below -1,
        // which every entry satisfies, can stop at one without records.
        while n < self.entry_count() {
            let entry = self.entry(n)?;
            if entry.offset_count > 0 && entry.max_timestamp >= timestamp.0 {
                return Ok(Some(n));
            }
            n += 1;
        }
        Ok(None)
    }

    /// The last entry of the run from `from` on that holds only data entries ending at or below `below` and fits
    /// `max_bytes` (one entry always fits), and its number. `from` must be such an entry.
    pub fn run_end(&self, from: u32, below: Offset, max_bytes: u64) -> Result<(u32, IndexEntry), LogError> {
        let first = self.entry(from)?;
        let delta = below.0.saturating_sub(self.header.base_offset.0).max(0).cast_unsigned();
        let limit = u64::from(first.position).saturating_add(max_bytes);
        let outside = |e: &IndexEntry| {
            e.next_delta() > delta || e.end() > limit || e.control_count > first.control_count
        };
        // No batch is smaller than its header: that bounds the search.
        let batches_max = u32::try_from(max_bytes / HEADER_BYTES as u64 + 1).unwrap_or(u32::MAX);
        let stop = self.entry_count().min(from.saturating_add(batches_max));
        match self.partition_point(from + 1..stop, outside)?.unwrap_or(stop) - 1 {
            n if n > from => Ok((n, self.entry(n)?)),
            _ => Ok((from, first)),
        }
    }

    /// CRC-32C of the first `count` encoded entries, as a footer holds it.
    pub fn entries_crc(&self, count: u32) -> Result<u32, LogError> {
        let mut crc = self.seed;
        for n in 0..count {
            let index = self.header.first_index.0 + u64::from(n);
            crc = crc32c::crc32c_append(crc, &self.entry(n)?.encode(self.seed, index));
        }
        Ok(crc)
    }

    /// Where the batch of an entry lies in the segment file.
    pub fn extent(entry: &IndexEntry) -> Range<u64> {
        u64::from(entry.position)..entry.end()
    }

    /// Whether `batch` is what was appended as entry `n`: its header is the one that was indexed and, unless this is
    /// known already or `again`, its CRC holds.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when it is not.
    pub fn prove(&self, n: u32, entry: &IndexEntry, batch: &[u8], again: bool) -> Result<(), LogError> {
        if batch::stored_header_crc(batch) != Some(entry.header_crc) {
            self.proofs.failed();
            return Err(self.corrupt(n, format!("the batch header at byte {} changed", entry.position)));
        }
        if again || self.proofs.is_due(n) {
            if !BatchHeader::read(batch).is_some_and(|header| batch::crc_holds(&header, batch)) {
                self.proofs.failed();
                let detail = format!("the CRC of the batch at byte {} does not hold", entry.position);
                return Err(self.corrupt(n, detail));
            }
            self.proofs.proved(n);
        }
        Ok(())
    }

    /// As [`Segment::prove`], for the entries from number `n`, which is `first`, to `last`, whose batches are `run`.
    pub fn prove_run(
        &self,
        n: u32,
        first: &IndexEntry,
        last: u32,
        run: &[u8],
        again: bool,
    ) -> Result<(), LogError> {
        let part = |entry: &IndexEntry| {
            let at = (entry.position - first.position) as usize;
            run.get(at..at + entry.size_bytes as usize).unwrap_or_default()
        };
        self.prove(n, first, part(first), again)?;
        let rest = n + 1..last + 1;
        if again || self.proofs.is_any_due(rest.clone()) {
            for n in rest {
                let entry = self.entry(n)?;
                self.prove(n, &entry, part(&entry), again)?;
            }
        }
        Ok(())
    }
}
