//! Stores and groups to test: opened on a disk, and opened again after it lost power.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use headwater_core::{ApplyError, DecodeError, Entry, Machine, PartitionState, Stamp};
use headwater_proto::record::{Compression, Limits, RecordBatch, RecordBatchBuilder};
use headwater_proto::types::{BrokerId, GroupId, LogIndex, Offset, PartitionId, ReplicaId, Term, TopicId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::{Disk, SimDisk};
use headwater_storage::log::{LogId, LogOptions};
use openraft::RaftLogReader;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use crate::log_reader::LogReader;
use crate::log_store::{LogStore, Shared};
use crate::types::{CommittedLeader, Payload, RaftEntry, RaftLogId, RaftVote, Types};
use crate::{Group, GroupHost, GroupSpec, Peer, Proposal, RaftSettings};

pub(super) const GROUP: GroupId = GroupId { topic_id: TopicId([7; 16]), partition: PartitionId(3) };
pub(super) const REPLICA: ReplicaId = ReplicaId(11);
pub(super) const ROOT: &str = "data";
pub(super) type Unit = Types<()>;

/// Segments of a few entries each.
pub(super) fn small_segments() -> LogOptions {
    LogOptions { segment_bytes: 600, ..LogOptions::default() }
}

pub(super) async fn data_dir(disk: Arc<dyn Disk>, path: &Path) -> Arc<DataDir> {
    let mut seed = 0_u64;
    let mut entropy = move || {
        seed += 1;
        seed
    };
    DataDir::open(disk, path, &mut entropy).await.unwrap()
}

/// Counts what it is given and believes everything: the store suite applies entries that no log ever held.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tally {
    next_offset: i64,
    entries: u64,
}

impl Machine for Tally {
    type Reply = ();

    fn apply(&mut self, entry: Entry<'_>) -> Result<(), ApplyError> {
        self.next_offset += entry.header.offset_count();
        self.entries += 1;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_i64(self.next_offset);
        out.put_u64(self.entries);
        out
    }

    fn decode(mut bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { next_offset: bytes.get_i64(), entries: bytes.get_u64() })
    }

    fn next_offset(&self) -> Offset {
        Offset(self.next_offset)
    }

    fn log_start(&self) -> Offset {
        Offset(0)
    }
}

/// A store on a simulated disk.
pub(super) struct Fixture {
    pub(super) disk: Arc<SimDisk>,
    pub(super) shared: Arc<Shared>,
    pub(super) store: LogStore,
    options: LogOptions,
}

impl Fixture {
    pub(super) async fn new(seed: u64, options: LogOptions) -> Self {
        Self::open(Arc::new(SimDisk::new(seed)), options).await
    }

    async fn open(disk: Arc<SimDisk>, options: LogOptions) -> Self {
        let shared = shared(disk.clone(), Path::new(ROOT), options).await;
        Self { disk, store: LogStore::new(Arc::clone(&shared)), shared, options }
    }

    /// The power goes: what was not synced is lost or torn. Then everything is opened again.
    pub(super) async fn power_cut(self) -> Self {
        self.disk.power_cut();
        let Self { disk, options, .. } = self;
        Self::open(disk, options).await
    }

    pub(super) fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    pub(super) async fn log_ids(&self) -> Vec<RaftLogId> {
        let entries = RaftLogReader::<Unit>::try_get_log_entries(&mut self.reader(), ..).await.unwrap();
        entries.iter().map(|entry| entry.log_id()).collect()
    }

    /// Appends without waiting for the disk.
    pub(super) async fn append(&mut self, entries: Vec<RaftEntry>) -> Flushed {
        let (done, wait) = Unit::oneshot();
        let appended =
            RaftLogStorage::<Unit>::append(&mut self.store, entries, IOFlushed::signal(done)).await;
        appended.unwrap();
        wait
    }

    pub(super) async fn append_durably(&mut self, entries: Vec<RaftEntry>) {
        self.append(entries).await.await.unwrap().unwrap();
    }
}

pub(super) type Flushed = tokio::sync::oneshot::Receiver<std::io::Result<()>>;

