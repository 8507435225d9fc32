//! A segment: one file of batches and its index, published entry by entry.
//!
//! Invariants: bytes and entries below the published ends never change, so they are read without locks held;
//! only the log's writer publishes, and only what is written already. A cut lowers the
//! published ends and nothing on disk. What it must not do: sync, or decide what a journal says.

pub mod batch;
mod lookup;
pub mod name;
mod proof;

use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset, Term, TimestampMs};

use self::name::SegmentName;
use self::proof::Proofs;
use crate::disk::{Disk, DiskFile};
use crate::index::{ENTRY_BYTES, FOOTER_BYTES, IndexFooter, IndexHeader, entry_position};
use crate::log::{LogError, LogId, SegmentInfo};

/// Entries that stay on the heap until they are written to the index file in one piece.
pub(crate) const CHUNK_ENTRIES: usize = 1_024;
/// Entries are written at the latest when they cover this many bytes, so that a start after a kill has
/// little to scan.
pub(crate) const CHUNK_DATA_BYTES: u64 = 32 << 20;

/// A segment of a log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub header: IndexHeader,
    pub directory: PathBuf,
    pub data: Arc<dyn DiskFile>,
    pub index: Arc<dyn DiskFile>,
    /// The longest that the data file may become.
    pub capacity_bytes: u64,
    /// Checksum of the header, which seeds those of the entries.
    seed: u32,
    proofs: Proofs,
    state: RwLock<Published>,
    /// Slice of the index file from its beginning over the entries written so far.
    mapped_index: Mutex<Bytes>,
}

/// The longest that an index file may become: each cut of a sealed segment adds a footer.
pub(crate) const fn index_capacity(entries: u32) -> u64 {
    entry_position(entries) + (4 << 10)
}

/// What readers may see.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub entry_count: u32,
    pub data_bytes: u64,
    pub next_offset: Offset,
    pub last_term: Term,
    pub max_timestamp: i64,
    pub first_timestamp: i64,
    pub sealed: bool,
    /// CRC-32C of the encoded entries, seeded with the header's checksum.
    pub entries_crc: u32,
    /// Entries that are in the index file already; the others are in `tail`.
    pub indexed: u32,
    pub tail: Vec<u8>,
}

impl Published {
    /// The state of a segment without entries.
    pub fn empty(header: &IndexHeader) -> Self {
        Self {
            entry_count: 0,
            data_bytes: 0,
            next_offset: header.base_offset,
            last_term: header.previous.map_or(Term(0), |id| id.term),
            max_timestamp: -1,
            first_timestamp: -1,
            sealed: false,
            entries_crc: header.seed(),
            indexed: 0,
            tail: Vec::new(),
        }
    }

    /// The state of a sealed segment.
    pub fn sealed(footer: &IndexFooter) -> Self {
        Self {
            entry_count: footer.entry_count,
            data_bytes: footer.data_bytes,
            next_offset: footer.next_offset,
            last_term: footer.last_term,
            max_timestamp: footer.max_timestamp,
            first_timestamp: footer.first_timestamp,
            sealed: true,
            entries_crc: footer.entries_crc,
            indexed: footer.entry_count,
            tail: Vec::new(),
        }
    }

    /// Takes an entry up, encoded as it will stand in the index file.
    pub fn push(
        &mut self,
        entry: &crate::index::IndexEntry,
        encoded: &[u8; ENTRY_BYTES],
        base_offset: Offset,
    ) {
        self.entry_count += 1;
        self.data_bytes = entry.end();
        self.next_offset = Offset(base_offset.0 + entry.next_delta().cast_signed());
        self.last_term = Term(u64::from(entry.term));
        self.max_timestamp = entry.running_timestamp;
        if self.first_timestamp < 0 && entry.offset_count > 0 {
            self.first_timestamp = entry.max_timestamp;
        }
        self.entries_crc = crc32c::crc32c_append(self.entries_crc, encoded);
        self.tail.extend_from_slice(encoded);
    }

    fn footer(&self) -> IndexFooter {
        IndexFooter {
            entry_count: self.entry_count,
            last_term: self.last_term,
            data_bytes: self.data_bytes,
            next_offset: self.next_offset,
            max_timestamp: self.max_timestamp,
            first_timestamp: self.first_timestamp,
            entries_crc: self.entries_crc,
        }
    }
}

