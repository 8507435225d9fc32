//! What one segment holds: by its footer, by index entries that prove themselves, by a scan of its batches.
//!
//! Below the durable point an index entry is believed without reading its batch; from there on, and where the
//! index fails, a batch counts only if its header chains and its CRC holds. The term lies outside the CRC: it must not be
//! below that of the batch before, nor above the highest that the log can hold.

use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;
use headwater_proto::record::BatchHeader;
use headwater_proto::types::{LogIndex, Offset, Term};

use crate::disk::DiskFile;
use crate::index::{
    ENTRY_BYTES, FOOTER_BYTES, HEADER_BYTES, IndexEntry, IndexFooter, IndexHeader, entry_position,
};
use crate::log::DamagedRange;
use crate::segment::Published;
use crate::segment::batch::{self, Tip};

/// What a walk found.
#[derive(Debug)]
pub(crate) struct Walked {
    pub state: Published,
    pub tip: Tip,
    /// Bytes stand behind the last entry that should not be there.
    pub torn: bool,
    /// Below the durable point and unreadable.
    pub damaged: Vec<DamagedRange>,
}

/// How far to believe what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Entries below this index were durable.
    pub durable_next: LogIndex,
    /// Entries from this index on were cut.
    pub cut_next: LogIndex,
    /// No entry has a higher term.
    pub term_max: Term,
}

/// The footer of an index file, if its last bytes prove to be one.
pub(crate) fn footer(header: &IndexHeader, index: &dyn DiskFile) -> io::Result<Option<IndexFooter>> {
    let len = index.len();
    if len < (HEADER_BYTES + FOOTER_BYTES) as u64 {
        return Ok(None);
    }
    let bytes = index.read(len - FOOTER_BYTES as u64..len)?;
    Ok(IndexFooter::decode(&bytes, header.seed()))
}

/// Checksum of the first `count` entries, as a footer holds it; `None` if one does not prove itself.
pub(crate) fn entries_crc(header: &IndexHeader, index: &dyn DiskFile, count: u32) -> io::Result<Option<u32>> {
    let (start, end) = (entry_position(0), entry_position(count));
    if end > index.len() {
        return Ok(None);
    }
    let (seed, bytes) = (header.seed(), index.read(start..end)?);
    let mut entries = bytes.chunks_exact(ENTRY_BYTES).zip(header.first_index.0..);
    let proven = entries.all(|(entry, n)| IndexEntry::decode(entry, seed, n).is_some());
    Ok(proven.then(|| crc32c::crc32c_append(seed, &bytes)))
}

/// Walks a segment from its first entry on.
pub(crate) async fn walk(
    header: &IndexHeader,
    file: &str,
    data: &dyn DiskFile,
    index: Option<&dyn DiskFile>,
    bounds: Bounds,
) -> io::Result<Walked> {
    let indexed = match index {
        Some(index) => index.read(0..index.len())?,
        None => Bytes::new(),
    };
    let mut walk = Walk {
        header,
        file,
        data,
        seed: header.seed(),
        indexed,
        bytes: None,
        last_term: header.previous.map_or(Term(0), |p| p.term),
        term_max: bounds.term_max,
        in_place: true,
        found: Walked { state: Published::empty(header), tip: Tip::START, torn: false, damaged: Vec::new() },
    };
    let cut = bounds.cut_next.0.saturating_sub(header.first_index.0);
    let trusted = bounds.durable_next.0.saturating_sub(header.first_index.0).min(cut);
    while u64::from(walk.count()) < cut {
        let n = walk.count();
        if u64::from(n) < trusted && walk.take_indexed(n) {
            continue;
        }
        if walk.take_scanned().await? {
            continue;
        }
        if u64::from(n) >= trusted || !walk.step_over(n, trusted) {
            break;
        }
    }
    if u64::from(walk.count()) < cut {
        walk.found.torn = walk.has_leftovers().await?;
    }
    Ok(walk.found)
}

struct Walk<'a> {
    header: &'a IndexHeader,
    file: &'a str,
    data: &'a dyn DiskFile,
    seed: u32,
    /// The whole index file.
    indexed: Bytes,
    /// The whole segment file, once a scan needs it.
    bytes: Option<Bytes>,
    last_term: Term,
    term_max: Term,
    /// Every entry so far stands in the index file already.
    in_place: bool,
    found: Walked,
}

