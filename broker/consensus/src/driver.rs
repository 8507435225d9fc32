//! openraft's state machine: drives a [`Machine`] over the committed entries, and takes snapshots.
//!
//! Invariants: progress is published before a proposer is answered, so that who was told of an offset can
//! read it; a snapshot is taken where the log is about to be purged, and holds the state as of there, never
//! a later one; an installed snapshot is durable before the log behind it is given up.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use headwater_core::{ApplyError, Machine};
use headwater_storage::log::{LogError, LogId};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::applied::{Applied, Progress};
use crate::encoding::Tables;
use crate::error::ConsensusError;
use crate::log_store::{Shared, holds, log_failed};
use crate::tables::{self, BoundaryWriter};
use crate::types::{Outcome, Payload, RaftLogId, Snapshot, SnapshotMeta, StoredMembership, Types, to_raft};

/// Entries applied under one lock: how long a reader of the state may wait.
const APPLY_RUN: usize = 256;

/// The state of a group, as its driver and its handle share it.
#[derive(Debug)]
pub(crate) struct State<M> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) boundaries: BoundaryWriter,
    applied: RwLock<Applied<M>>,
    /// The machine before the first entry, encoded.
    initial: Bytes,
    /// What the next snapshot is to hold, durable already; the last applied state unless told.
    prepared: Mutex<Option<Tables>>,
    snapshot: Mutex<Option<Tables>>,
}

impl<M: Machine> State<M> {
    /// Rebuilds what tables alone give. The entries behind them are applied as Raft learns that they are committed.
    pub(crate) fn open(shared: Arc<Shared>, machine: &M) -> Result<Self, ConsensusError> {
        let initial = Bytes::from(machine.encode());
        let bounds = shared.log.bounds();
        let applied = tables::restore::<M>(&shared, &initial, bounds.last.unwrap_or_default().index)?;
        // Without tables as of the purged entry, openraft takes a snapshot at the last applied one.
        let snapshot = match bounds.purged {
            Some(purged) => shared.log.tables(purged.index)?.filter(|(at, _)| *at == purged),
            None => None,
        };
        let snapshot = snapshot.map(|(_, bytes)| Tables::decode(&bytes)).transpose()?;
        Ok(Self {
            progress: watch::Sender::new(applied.progress()),
            applied: RwLock::new(applied),
            boundaries: BoundaryWriter::default(),
            initial,
            prepared: Mutex::new(None),
            snapshot: Mutex::new(snapshot),
            shared,
        })
    }

    pub(crate) fn applied(&self) -> RwLockReadGuard<'_, Applied<M>> {
        self.applied.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied_mut(&self) -> RwLockWriteGuard<'_, Applied<M>> {
        self.applied.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a run of entries and answers their proposers.
    fn apply_run(&self, run: Run<M::Reply>) -> io::Result<()>
    where
        M::Reply: Sync,
    {
        let mut answers = Vec::with_capacity(run.len());
        let failed = self.apply_entries(run, &mut answers);
        self.progress.send_replace(self.applied().progress());
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        failed
    }

    fn apply_entries(&self, run: Run<M::Reply>, answers: &mut Answers<M::Reply>) -> io::Result<()>
    where
        M::Reply: Sync,
    {
        let mut applied = self.applied_mut();
        for item in run {
            let (entry, responder) = item?;
            if matches!(&entry.payload, Payload::Stored(stored) if stored.opens_segment)
                && applied.at.is_some()
            {
                self.boundaries.write(&self.shared, applied.tables());
            }
            let reply = applied.apply(&entry).map_err(contradiction)?;
            if let Some(responder) = responder {
                answers.push((responder, reply.map_or(Outcome::Void, Outcome::Applied)));
            }
        }
        Ok(())
    }