impl Segment {
    /// Creates the files of a new segment and writes its header; nothing is synced. What can't be made
    /// whole is removed again.
    pub fn create(
        disk: &dyn Disk,
        directory: &Path,
        header: IndexHeader,
        capacity_bytes: u64,
        capacity_entries: u32,
    ) -> std::io::Result<Self> {
        let name = SegmentName { generation: header.generation, base_offset: header.base_offset };
        let index_bytes = index_capacity(capacity_entries);
        let (data_path, index_path) = (directory.join(name.log_file()), directory.join(name.index_file()));
        let data = disk.create(&data_path, capacity_bytes)?;
        let index = disk.create(&index_path, index_bytes).and_then(|index| {
            index.write_at(0, &[IoSlice::new(&header.encode())])?;
            Ok(index)
        });
        match index {
            Ok(index) => {
                let state = Published::empty(&header);
                Ok(Self::assemble(header, directory, data, index, capacity_bytes, state))
            }
            Err(error) => {
                // The next start removes what can't be removed now: nothing is in it.
                drop(disk.remove_file(&index_path));
                drop(disk.remove_file(&data_path));
                Err(error)
            }
        }
    }

    /// Joins opened files with what recovery found in them.
    pub fn assemble(
        header: IndexHeader,
        directory: &Path,
        data: Arc<dyn DiskFile>,
        index: Arc<dyn DiskFile>,
        capacity_bytes: u64,
        state: Published,
    ) -> Self {
        Self {
            header,
            directory: directory.to_owned(),
            data,
            index,
            capacity_bytes,
            seed: header.seed(),
            proofs: Proofs::new(state.entry_count),
            state: RwLock::new(state),
            mapped_index: Mutex::new(Bytes::new()),
        }
    }

