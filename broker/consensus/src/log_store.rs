//! openraft's log store on Headwater's log and journal.
//!
//! Invariants: entries and votes reach the disk in the order in which openraft wrote them, although they
//! lie in different files; a completion means that everything before it is durable too; the log takes the
//! place of an entry exactly once, so that a proposal whose stamp does not fit is stored as a void entry;
//! what is remembered as committed never leads the durable end of the log.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use headwater_core::ControlEntry;
use headwater_core::gate::StampCheck;
use headwater_core::mutant::{self, Mutant};
use headwater_proto::record::{BatchHeader, empty_control_batch};
use headwater_proto::types::{GroupId, LogIndex, Offset, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::log::{Log, LogError, LogId, NewEntry};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use crate::encoding::{decode_log_id, decode_vote, encode_log_id, encode_membership, encode_vote};
use crate::error::ConsensusError;
use crate::log_reader::LogReader;
use crate::pending::LocalSignal;
use crate::types::{Payload, RaftEntry, RaftLogId, RaftVote, Types, from_raft, from_raft_index, to_raft};

/// Kinds of the facts that a group keeps in the journal.
pub(crate) mod fact {
    use headwater_storage::data_dir::GROUP_CREATED;

    pub(crate) const CREATION: u8 = GROUP_CREATED;
    pub(crate) const VOTE: u8 = GROUP_CREATED + 1;
    pub(crate) const COMMITTED: u8 = GROUP_CREATED + 2;
}

/// How often a full disk is asked again for the space of an append.
const SPACE_RETRY: Duration = Duration::from_millis(100);

/// Whether appends get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppendState {
    Open,
    /// An append waits for the disk to have space again.
    NoSpace,
    /// The group is being stopped: an append that still waits gives up.
    Stopping,
}

/// What the store, its readers and the group's state machine share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) group: GroupId,
    pub(crate) log: Arc<Log>,
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) appends: watch::Sender<AppendState>,
    /// Why the group cannot go on; set before Raft itself knows, and for good.
    pub(crate) failure: watch::Sender<Option<String>>,
    /// Something that the log should hold was read, and is not what was written.
    unreadable: AtomicBool,
    /// One writer of tables at a time.
    pub(crate) tables: tokio::sync::Mutex<()>,
    vote: Mutex<Option<RaftVote>>,
    committed: Mutex<Option<RaftLogId>>,
}

impl Shared {
    /// Reads what the journal knows of the group.
    pub(crate) fn open(
        group: GroupId,
        data_dir: Arc<DataDir>,
        log: Arc<Log>,
    ) -> Result<Arc<Self>, ConsensusError> {
        let fact = |kind| data_dir.get(Some(group), kind);
        let vote = fact(fact::VOTE).map(|bytes| decode_vote(&bytes)).transpose()?;
        let committed = fact(fact::COMMITTED).map(|bytes| decode_log_id(&bytes)).transpose()?;
        // The end that recovery found may lie before what was committed when the power went.
        let end = log.bounds().last.unwrap_or_default();
        let unclamped = mutant::active(Mutant::AppliedBeyondDurable);
        let committed = committed.map(|id| if unclamped { id } else { id.min(end) });
        Ok(Arc::new(Self {
            group,
            log,
            appends: watch::Sender::new(AppendState::Open),
            failure: watch::Sender::new(None),
            unreadable: AtomicBool::new(false),
            tables: tokio::sync::Mutex::new(()),
            vote: Mutex::new(vote),
            committed: Mutex::new(committed.and_then(to_raft)),
            data_dir,
        }))
    }

