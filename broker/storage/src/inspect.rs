//! Reading segment files without a lock and without writing, for `streamctl dump`: of a broker that is down, or that
//! is running (its active segment then ends where the last look found it). Of one that runs only through
//! [`OfflineDisk`](crate::disk::OfflineDisk): what is mapped must not be cut, and a roll cuts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::record::{BatchHeader, HEADER_BYTES};
use headwater_proto::types::{LogIndex, Offset};

use crate::disk::{Disk, DiskFile};
use crate::index::{ENTRY_BYTES, IndexEntry, IndexFooter, IndexHeader, entry_position};
use crate::log::LogId;
use crate::recovery::files::{self, Owner};
use crate::recovery::walk;
use crate::segment::batch::{self, Tip};
use crate::segment::name::{FileName, SegmentName};
use crate::tables;

/// Read at a time while looking for what is not zero.
const LEFTOVER_STEP_BYTES: usize = 1 << 20;

/// A segment as it lies on disk.
#[derive(Debug, Clone)]
pub struct InspectedSegment {
    pub path: PathBuf,
    pub base_offset: Offset,
    pub generation: u32,
    /// Bytes of the file, what was allocated ahead of the writer included.
    pub file_bytes: u64,
    /// `None` when the index file is missing or does not prove to belong to it.
    pub header: Option<IndexHeader>,
    /// `None` while the segment is active.
    pub footer: Option<IndexFooter>,
    data: Arc<dyn DiskFile>,
    index: Option<Arc<dyn DiskFile>>,
}

/// What the index says about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexState {
    /// The entry proves itself and describes this batch.
    Consistent,
    /// Not written yet (the segment is active), or the whole index file is missing.
    Absent,
    /// The entry does not prove itself, or describes something else.
    Contradicts,
}

/// A batch as it lies on disk.
#[derive(Debug, Clone)]
pub struct InspectedBatch {
    pub position: u64,
    /// Known when the index file is.
    pub index: Option<LogIndex>,
    pub header: BatchHeader,
    /// The whole batch; shorter than its header says when the file ends before.
    pub bytes: Bytes,
    /// The CRC over what the producer sealed holds.
    pub crc_holds: bool,
    /// Its base offset is where the batch before it ended.
    pub follows: bool,
    pub index_state: IndexState,
}

/// The segments of a group's directory in the order of their first log index, or the one segment whose `.log` file is
/// named.
///
/// # Errors
/// `InvalidInput` for a file that is not named like a segment; I/O errors.
pub fn segments(disk: &dyn Disk, path: &Path) -> io::Result<Vec<InspectedSegment>> {
    let (directory, only) = match path.file_name().and_then(|n| n.to_str()).and_then(FileName::parse) {
        Some(FileName::Log(name) | FileName::Index(name)) => {
            (path.parent().unwrap_or(Path::new("")), Some(name))
        }
        _ => (path, None),
    };
    let owner = Owner { incarnation: None, group: None };
    let found = files::candidates(disk, directory, owner, 0, 0)?;
    let wanted = found.into_iter().filter(|c| only.is_none_or(|name| name == c.name));
    let inspected: io::Result<Vec<_>> = wanted.map(|c| InspectedSegment::new(directory, c)).collect();
    match inspected {
        Ok(list) if list.is_empty() && only.is_some() => Err(io::ErrorKind::NotFound.into()),
        other => other,
    }
}

/// The entry after which the content of a `.tables` file is the state, and that content; `None` when the file does
/// not prove to be whole.
#[must_use]
pub fn tables(file: &Bytes) -> Option<(LogId, Bytes)> {
    tables::decode(file)
}

impl InspectedSegment {
    fn new(directory: &Path, candidate: files::Candidate) -> io::Result<Self> {
        let SegmentName { generation, base_offset } = candidate.name;
        let (header, index) = candidate.index.unzip();
        let footer = match (&header, &index) {
            (Some(header), Some(index)) => walk::footer(header, index.as_ref())?,
            _ => None,
        };
        Ok(Self {
            path: directory.join(candidate.name.log_file()),
            base_offset,
            generation,
            file_bytes: candidate.data.len(),
            header,
            footer,
            data: candidate.data,
            index,
        })
    }

    /// The batches, one after the other, to the footer's end or the first bytes that are no batch. Reads one at a
    /// time.
    ///
    /// # Errors
    /// Those of reading the index.
    pub fn batches(&self) -> io::Result<Batches> {
        // The index first: of a broker that runs it then knows no batch that the data, looked at later, lacks.
        let index = match &self.index {
            Some(index) => index.read(0..index.len())?,
            None => Bytes::new(),
        };
        let file_bytes = self.data.len();
        let end = self.footer.map_or(file_bytes, |f| f.data_bytes.min(file_bytes));
        Ok(Batches { segment: self.clone(), end, index, n: 0, tip: Tip::START })
    }