    async fn build_snapshot(&self) -> Result<Snapshot, ConsensusError> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tables = match prepared {
            Some(durable) => durable,
            None => {
                let tables = self.applied().tables();
                if holds(&self.shared.log, tables.at)? {
                    tables::write(&self.shared, &tables).await?;
                }
                tables
            }
        };
        let snapshot = to_snapshot(&tables);
        let mut newest = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        // A leader may have sent a newer one since this one was prepared.
        if newest.as_ref().is_none_or(|held| held.at <= tables.at) {
            *newest = Some(tables);
        }
        Ok(snapshot)
    }

    async fn install_snapshot(&self, bytes: &Bytes) -> Result<(), ConsensusError> {
        let tables = Tables::decode(bytes)?;
        let applied = Applied::from_tables(&tables)?;
        self.store_snapshot(&tables, bytes).await.inspect_err(|error| {
            // Raft ends the group for it, whose log must not go on without it.
            if let ConsensusError::Log(LogError::Io(error)) = error {
                self.shared.log.stop(error);
            }
        })?;
        *self.applied_mut() = applied;
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(tables);
        self.progress.send_replace(self.applied().progress());
        Ok(())
    }

    async fn store_snapshot(&self, tables: &Tables, bytes: &Bytes) -> Result<(), ConsensusError> {
        let log = &self.shared.log;
        if holds(log, tables.at)? {
            return tables::write(&self.shared, tables).await;
        }
        // Whoever else writes tables would remove those of the snapshot, which lie behind the end of the log until it goes.
        let _one_at_a_time = self.shared.tables.lock().await;
        Ok(log.reset(tables.at, tables.next_offset, bytes).await?)
    }
}

type Run<R> = Vec<io::Result<EntryResponder<Types<R>>>>;
type Answers<R> = Vec<(ApplyResponder<Types<R>>, Outcome<R>)>;

fn contradiction(error: ApplyError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn failed(error: ConsensusError) -> io::Error {
    match error {
        ConsensusError::Log(error) => log_failed(error),
        error => io::Error::other(error),
    }
}

pub(crate) fn to_snapshot(tables: &Tables) -> Snapshot {
    let meta = SnapshotMeta { last_log_id: to_raft(tables.at), last_membership: tables.membership.clone() };
    Snapshot { meta, snapshot: tables.encode() }
}

/// The state as openraft holds it.
#[derive(Debug)]
pub(crate) struct Driver<M>(pub(crate) Arc<State<M>>);

/// Builds one snapshot.
#[derive(Debug)]
pub(crate) struct Builder<M>(Arc<State<M>>);

impl<M: Machine> RaftStateMachine<Types<M::Reply>> for Driver<M> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        let applied = self.0.applied();
        Ok((applied.at, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<M::Reply>>>> + Unpin + OptionalSend,
    {
        let mut runs = entries.ready_chunks(APPLY_RUN);
        while let Some(run) = runs.next().await {
            self.0.apply_run(run).inspect_err(|error| self.0.shared.fail(error))?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder(Arc::clone(&self.0))
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        self.0.install_snapshot(&snapshot).await.map_err(failed)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(to_snapshot))
    }
}

impl<M: Machine> RaftSnapshotBuilder<Types<M::Reply>> for Builder<M> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.0.build_snapshot().await.map_err(failed)
    }
}

impl<M: Machine> State<M> {
    /// Writes tables as of now, so that the next start replays nothing.
    pub(crate) async fn checkpoint(&self) -> Result<(), ConsensusError> {
        let tables = self.applied().tables();
        if holds(&self.shared.log, tables.at)? {
            tables::write(&self.shared, &tables).await?;
        }
        self.shared.checkpoint_committed().await
    }

    /// Where the newest snapshot was taken.
    pub(crate) fn snapshot_log_id(&self) -> Option<LogId> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|tables| tables.at)
    }

    /// Stores the state as of `at`, where the next snapshot is taken then. Here and not when Raft asks for it: an error
    /// there, such as a full disk, would end the group.
    pub(crate) async fn prepare_snapshot(&self, at: LogId) -> Result<(), ConsensusError> {
        let tables = tables::state_at::<M>(&self.shared, &self.initial, at).await?.tables();
        tables::write(&self.shared, &tables).await?;
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(tables);
        Ok(())
    }

    /// Publishes what of a damaged log can be read: without Raft, nobody will say what is committed, but a log
    /// that was whole once held nothing else.
    pub(crate) fn expose_damaged(&self) {
        let bounds = self.shared.log.bounds();
        self.progress.send_modify(|progress| {
            progress.high_watermark = progress.high_watermark.max(bounds.next_offset);
        });
    }
}