    /// From now on the group leads nothing any more, whatever Raft says until it stops.
    pub(crate) fn fail(&self, reason: &dyn std::fmt::Display) {
        let stopping = *self.appends.borrow() == AppendState::Stopping;
        let failed = !stopping
            && self.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                if first {
                    *failure = Some(reason.to_string());
                }
                first
            });
        if failed {
            tracing::error!(group = %self.group, %reason, "the group failed");
        }
    }

    /// Notes that the log contradicts itself: a scrub will say what is lost.
    pub(crate) fn note_unreadable(&self) {
        self.unreadable.store(true, Ordering::Relaxed);
    }

    /// Whether it did since the last call.
    pub(crate) fn take_unreadable(&self) -> bool {
        self.unreadable.swap(false, Ordering::Relaxed)
    }

    /// Passes a result on to Raft, for which an error of the store is the end.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.fail(error))
    }

    pub(crate) fn vote(&self) -> Option<RaftVote> {
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn committed(&self) -> Option<RaftLogId> {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Journals what is committed, as far as this replica's own log is durable.
    pub(crate) async fn checkpoint_committed(&self) -> Result<(), ConsensusError> {
        let durable = self.log.bounds().durable_index.unwrap_or_default();
        let Some(committed) = self.committed().map(|id| from_raft(&id)) else { return Ok(()) };
        let committed = if committed.index <= durable || mutant::active(Mutant::AppliedBeyondDurable) {
            committed
        } else {
            match self.log.entry(durable)? {
                Some(entry) => entry.log_id(),
                None => return Ok(()),
            }
        };
        let stored = self.data_dir.put(Some(self.group), fact::COMMITTED, encode_log_id(committed));
        stored.await.map_err(ConsensusError::Journal)
    }
}

/// The writing side: one per group.
#[derive(Debug)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    stamps: StampCheck,
    blank: Bytes,
    void: Bytes,
}

impl LogStore {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            stamps: StampCheck::default(),
            blank: empty_control_batch(&ControlEntry::Blank.encode()),
            void: empty_control_batch(&ControlEntry::Void.encode()),
        }
    }

    /// The batch that stands for an entry in the log, and who waits for it to be durable here.
    fn batch(&mut self, entry: RaftEntry, term: Term) -> (Bytes, Option<LocalSignal>) {
        let batch = match entry.payload {
            Payload::Blank => self.blank.clone(),
            Payload::Membership(membership) => {
                let bytes = encode_membership(&membership);
                empty_control_batch(&ControlEntry::Membership(bytes).encode())
            }
            Payload::Proposal(proposal) if self.stamps.admit(proposal.stamp, term) => {
                return (proposal.batch, proposal.local);
            }
            Payload::Proposal(_) => self.void.clone(),
            Payload::Stored(stored) => stored.batch,
        };
        (batch, None)
    }

    /// Turns entries into batches; an error if they do not continue the log, or if a leader stamped
    /// another offset than this log is about to. Beside them, who waits for which to be durable.
    fn convert(
        &mut self,
        entries: impl IntoIterator<Item = RaftEntry>,
    ) -> io::Result<(Vec<NewEntry>, Vec<Watched>)> {
        let bounds = self.shared.log.bounds();
        let mut next = bounds.last.map(|last| last.index.next());
        let mut next_offset = Some(bounds.next_offset);
        let (mut batches, mut watched) = (Vec::new(), Vec::new());
        for entry in entries {
            let id = from_raft(&entry.log_id);
            match next {
                Some(next) if next != id.index => return Err(out_of_order(id.index, next)),
                Some(_) => {}
                None => self.shared.log.begin_at(id.index).map_err(log_failed)?,
            }
            next = Some(id.index.next());
            next_offset = follow_offsets(&entry, next_offset)?;
            let (batch, local) = self.batch(entry, id.term);
            watched.extend(local.map(|signal| Watched { nth: batches.len(), signal }));
            batches.push(NewEntry { term: id.term, batch });
        }
        Ok((batches, watched))
    }

    /// Runs a write, again and again while the disk is full: an error would end the group, and with it the
    /// partition, until the broker is restarted. Nothing was written by a refused try.
    async fn when_space<F>(&self, mut write: impl FnMut() -> F) -> io::Result<()>
    where
        F: Future<Output = Result<(), LogError>>,
    {
        loop {
            match write().await {
                Ok(()) => break,
                Err(LogError::NoSpace(error)) => self.wait_for_space(error).await?,
                Err(LogError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    self.wait_for_space(error).await?;
                }
                Err(error) => return Err(log_failed(error)),
            }
        }
        self.shared
            .appends
            .send_if_modified(|state| replace_if(state, AppendState::NoSpace, AppendState::Open));
        Ok(())
    }

    async fn wait_for_space(&self, error: io::Error) -> io::Result<()> {
        let appends = &self.shared.appends;
        if appends.send_if_modified(|state| replace_if(state, AppendState::Open, AppendState::NoSpace)) {
            tracing::error!(group = %self.shared.group, %error, "the disk is full: writes wait for space");
        }
        let mut stopping = appends.subscribe();
        tokio::select! {
            _ = stopping.wait_for(|state| *state == AppendState::Stopping) => Err(error),
            () = sleep(SPACE_RETRY) => Ok(()),
        }
    }
}

