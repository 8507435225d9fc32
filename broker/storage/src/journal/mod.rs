//! The node-wide journal: a small durable map of facts (votes, durable points, creations, ...), so that no
//! group needs a file of its own for them.
//!
//! Four files of a fixed size hold it: two slots, which successive generations use in turn, in two copies each.
//! A generation begins with a frame that holds every fact, and goes on with one frame for each flush round; when
//! the slot is full, the next round's frame begins the next generation in the other slot, which therefore costs
//! no more than any other round, and needs no space. Files are written over with zeros once: a sync then
//! commits no metadata.
//!
//! Invariants: **a frame is written only after all before it were durable in both copies**; **a change counts
//! once both copies of its frame were synced**; the slot in use is never written over. So a crash leaves at most the
//! last frame torn, and damage of one copy costs nothing. The journal must not interpret facts.

mod facts;
mod frame;
mod inspect;
mod recovery;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use headwater_proto::types::GroupId;
use thiserror::Error;

pub use self::facts::{Facts, SharedFacts};
use self::frame::{Link, padded};
pub use self::inspect::{InspectedJournal, inspect};
use crate::disk::{Disk, DiskFile};

/// Size of each file when it is created; it grows with the facts.
const FILE_BYTES: u64 = 1 << 20;
/// A file holds the facts this many times, so that writing all of them again stays a small part of the work.
const FACTS_FACTOR: u64 = 4;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Name of a file: slot, then copy.
const NAMES: [[&str; 2]; 2] = [["0.a", "0.b"], ["1.a", "1.b"]];

/// One change of the map. Later changes of the same key win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a fact of a group, or of the node; an empty value removes it.
    Put { group: Option<GroupId>, kind: u8, value: Bytes },
    /// Removes every fact of a group.
    RemoveGroup(GroupId),
}

/// Why a journal can't be opened.
#[derive(Debug, Error)]
pub enum JournalError {
    /// What was durable once is lost: the broker must not act on what is left.
    #[error(
        "the journal {path} is unreadable: {detail}. Votes may be lost with it, so this broker must not go on: \
         move the data directory away and start with an empty one; its replicas are rebuilt from their peers"
    )]
    Unreadable { path: PathBuf, detail: String },

    #[error("the journal {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The open journal. One writer; [`Journal::facts`] may be read by anyone.
#[derive(Debug)]
pub struct Journal {
    slots: [[Arc<dyn DiskFile>; 2]; 2],
    facts: SharedFacts,
    /// The slot that holds the present generation, and where its next frame goes.
    slot: usize,
    position: u64,
    link: Link,
    /// A write or sync failed: what is on disk is unknown, and nothing is retried.
    failed: Option<String>,
}

impl Journal {
    /// Begins a journal in an empty directory; `first` is durable on return, or nothing is.
    pub async fn create(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        first: &[Change],
    ) -> Result<Self, JournalError> {
        let name = |source| JournalError::Io { path: directory.to_owned(), source };
        let slots = open_files(disk, directory).await.map_err(name)?;
        let facts = SharedFacts::default();
        let link = Link { generation: 0, sequence: 0, previous_crc: 0 };
        let mut journal = Self { slots, facts, slot: 1, position: 0, link, failed: None };
        journal.begin_generation(first).await.map_err(name)?;
        Ok(journal)
    }

