//! A log on a simulated disk beside a model of it: a plain list of entries.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use headwater_proto::record::{Compression, RecordBatchBuilder, empty_control_batch};
use headwater_proto::types::{GroupId, LogIndex, Offset, PartitionId, Term, TimestampMs, TopicId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::SimDisk;
use headwater_storage::log::{EntryMeta, Log, LogError, LogId, LogOptions, NewEntry};

pub const GROUP: GroupId = GroupId { topic_id: TopicId([9; 16]), partition: PartitionId(3) };
pub const SMALL: LogOptions = LogOptions { segment_bytes: 2_000, segment_batches: 12 };

/// A batch of `records` records (a control batch for 0) with that largest timestamp.
pub fn batch(records: usize, value_bytes: usize, timestamp: i64) -> Bytes {
    if records == 0 {
        return empty_control_batch(b"payload");
    }
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    for n in 0..records {
        let value = vec![n as u8; value_bytes];
        builder.append(timestamp, Some(b"key"), Some(&value), &[]).unwrap();
    }
    builder.build().unwrap()
}

pub fn entry(term: u64, batch: Bytes) -> NewEntry {
    NewEntry { term: Term(term), batch }
}

/// What the log must hold for one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    pub id: LogId,
    pub base_offset: i64,
    pub records: i64,
    pub timestamp: i64,
    pub bytes: Bytes,
}

/// The log as a list.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub entries: Vec<ModelEntry>,
    pub purged: Option<LogId>,
    pub purged_next_offset: i64,
}

impl Model {
    pub fn next_index(&self) -> u64 {
        let purged = self.purged.map_or(1, |p| p.index.0 + 1);
        self.entries.last().map_or(purged, |e| e.id.index.0 + 1)
    }

    pub fn next_offset(&self) -> i64 {
        self.entries.last().map_or(self.purged_next_offset, |e| e.base_offset + e.records)
    }

    pub fn first_offset(&self) -> i64 {
        self.entries.first().map_or(self.purged_next_offset, |e| e.base_offset)
    }

    pub fn last_term(&self) -> u64 {
        let purged = self.purged.map_or(0, |p| p.term.0);
        self.entries.last().map_or(purged, |e| e.id.term.0)
    }

    pub fn append(&mut self, new: &[NewEntry]) {
        for new in new {
            let header = headwater_proto::record::BatchHeader::read(&new.batch).unwrap();
            let base_offset = self.next_offset();
            let mut stamped = BytesMut::from(&new.batch[..]);
            stamped[..8].copy_from_slice(&base_offset.to_be_bytes());
            stamped[12..16].copy_from_slice(&(new.term.0 as u32).to_be_bytes());
            let id = LogId { term: new.term, index: LogIndex(self.next_index()) };
            let records = header.offset_count();
            let timestamp = if records > 0 { header.max_timestamp } else { -1 };
            self.entries.push(ModelEntry { id, base_offset, records, timestamp, bytes: stamped.freeze() });
        }
    }

    pub fn truncate_after(&mut self, last: u64) {
        self.entries.retain(|e| e.id.index.0 <= last);
    }

    pub fn purge(&mut self, index: u64) {
        if let Some(last) = self.entries.iter().rfind(|e| e.id.index.0 <= index) {
            self.purged = Some(last.id);
            self.purged_next_offset = last.base_offset + last.records;
            self.entries.retain(|e| e.id.index.0 > index);
        }
    }

    /// The model without the entries from `next_index` on.
    pub fn prefix(&self, next_index: u64) -> Self {
        let mut prefix = self.clone();
        prefix.truncate_after(next_index - 1);
        prefix
    }
}

/// A life of a broker on a simulated disk, as far as one log goes.
pub struct Life {
    pub disk: Arc<SimDisk>,
    pub data_dir: Arc<DataDir>,
    pub log: Arc<Log>,
}

impl Life {
    pub async fn begin(disk: &Arc<SimDisk>, options: LogOptions) -> Self {
        Self::try_begin(disk, options).await.unwrap()
    }

    pub async fn try_begin(disk: &Arc<SimDisk>, options: LogOptions) -> Result<Self, String> {
        let mut draws = 0;
        let mut entropy = || {
            draws += 1;
            draws
        };
        let data_dir =
            DataDir::open(disk.clone(), Path::new("/data"), &mut entropy).await.map_err(|e| e.to_string())?;
        let log = data_dir.open_log(GROUP, options).await.map_err(|e| e.to_string())?;
        Ok(Self { disk: disk.clone(), data_dir, log })
    }

    /// The process is killed and starts again.
    pub async fn restart_after_kill(self, options: LogOptions) -> Self {
        let disk = self.disk.clone();
        disk.kill_process();
        drop(self);
        Self::begin(&disk, options).await
    }

    /// The power fails and comes back.
    pub async fn restart_after_power_cut(self, options: LogOptions) -> Self {
        let disk = self.disk.clone();
        disk.power_cut();
        drop(self);
        Self::begin(&disk, options).await
    }

    pub async fn restart_cleanly(self, options: LogOptions) -> Self {
        self.data_dir.flush_clean().await.unwrap();
        let disk = self.disk.clone();
        drop(self);
        disk.kill_process();
        Self::begin(&disk, options).await
    }
}