pub(super) async fn shared(disk: Arc<dyn Disk>, path: &Path, options: LogOptions) -> Arc<Shared> {
    let data_dir = data_dir(disk, path).await;
    let log = data_dir.open_log(GROUP, options).await.unwrap();
    Shared::open(GROUP, data_dir, log).unwrap()
}

pub(super) fn raft_id(term: u64, index: u64) -> RaftLogId {
    RaftLogId::new(CommittedLeader::new(term), index)
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

pub(super) fn vote(term: u64) -> RaftVote {
    RaftVote::new_committed(term, REPLICA)
}

pub(super) fn blanks(term: u64, indexes: std::ops::Range<u64>) -> Vec<RaftEntry> {
    indexes.map(|index| RaftEntry { log_id: raft_id(term, index), payload: Payload::Blank }).collect()
}

pub(super) fn proposal(term: u64, index: u64, stamp: Stamp, batch: Bytes) -> RaftEntry {
    RaftEntry { log_id: raft_id(term, index), payload: Payload::Proposal(Proposal::new(stamp, batch)) }
}

pub(super) fn stamp(term: u64, session: u64, n: u64) -> Stamp {
    Stamp { term: Term(term), session, n }
}

/// A batch of one record.
pub(super) fn batch(value: &[u8]) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(1, None, Some(value), &[]).unwrap();
    builder.build().unwrap()
}

/// A group of one voter on a simulated disk.
pub(super) struct OneVoter {
    pub(super) group: Arc<Group<PartitionState>>,
    next: (Term, u64),
}

impl OneVoter {
    pub(super) async fn new(disk: &Arc<SimDisk>, options: LogOptions) -> Self {
        let data_dir = data_dir(disk.clone(), Path::new(ROOT)).await;
        let group = start(data_dir, options, REPLICA).await.unwrap();
        Self { group, next: (Term(0), 0) }
    }

    /// Proposes one record; the session goes on where the last call left it.
    pub(super) async fn propose(&mut self, value: &[u8]) -> crate::Pending<headwater_core::Applied> {
        let term = self.group.wait_leader().await.unwrap().term;
        let n = if self.next.0 == term { self.next.1 } else { 0 };
        self.next = (term, n + 1);
        let stamp = Stamp { term, session: 0, n };
        self.group.propose(Proposal::new(stamp, batch(value))).await.unwrap()
    }

    pub(super) async fn append(&mut self, value: &[u8]) -> Offset {
        self.propose(value).await.await.unwrap().reply.base_offset
    }

    /// Every record's offset and value, as far as committed.
    pub(super) fn values(&self) -> Vec<Bytes> {
        values(&self.group).into_iter().map(|(_, value)| value).collect()
    }
}

/// Every committed record that the log still holds, by its offset.
pub(super) fn values(group: &Group<PartitionState>) -> Vec<(Offset, Bytes)> {
    let log = group.log();
    let high_watermark = group.progress().borrow().high_watermark;
    let limits = Limits::default();
    let mut from = log.bounds().first_offset;
    let mut values = Vec::new();
    while from < high_watermark {
        let slice = log.read(from, high_watermark, usize::MAX).unwrap();
        let mut bytes = slice.bytes;
        while let Some(batch) = RecordBatch::split_first(&mut bytes, &limits).unwrap() {
            let records = batch.records(&limits).unwrap().map(|record| record.unwrap());
            values.extend(records.map(|record| (Offset(record.offset), record.value.unwrap())));
        }
        from = slice.next_offset;
    }
    values
}

pub(super) async fn start(
    data_dir: Arc<DataDir>,
    options: LogOptions,
    replica_id: ReplicaId,
) -> Result<Arc<Group<PartitionState>>, crate::ConsensusError> {
    let peer = Peer { broker_id: BrokerId(1), incarnation: data_dir.incarnation() };
    let voters = BTreeMap::from([(replica_id, peer)]);
    let spec = GroupSpec { id: GROUP, replica_id, voters, initialize: true };
    let started = Group::start(
        spec,
        GroupHost::alone(data_dir),
        options,
        RaftSettings::default(),
        5,
        PartitionState::default(),
    );
    Box::pin(started).await
}

pub(super) fn segment_files(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "log")).collect()
}