    /// Whether the footer's checksum over the entries holds; `None` without a footer.
    ///
    /// # Errors
    /// Those of mapping the file.
    pub fn entries_hold(&self) -> io::Result<Option<bool>> {
        let (Some(header), Some(footer), Some(index)) = (&self.header, &self.footer, &self.index) else {
            return Ok(None);
        };
        let end = entry_position(footer.entry_count);
        if end > index.len() {
            return Ok(Some(false));
        }
        let entries = index.read(entry_position(0)..end)?;
        Ok(Some(crc32c::crc32c_append(header.seed(), &entries) == footer.entries_crc))
    }
}

/// See [`InspectedSegment::batches`].
#[derive(Debug)]
pub struct Batches {
    segment: InspectedSegment,
    /// What lies behind it is not read.
    end: u64,
    index: Bytes,
    n: u32,
    tip: Tip,
}

impl Batches {
    /// Where the next batch would begin: once the iterator has ended, the end of what could be read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.tip.position
    }

    /// Bytes from where the iterator stands to the last that is not zero: a torn tail or damage.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn leftover_bytes(&self) -> io::Result<u64> {
        let (start, mut last) = (self.tip.position, 0);
        for position in (start..self.end).step_by(LEFTOVER_STEP_BYTES) {
            let to = self.end.min(position + LEFTOVER_STEP_BYTES as u64);
            let rest = match self.segment.data.read(position..to) {
                // A roll has cut the unwritten tail meanwhile.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                rest => rest?,
            };
            if let Some(at) = rest.iter().rposition(|byte| *byte != 0) {
                last = position + at as u64 + 1 - start;
            }
        }
        Ok(last)
    }

    /// At most so many bytes; `None` where there are none, or they cannot be read.
    fn read(&self, position: u64, bytes: u64) -> Option<Bytes> {
        let to = position.checked_add(bytes)?.min(self.end);
        (position < to).then(|| self.segment.data.read(position..to).ok()).flatten()
    }

    /// Whether the index knows a batch where the iterator stands: once it has ended there, that batch is damaged.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.proven().is_some()
    }

    fn proven(&self) -> Option<IndexEntry> {
        let header = self.segment.header.as_ref()?;
        let at = entry_position(self.n) as usize;
        IndexEntry::decode(
            self.index.get(at..at + ENTRY_BYTES)?,
            header.seed(),
            header.first_index.0 + u64::from(self.n),
        )
    }

    fn index_state(&self, found: Option<&IndexEntry>) -> IndexState {
        let at = entry_position(self.n) as usize;
        let written = self.index.get(at..at + ENTRY_BYTES).is_some_and(|e| e.iter().any(|byte| *byte != 0));
        let expected = self.segment.footer.is_some_and(|f| self.n < f.entry_count);
        match self.proven() {
            Some(entry) if found == Some(&entry) => IndexState::Consistent,
            None if !written && !expected => IndexState::Absent,
            _ => IndexState::Contradicts,
        }
    }
}

impl Iterator for Batches {
    type Item = InspectedBatch;

    fn next(&mut self) -> Option<InspectedBatch> {
        if self.segment.footer.is_some_and(|f| self.n >= f.entry_count) {
            return None;
        }
        let position = self.tip.position;
        let header = self.read(position, HEADER_BYTES as u64)?;
        let header = BatchHeader::read(&header).filter(|h| h.magic == 2)?;
        let bytes = self.read(position, header.size_bytes()? as u64)?;
        let size = bytes.len();
        let expected = self.segment.base_offset.0 + self.tip.offset_delta.cast_signed();
        let header_crc = batch::stored_header_crc(&bytes)?;
        let term = header.partition_leader_epoch.cast_unsigned();
        let entry = self.tip.entry(&header, size as u32, term, header_crc);
        let item = InspectedBatch {
            position,
            index: self.segment.header.as_ref().map(|h| LogIndex(h.first_index.0 + u64::from(self.n))),
            header,
            crc_holds: header.size_bytes() == Some(size) && batch::crc_holds(&header, &bytes),
            follows: header.base_offset == expected,
            index_state: self.index_state(entry.as_ref()),
            bytes,
        };
        // A batch whose header rotted still has its extent in the index.
        self.tip = match self.proven().or(entry) {
            Some(entry) => Tip::after(&entry),
            None => return None,
        };
        self.n += 1;
        Some(item)
    }
}