pub fn directory() -> PathBuf {
    Path::new("/data/groups").join(GROUP.to_string())
}

/// Files of the log with this extension, in the order of their names.
pub fn files(disk: &SimDisk, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = disk
        .paths()
        .into_iter()
        .filter(|p| p.starts_with(directory()) && p.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort_by_key(|p| {
        let name = p.file_name().unwrap().to_str().unwrap().to_owned();
        name.split('.').nth(1).unwrap().parse::<u32>().unwrap_or(0)
    });
    paths
}

/// Compares everything that can be read with the model.
pub fn check(log: &Log, model: &Model) {
    let bounds = log.bounds();
    assert_eq!(bounds.purged, model.purged, "purged");
    assert_eq!(bounds.last, model.entries.last().map(|e| e.id).or(model.purged), "last");
    assert_eq!(bounds.next_offset, Offset(model.next_offset()), "next offset");
    assert_eq!(bounds.first_offset, Offset(model.first_offset()), "first offset");
    if let Some(first) = model.entries.first() {
        assert_eq!(bounds.first_index, first.id.index);
        let before = LogIndex(first.id.index.0.saturating_sub(1));
        assert_eq!(log.entry(before).unwrap(), None);
    }
    assert_eq!(log.entry(LogIndex(model.next_index())).unwrap(), None);
    check_entries(log, model);
    check_offsets(log, model);
    check_timestamps(log, model);
}

fn same(meta: &EntryMeta, entry: &ModelEntry) {
    assert_eq!(meta.log_id(), entry.id);
    assert_eq!(meta.base_offset, Offset(entry.base_offset));
    assert_eq!(i64::from(meta.offset_count), entry.records);
    assert_eq!(meta.max_timestamp, TimestampMs(entry.timestamp));
    assert_eq!(meta.size_bytes as usize, entry.bytes.len());
}

fn check_entries(log: &Log, model: &Model) {
    for entry in &model.entries {
        let (meta, bytes) = log.batch(entry.id.index).unwrap().unwrap();
        same(&meta, entry);
        assert_eq!(bytes, entry.bytes, "index {}", entry.id.index);
        assert_eq!(log.entry(entry.id.index).unwrap(), Some(meta));
    }
    let first = log.bounds().first_index;
    let next = LogIndex(model.next_index());
    let all = log.batches(first..next, usize::MAX).unwrap();
    assert_eq!(all.len(), model.entries.len());
    for ((meta, bytes), entry) in all.iter().zip(&model.entries) {
        same(meta, entry);
        assert_eq!(*bytes, entry.bytes);
    }
    if let Some(entry) = model.entries.first() {
        let one = log.batches(first..next, 1).unwrap();
        assert_eq!(one.len(), 1, "at least one");
        assert_eq!(one[0].1, entry.bytes);
    }
}

fn check_offsets(log: &Log, model: &Model) {
    let (first, next) = (model.first_offset(), model.next_offset());
    for offset in first..next {
        let holder = model
            .entries
            .iter()
            .find(|e| e.base_offset <= offset && offset < e.base_offset + e.records)
            .unwrap();
        let meta = log.entry_at_offset(Offset(offset)).unwrap().unwrap();
        same(&meta, holder);
        let one = log.read(Offset(offset), Offset(i64::MAX), 1).unwrap();
        assert_eq!(one.bytes, holder.bytes, "offset {offset}");
        let none =
            log.read(Offset(offset), Offset(holder.base_offset + holder.records - 1), 1 << 20).unwrap();
        assert!(none.bytes.is_empty(), "a batch that reaches beyond the bound");
    }
    let mut at = first;
    let mut read = BytesMut::new();
    while at < next {
        let slice = log.read(Offset(at), Offset(next), 700).unwrap();
        assert!(slice.next_offset.0 > at, "no progress at {at}");
        read.extend_from_slice(&slice.bytes);
        at = slice.next_offset.0;
    }
    let data: Vec<u8> =
        model.entries.iter().filter(|e| e.records > 0).flat_map(|e| e.bytes.to_vec()).collect();
    assert_eq!(read, data, "all data batches and no control batch, once each");
    assert!(log.read(Offset(next), Offset(i64::MAX), 1).unwrap().bytes.is_empty());
    for outside in [first - 1, next + 1] {
        assert!(matches!(
            log.read(Offset(outside), Offset(i64::MAX), 1),
            Err(LogError::OffsetOutOfRange { .. })
        ));
    }
}

fn check_timestamps(log: &Log, model: &Model) {
    let highest = model.entries.iter().map(|e| e.timestamp).max().unwrap_or(0);
    for timestamp in 0..=highest + 1 {
        let expected = model.entries.iter().find(|e| e.records > 0 && e.timestamp >= timestamp);
        let found = log.entry_at_timestamp(TimestampMs(timestamp)).unwrap();
        assert_eq!(found.map(|m| m.index), expected.map(|e| e.id.index), "timestamp {timestamp}");
    }
}

impl Life {
    /// A second start on what is there, after the process was killed.
    pub async fn begin_again(disk: &Arc<SimDisk>) -> Self {
        disk.kill_process();
        Self::begin(disk, SMALL).await
    }
}