    pub fn name(&self) -> SegmentName {
        SegmentName { generation: self.header.generation, base_offset: self.header.base_offset }
    }

    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Runs `look` on the published state; it must not do I/O.
    pub fn with_state<T>(&self, look: impl FnOnce(&Published) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the writer change the published state; it must not do I/O.
    pub fn publish<T>(&self, change: impl FnOnce(&mut Published) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn first_index(&self) -> LogIndex {
        self.header.first_index
    }

    pub fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    pub fn entry_count(&self) -> u32 {
        self.with_state(|s| s.entry_count)
    }

    pub fn next_index(&self) -> LogIndex {
        LogIndex(self.header.first_index.0 + u64::from(self.entry_count()))
    }

    pub fn next_offset(&self) -> Offset {
        self.with_state(|s| s.next_offset)
    }

    /// The last entry; the one before the segment while it is empty.
    pub fn last(&self) -> Option<LogId> {
        let (count, term) = self.with_state(|s| (s.entry_count, s.last_term));
        match count {
            0 => self.header.previous,
            n => Some(LogId { term, index: LogIndex(self.header.first_index.0 + u64::from(n) - 1) }),
        }
    }

    pub fn info(&self) -> SegmentInfo {
        let last = self.last().unwrap_or_default();
        self.with_state(|s| SegmentInfo {
            first_index: self.header.first_index,
            last,
            base_offset: self.header.base_offset,
            next_offset: s.next_offset,
            size_bytes: s.data_bytes,
            max_timestamp: TimestampMs(s.max_timestamp),
            first_timestamp: TimestampMs(s.first_timestamp),
            sealed: s.sealed,
        })
    }

    /// Writes the entries that are still on the heap to the index file, unsynced. Writer only.
    pub fn write_index(&self) -> std::io::Result<()> {
        let (tail, indexed) = self.with_state(|s| (s.tail.clone(), s.indexed));
        if tail.is_empty() {
            return Ok(());
        }
        self.index.write_at(entry_position(indexed), &[IoSlice::new(&tail)])?;
        self.publish(|s| {
            s.tail.drain(..tail.len());
            s.indexed += (tail.len() / ENTRY_BYTES) as u32;
            if s.tail.is_empty() {
                s.tail.shrink_to(CHUNK_ENTRIES * ENTRY_BYTES);
            }
        });
        Ok(())
    }

    /// Writes again what the index file holds, unsynced: after a failed sync it may be in memory only and look written.
    pub fn rewrite_index(&self) -> std::io::Result<()> {
        let (sealed, indexed) = self.with_state(|s| (s.sealed, s.indexed));
        rewrite(self.index.as_ref(), 0..if sealed { self.index.len() } else { entry_position(indexed) })
    }

    /// Writes again the index, and the batches from the entry `from` on, unsynced.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn rewrite_from(&self, from: LogIndex) -> Result<(), LogError> {
        self.rewrite_index()?;
        let n = from.0.saturating_sub(self.first_index().0);
        if n >= u64::from(self.entry_count()) {
            return Ok(());
        }
        let position = u64::from(self.entry(n as u32)?.position);
        Ok(rewrite(self.data.as_ref(), position..self.with_state(|s| s.data_bytes))?)
    }

    /// Seals: the rest of the index, then the footer at the very end of the index file. `free_from` is where the
    /// file is free beyond the entries: what a cut voided stays where it is, since a reader may hold it.
    /// Nothing is synced. Writer only.
    pub fn seal(&self, free_from: u64) -> std::io::Result<()> {
        self.write_index()?;
        let footer = self.with_state(Published::footer);
        let at = entry_position(footer.entry_count).max(free_from);
        self.index.write_at(at, &[IoSlice::new(&footer.encode(self.seed))])?;
        self.index.set_len(at + FOOTER_BYTES as u64)?;
        self.publish(|s| {
            s.sealed = true;
            s.tail = Vec::new();
        });
        Ok(())
    }

    /// Voids every entry from number `count` on and seals there. The data file keeps its length: a reader may hold
    /// what was cut. Nothing is synced. Writer only.
    pub fn cut_to(&self, count: u32) -> Result<(), LogError> {
        let last = count.checked_sub(1).map(|n| self.entry(n)).transpose()?;
        let entries_crc = self.entries_crc(count)?;
        let first_timestamp = self.first_timestamp(count)?;
        let free_from = self.with_state(|s| match s.sealed {
            true => self.index.len(),
            false => entry_position(s.indexed),
        });
        self.publish(|s| {
            let base = self.header.base_offset.0;
            s.tail.truncate(count.saturating_sub(s.indexed) as usize * ENTRY_BYTES);
            s.indexed = s.indexed.min(count);
            s.entry_count = count;
            s.data_bytes = last.map_or(0, |e| e.end());
            s.next_offset = Offset(base + last.map_or(0, |e| e.next_delta().cast_signed()));
            s.last_term =
                last.map_or(self.header.previous.map_or(Term(0), |p| p.term), |e| Term(u64::from(e.term)));
            s.max_timestamp = last.map_or(-1, |e| e.running_timestamp);
            s.first_timestamp = first_timestamp;
            s.entries_crc = entries_crc;
        });
        Ok(self.seal(free_from)?)
    }

    fn first_timestamp(&self, count: u32) -> Result<i64, LogError> {
        for n in 0..count {
            let entry = self.entry(n)?;
            if entry.offset_count > 0 {
                return Ok(entry.max_timestamp);
            }
        }
        Ok(-1)
    }

    /// Removes both files; slices that readers hold stay readable.
    pub fn remove(&self, disk: &dyn Disk) -> std::io::Result<()> {
        let name = self.name();
        disk.remove_file(&self.directory.join(name.log_file()))?;
        disk.remove_file(&self.directory.join(name.index_file()))
    }

    fn lock_map(&self) -> MutexGuard<'_, Bytes> {
        self.mapped_index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entry number `n` does not read back as it was written.
    fn corrupt(&self, n: u32, detail: String) -> LogError {
        let at = Some(LogIndex(self.header.first_index.0 + u64::from(n)));
        LogError::Corrupt { file: self.name().log_file(), detail, at }
    }
}

/// Writes bytes over with themselves, so that the next sync writes them out.
fn rewrite(file: &dyn DiskFile, range: Range<u64>) -> std::io::Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + CHUNK_BYTES);
        // A copy: what is written must not be the map of what it is written to.
        let bytes = file.read(at..end)?.to_vec();
        file.write_at(at, &[IoSlice::new(&bytes)])?;
        at = end;
    }
    Ok(())
}