impl Walk<'_> {
    fn count(&self) -> u32 {
        self.found.state.entry_count
    }

    fn index_of(&self, n: u32) -> u64 {
        self.header.first_index.0 + u64::from(n)
    }

    fn proven(&self, n: u32) -> Option<IndexEntry> {
        let at = entry_position(n) as usize;
        let bytes = self.indexed.get(at..at + ENTRY_BYTES)?;
        IndexEntry::decode(bytes, self.seed, self.index_of(n))
    }

    /// Takes entry `n` from the index when it proves itself and follows the one before.
    fn take_indexed(&mut self, n: u32) -> bool {
        let tip = self.found.tip;
        let Some(entry) = self.proven(n).filter(|e| {
            u64::from(e.position) == tip.position && u64::from(e.offset_delta) == tip.offset_delta
        }) else {
            return false;
        };
        if entry.end() > self.data.len() {
            self.damage(n, n, &entry);
        }
        self.push(&entry, self.in_place);
        true
    }

    /// Takes the batch behind the last entry when it chains and its CRC holds.
    async fn take_scanned(&mut self) -> io::Result<bool> {
        let tip = self.found.tip;
        let expected = self.header.base_offset.0 + tip.offset_delta.cast_signed();
        let terms = self.last_term..=self.term_max;
        let bytes = self.bytes_from(tip.position).await?;
        let rest = bytes.get(usize::try_from(tip.position).unwrap_or(usize::MAX)..).unwrap_or_default();
        let Some(entry) = scan_one(rest, &tip, expected, &terms) else {
            return Ok(false);
        };
        let same = self.in_place && self.proven(self.count()) == Some(entry);
        self.push(&entry, same);
        Ok(true)
    }

    /// Steps over damage to the next entry below the durable point that the index proves. What
    /// stands between becomes one entry with all its offsets, and empty ones.
    fn step_over(&mut self, n: u32, trusted: u64) -> bool {
        let tip = self.found.tip;
        let stop = u32::try_from(trusted).unwrap_or(u32::MAX);
        let follower = (n + 1..stop)
            .find_map(|m| self.proven(m).filter(|e| u64::from(e.position) >= tip.position).map(|e| (m, e)));
        let Some((m, entry)) = follower else {
            return false;
        };
        let lost = IndexEntry {
            position: tip.position as u32,
            size_bytes: entry.position - tip.position as u32,
            offset_delta: tip.offset_delta as u32,
            offset_count: entry.offset_delta - tip.offset_delta as u32,
            term: self.last_term.0 as u32,
            header_crc: 0,
            control_count: entry.control_count - u32::from(entry.offset_count == 0),
            max_timestamp: -1,
            running_timestamp: tip.running_timestamp,
        };
        self.damage(n, m - 1, &lost);
        self.push(&lost, false);
        let empty = IndexEntry {
            position: entry.position,
            size_bytes: 0,
            offset_delta: entry.offset_delta,
            offset_count: 0,
            ..lost
        };
        for _ in n + 1..m {
            self.push(&empty, false);
        }
        true
    }

    fn damage(&mut self, first: u32, last: u32, entry: &IndexEntry) {
        let base = self.header.base_offset.0;
        self.found.damaged.push(DamagedRange {
            first_index: LogIndex(self.index_of(first)),
            last_index: LogIndex(self.index_of(last)),
            first_offset: Offset(base + i64::from(entry.offset_delta)),
            next_offset: Offset(base + entry.next_delta().cast_signed()),
            file: self.file.to_owned(),
            position: u64::from(entry.position),
        });
    }

    /// `in_place`: the index file holds this entry already.
    fn push(&mut self, entry: &IndexEntry, in_place: bool) {
        let encoded = entry.encode(self.seed, self.index_of(self.count()));
        let state = &mut self.found.state;
        state.push(entry, &encoded, self.header.base_offset);
        self.in_place = in_place;
        if in_place {
            state.indexed += 1;
            state.tail.clear();
        }
        self.last_term = Term(u64::from(entry.term));
        self.found.tip = Tip::after(entry);
    }

    async fn bytes_from(&mut self, position: u64) -> io::Result<Bytes> {
        if let Some(bytes) = &self.bytes {
            return Ok(bytes.clone());
        }
        let len = self.data.len();
        if position < len {
            self.data.populate(position..len).await?;
        }
        let bytes = self.data.read(0..len)?;
        self.bytes = Some(bytes.clone());
        Ok(bytes)
    }

    /// Whether anything but zeros stands behind the last entry, in either file.
    async fn has_leftovers(&mut self) -> io::Result<bool> {
        let tip = self.found.tip.position;
        let bytes = self.bytes_from(tip).await?;
        let data = bytes.get(usize::try_from(tip).unwrap_or(usize::MAX)..).unwrap_or_default();
        let index = self.indexed.get(entry_position(self.count()) as usize..).unwrap_or_default();
        Ok(!is_zero(data) || !is_zero(index))
    }
}

/// The entry of the batch at the beginning of `rest`, if it is whole and belongs there.
fn scan_one(
    rest: &[u8],
    tip: &Tip,
    expected_offset: i64,
    terms: &RangeInclusive<Term>,
) -> Option<IndexEntry> {
    let header = BatchHeader::read(rest)?;
    let size = header.size_bytes().filter(|size| *size <= rest.len())?;
    let batch = &rest[..size];
    let term = u64::try_from(header.partition_leader_epoch).ok()?;
    let chains = header.base_offset == expected_offset && terms.contains(&Term(term));
    if !chains || batch::check_new(batch).is_err() || !batch::crc_holds(&header, batch) {
        return None;
    }
    tip.entry(&header, u32::try_from(size).ok()?, u32::try_from(term).ok()?, batch::stored_header_crc(batch)?)
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In blocks that vectorize: up to 16 MiB of preallocated space are looked at.
    let blocks = bytes.chunks_exact(64);
    let rest = blocks.remainder();
    blocks.into_iter().chain([rest]).all(|block| block.iter().fold(0, |or, byte| or | byte) == 0)
}
