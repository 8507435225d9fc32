//! The log of one Raft group, which is the partition: batches in segments, found by index, offset or time.

pub mod error;
pub mod types;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::types::{GroupId, LogIndex, Offset, TimestampMs};

pub use self::error::LogError;
pub use self::types::*;
use crate::host::LogHost;

#[derive(Debug)]
pub struct Log {}

#[allow(unused_variables, clippy::todo, clippy::unused_async)]
impl Log {
    /// Opens (or begins) the log of `group` in `directory`.
    pub async fn open(
        host: Arc<dyn LogHost>,
        group: GroupId,
        directory: PathBuf,
        options: LogOptions,
    ) -> Result<Arc<Self>, LogError> {
        todo!()
    }
    /// For a log that never held an entry: the index of the first one to come (1 unless told).
    pub fn begin_at(&self, first: LogIndex) -> Result<(), LogError> {
        todo!()
    }
    pub fn append(&self, entries: &[NewEntry]) -> Result<LogId, LogError> {
        todo!()
    }
    pub fn when_durable(self: &Arc<Self>, done: Box<dyn FnOnce(io::Result<()>) + Send>) {
        todo!()
    }
    pub async fn flush(self: &Arc<Self>) -> io::Result<()> {
        todo!()
    }
    /// Clean stop: everything durable, index included, and the durable point journalled.
    pub async fn flush_clean(self: &Arc<Self>) -> io::Result<()> {
        todo!()
    }
    pub async fn truncate_after(self: &Arc<Self>, last: Option<LogIndex>) -> Result<(), LogError> {
        todo!()
    }
    pub async fn purge(&self, upto: LogId) -> Result<(), LogError> {
        todo!()
    }
    /// Drops every entry and goes on behind `upto` at `next_offset`: a snapshot replaced the log.
    pub async fn reset(&self, upto: LogId, next_offset: Offset) -> Result<(), LogError> {
        todo!()
    }
    pub async fn seal_active(&self) -> Result<(), LogError> {
        todo!()
    }
    pub fn bounds(&self) -> LogBounds {
        todo!()
    }
    pub fn entry(&self, index: LogIndex) -> Result<Option<EntryMeta>, LogError> {
        todo!()
    }
    pub fn batch(&self, index: LogIndex) -> Result<Option<(EntryMeta, Bytes)>, LogError> {
        todo!()
    }
    pub fn batches(
        &self,
        range: Range<LogIndex>,
        max_bytes: usize,
    ) -> Result<Vec<(EntryMeta, Bytes)>, LogError> {
        todo!()
    }
    pub fn entry_at_offset(&self, offset: Offset) -> Result<Option<EntryMeta>, LogError> {
        todo!()
    }
    pub fn entry_at_timestamp(&self, timestamp: TimestampMs) -> Result<Option<EntryMeta>, LogError> {
        todo!()
    }
    pub fn read(&self, from: Offset, below: Offset, max_bytes: usize) -> Result<LogSlice, LogError> {
        todo!()
    }
    /// As `read`, after what it would return was brought into memory off the caller's thread.
    pub async fn read_async(
        &self,
        from: Offset,
        below: Offset,
        max_bytes: usize,
    ) -> Result<LogSlice, LogError> {
        todo!()
    }
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }
    pub fn options(&self) -> LogOptions {
        todo!()
    }
    pub fn set_options(&self, options: LogOptions) {
        todo!()
    }
    pub fn damage(&self) -> Option<Damage> {
        todo!()
    }
    /// An operator accepts that the damaged entries are gone; appends are taken again.
    pub async fn accept_loss(self: &Arc<Self>) -> Result<(), LogError> {
        todo!()
    }
    pub fn tail_cut(&self) -> Option<TailCut> {
        todo!()
    }
    /// The end was vouched for: falls the flag that a torn tail raised.
    pub async fn clear_tail_cut(&self) -> Result<(), LogError> {
        todo!()
    }
    /// Keeps the tables as of `at`, durably. Those before the purged entry are dropped; those at it and at every
    /// later entry stay, so that a snapshot can be taken wherever the log may be purged.
    pub async fn write_tables(&self, at: LogId, tables: Bytes) -> Result<(), LogError> {
        todo!()
    }
    /// The newest intact tables at or below `below` and not beyond the durable end.
    pub fn tables(&self, below: LogIndex) -> Result<Option<(LogId, Bytes)>, LogError> {
        todo!()
    }
    /// Re-reads sealed segments and verifies every batch; damage found is also in `damage()` from then on.
    pub async fn scrub(&self) -> Result<(), LogError> {
        todo!()
    }
}
