//! State tables beside a log: what a state machine knew when an entry was applied, so that a start replays from
//! there.
//!
//! One file per point, `<index, 20 digits>.tables`: magic, version, log id, length, content, CRC-32C. Written under
//! another name, synced, then renamed, so that a whole file is what its name says; one that is not is passed
//! over. Kept are the newest two (a point beyond the end that recovery found is void, and the one before it serves)
//! and those at segment boundaries and at the purged entry, where a snapshot may be taken.
//! One writer at a time, as with everything else of a log.

use std::collections::BTreeSet;
use std::io::IoSlice;

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Term};

use crate::codec::{Reader, Writer};
use crate::log::{Log, LogError, LogId};
use crate::segment::name::{FileName, tables_file};

const MAGIC: [u8; 8] = *b"HWTABLE\0";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 36;
const KEPT: usize = 2;

impl Log {
    /// Keeps `tables` as the state after entry `at`, and drops those that nothing needs any more. Durable on
    /// return.
    ///
    /// # Errors
    /// [`LogError::InvalidRequest`] for a point that is not durable in this log; I/O errors, which harm nothing.
    pub async fn write_tables(&self, at: LogId, tables: Bytes) -> Result<(), LogError> {
        if self.bounds().durable_index.is_none_or(|durable| at.index > durable) {
            return Err(LogError::InvalidRequest("tables beyond the durable end"));
        }
        self.store_tables(at, &tables).await?;
        self.prune()
    }

    /// Writes tables without asking whether the log reaches so far.
    pub(crate) async fn store_tables(&self, at: LogId, tables: &Bytes) -> Result<(), LogError> {
        let disk = self.host.disk();
        let temporary = self.directory.join("tables.new");
        // Left over from a crash.
        match disk.remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let header = encode_header(at, tables.len() as u64);
        let crc = checksum(&header, tables).to_be_bytes();
        let length = (header.len() + tables.len() + crc.len()) as u64;
        let file = disk.create(&temporary, length)?;
        file.write_at(0, &[IoSlice::new(&header), IoSlice::new(tables), IoSlice::new(&crc)])?;
        file.sync_data().await?;
        disk.rename(&temporary, &self.directory.join(tables_file(at.index)))?;
        Ok(disk.sync_dir(&self.directory).await?)
    }

    /// The newest intact tables at or below `below` that are not beyond the durable end.
    ///
    /// # Errors
    /// Those of listing the directory; a file that can't be read is passed over.
    pub fn tables(&self, below: LogIndex) -> Result<Option<(LogId, Bytes)>, LogError> {
        let Some(durable) = self.bounds().durable_index else { return Ok(None) };
        for index in self.tables_points()?.into_iter().rev().filter(|index| *index <= below.min(durable)) {
            match self.read_tables(index) {
                Some(found) => return Ok(Some(found)),
                None => {
                    tracing::warn!(group = %self.group, index = index.0, "tables are unreadable: passed over")
                }
            }
        }
        Ok(None)
    }

    fn tables_points(&self) -> Result<Vec<LogIndex>, LogError> {
        let names = self.host.disk().list(&self.directory)?;
        let mut points: Vec<LogIndex> = names
            .iter()
            .filter_map(|name| match FileName::parse(name) {
                Some(FileName::Tables(index)) => Some(index),
                _ => None,
            })
            .collect();
        points.sort_unstable();
        Ok(points)
    }

    fn read_tables(&self, index: LogIndex) -> Option<(LogId, Bytes)> {
        let file = self.host.disk().open(&self.directory.join(tables_file(index)), 0).ok()?;
        let bytes = file.read(0..file.len()).ok()?;
        let (id, content) = decode(&bytes)?;
        // A cut may have put another entry in the place of the one that the tables speak of.
        let known = self.bounds().purged.filter(|p| p.index == index);
        let term = known.map(|p| p.term).or_else(|| self.entry(index).ok().flatten().map(|e| e.term));
        (id.index == index && term == Some(id.term)).then_some((id, content))
    }

    fn prune(&self) -> Result<(), LogError> {
        let bounds = self.bounds();
        let purged = bounds.purged.map(|p| p.index);
        let boundaries: BTreeSet<LogIndex> = self
            .segments()
            .iter()
            .map(|s| LogIndex(s.first_index.0.saturating_sub(1)))
            .chain(purged)
            .collect();
        let (live, void): (Vec<_>, Vec<_>) =
            self.tables_points()?.into_iter().partition(|p| Some(*p) <= bounds.durable_index);
        let old = &live[..live.len().saturating_sub(KEPT)];
        let needless = old.iter().filter(|p| Some(**p) < purged || !boundaries.contains(p));
        for index in needless.chain(&void) {
            self.host.disk().remove_file(&self.directory.join(tables_file(*index)))?;
        }
        Ok(())
    }
}

fn encode_header(at: LogId, length: u64) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(&MAGIC).u16(VERSION).u16(0).u64(at.term.0).u64(at.index.0).u64(length);
    w.finish()
}

pub(crate) fn decode(bytes: &Bytes) -> Option<(LogId, Bytes)> {
    let mut r = Reader::new(bytes);
    if r.array()? != MAGIC || r.u16()? != VERSION {
        return None;
    }
    r.u16()?;
    let id = LogId { term: Term(r.u64()?), index: LogIndex(r.u64()?) };
    let length = usize::try_from(r.u64()?).ok()?;
    let content = r.take(length)?;
    let sum = checksum(&bytes[..HEADER_BYTES], content);
    (r.u32()? == sum).then(|| (id, bytes.slice(HEADER_BYTES..HEADER_BYTES + length)))
}

fn checksum(header: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), content)
}