    /// Recovers a journal. What was found begins a new generation, which repairs whichever copy was damaged and
    /// leaves no torn tail behind.
    pub async fn open(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Self, JournalError> {
        let name = |source| JournalError::Io { path: directory.to_owned(), source };
        let slots = open_files(disk, directory).await.map_err(name)?;
        let read = |file: &Arc<dyn DiskFile>| file.read(0..file.len());
        let mut contents: [recovery::Slot; 2] = Default::default();
        for (content, file) in contents.iter_mut().flatten().zip(slots.iter().flatten()) {
            *content = read(file).map_err(name)?;
        }
        let found = recovery::recover(&contents)
            .map_err(|detail| JournalError::Unreadable { path: directory.to_owned(), detail })?;
        // The slices must go before their files are written over.
        drop(contents);
        let link =
            Link { generation: found.generation, sequence: found.sequence + 1, previous_crc: found.crc };
        let facts = SharedFacts::new(found.facts);
        let mut journal = Self { slots, facts, slot: found.slot, position: 0, link, failed: None };
        journal.begin_generation(&[]).await.map_err(name)?;
        Ok(journal)
    }

    /// The facts that are durable now.
    pub fn facts(&self) -> &SharedFacts {
        &self.facts
    }

    /// Whether an error has made it useless. Only `StorageFull` leaves it as it was.
    pub fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Makes changes durable, all or none; afterwards they show in the facts. `StorageFull` (only when the facts
    /// have outgrown their files) changes nothing; any other error is final.
    pub async fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        if let Some(error) = &self.failed {
            return Err(io::Error::other(error.clone()));
        }
        let (frame, crc) = frame::encode(self.link, changes);
        if self.position + padded(frame.len()) > capacity(&self.slots[self.slot]) {
            return self.begin_generation(changes).await;
        }
        let written = write(&self.slots[self.slot], self.position, &frame).await;
        self.check(written)?;
        self.advance(&frame, crc, changes);
        Ok(())
    }

    /// Writes all facts, `changes` applied, into the other slot, and goes on there.
    async fn begin_generation(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut facts = self.facts.snapshot();
        facts.apply(changes.iter().cloned());
        let link = Link { generation: self.link.generation + 1, ..self.link };
        let (frame, crc) = frame::encode(link, &facts.to_changes());
        let other = 1 - self.slot;
        match grow(&self.slots[other], padded(frame.len()) * FACTS_FACTOR) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(error),
            grown => self.check(grown)?,
        }
        let written = write(&self.slots[other], 0, &frame).await;
        self.check(written)?;
        (self.slot, self.position, self.link) = (other, 0, link);
        self.advance(&frame, crc, changes);
        Ok(())
    }

    fn advance(&mut self, frame: &[u8], crc: u32, changes: &[Change]) {
        self.position += padded(frame.len());
        self.link.sequence += 1;
        self.link.previous_crc = crc;
        self.facts.apply(changes);
    }

    fn check(&mut self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            self.failed = Some(format!("the journal failed: {error}"));
        }
        result
    }
}

/// Opens the four files; creates those that are missing, filled with zeros.
async fn open_files(disk: &Arc<dyn Disk>, directory: &Path) -> io::Result<[[Arc<dyn DiskFile>; 2]; 2]> {
    let mut created = false;
    let mut open = |name: &str| {
        let path = directory.join(name);
        match disk.open(&path, FILE_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                created = true;
                disk.create(&path, FILE_BYTES)
            }
            other => other,
        }
    };
    let [[a, b], [c, d]] = NAMES;
    let slots = [[open(a)?, open(b)?], [open(c)?, open(d)?]];
    for slot in &slots {
        grow(slot, FILE_BYTES)?;
    }
    if created {
        future::try_join_all(slots.iter().flatten().map(|file| file.sync_data())).await?;
    }
    // Always: a broker that was killed may have left their names in the page cache only.
    disk.sync_dir(directory).await?;
    Ok(slots)
}

fn capacity(slot: &[Arc<dyn DiskFile>; 2]) -> u64 {
    slot.iter().map(|file| file.len()).min().unwrap_or(0)
}

/// Extends both copies with zeros: what is allocated but not written would cost each sync a metadata commit.
fn grow(slot: &[Arc<dyn DiskFile>; 2], bytes: u64) -> io::Result<()> {
    for file in slot {
        while file.len() < bytes {
            let part = &ZEROS[..ZEROS.len().min((bytes - file.len()) as usize)];
            file.write_at(file.len(), &[io::IoSlice::new(part)])?;
        }
    }
    Ok(())
}

async fn write(slot: &[Arc<dyn DiskFile>; 2], position: u64, frame: &[u8]) -> io::Result<()> {
    for file in slot {
        file.write_at(position, &[io::IoSlice::new(frame)])?;
    }
    let [one, other] = slot;
    future::try_join(one.sync_data(), other.sync_data()).await?;
    Ok(())
}