/// A proposal whose proposer asked when it is durable here.
struct Watched {
    /// Its place among the entries of one append.
    nth: usize,
    signal: LocalSignal,
}

impl Watched {
    /// The base offset of each, if the first of all `entries` begins at `first`.
    fn placed(watched: Vec<Self>, entries: &[NewEntry], first: Offset) -> Vec<(Offset, LocalSignal)> {
        let mut counted = 0;
        let mut offset = first.get();
        let mut placed = Vec::with_capacity(watched.len());
        for Self { nth, signal } in watched {
            for entry in &entries[counted..nth] {
                offset += BatchHeader::read(&entry.batch).map_or(0, |header| header.offset_count());
            }
            counted = nth;
            placed.push((Offset(offset), signal));
        }
        placed
    }
}

fn replace_if(state: &mut AppendState, from: AppendState, to: AppendState) -> bool {
    let replaces = *state == from;
    if replaces {
        *state = to;
    }
    replaces
}

/// The offset after `entry`, where it can be told: a leader's own entries are stamped by the log itself.
fn follow_offsets(entry: &RaftEntry, next_offset: Option<Offset>) -> io::Result<Option<Offset>> {
    let Payload::Stored(stored) = &entry.payload else { return Ok(None) };
    match next_offset {
        Some(expected) if stored.base_offset != expected => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the leader stamped offset {}, but this log goes on at {expected}", stored.base_offset),
        )),
        _ => Ok(Some(Offset(stored.base_offset.get() + stored.header.offset_count()))),
    }
}

fn out_of_order(found: LogIndex, expected: LogIndex) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("entry {found} does not follow a log that ends before {expected}"),
    )
}

pub(crate) fn log_failed(error: LogError) -> io::Error {
    match error {
        LogError::Io(error) => error,
        error => io::Error::other(error),
    }
}

impl<R: Send + Sync + 'static> RaftLogStorage<Types<R>> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<R>>> {
        let bounds = self.shared.log.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.and_then(to_raft),
            last_log_id: bounds.last.and_then(to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        // openraft takes a stored vote of a term as proof that every append before it is durable, and
        // releases their acknowledgements. The vote lies in another file: the log must come first.
        let bounds = self.shared.log.bounds();
        if bounds.last.map(|last| last.index) > bounds.durable_index {
            let flushed = self.shared.log.flush().await;
            self.shared.noted(flushed)?;
        }
        let bytes = encode_vote(vote);
        let put = || {
            let stored = self.shared.data_dir.put(Some(self.shared.group), fact::VOTE, bytes.clone());
            async { Ok(stored.await?) }
        };
        if !mutant::active(Mutant::VoteNotSaved) {
            let stored = self.when_space(put).await;
            self.shared.noted(stored)?;
        }
        *self.shared.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        *self.shared.committed.lock().unwrap_or_else(PoisonError::into_inner) = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.shared.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let converted = self.convert(entries);
        let (entries, watched) = self.shared.noted(converted)?;
        let watched = Watched::placed(watched, &entries, self.shared.log.bounds().next_offset);
        let appended =
            self.when_space(|| std::future::ready(self.shared.log.append(&entries).map(|_| ()))).await;
        self.shared.noted(appended)?;
        if mutant::active(Mutant::AckBeforeQuorumFsync) {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        self.shared.log.when_durable(Box::new(move |result| {
            let result = shared.noted(result);
            if result.is_ok() {
                watched.into_iter().for_each(|(offset, signal)| signal.send(offset));
            }
            callback.io_completed(result);
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let last = last.map(|id| from_raft_index(id.index));
        #[cfg(feature = "mutants")]
        crate::planted::keep_stale_tail(&self.shared, last).await.map_err(log_failed)?;
        let truncated = self.when_space(|| self.shared.log.truncate_after(last)).await;
        self.shared.noted(truncated)
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        let upto = from_raft(&upto);
        let purged = self.when_space(|| self.shared.log.purge(upto)).await;
        self.shared.noted(purged)
    }
}

/// Whether `id` is an entry that the log holds (or held) at its index.
pub(crate) fn holds(log: &Log, id: LogId) -> Result<bool, LogError> {
    Ok(log.entry(id.index)?.is_some_and(|entry| entry.term == id.term))
}
