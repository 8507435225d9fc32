//! Durability: what the next flush round has to sync, and who waits for it.

use std::io;
use std::sync::Arc;

use headwater_proto::types::{GroupId, LogIndex};

use super::facts::DurablePoint;
use super::{Log, lock};
use crate::disk::DiskFile;
use crate::host::{FlushRound, FlushSource, fact};
use crate::segment::Segment;

type Waiter = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What is appended and not yet durable.
pub(crate) struct FlushState {
    /// Every entry below this index is on stable storage.
    pub durable_next: LogIndex,
    /// Number of the last cut.
    pub cuts: u64,
    waiters: Vec<Waiter>,
    /// To be synced once, beside the active segment's data.
    files: Vec<Arc<dyn DiskFile>>,
    /// Names in the group's directory are not yet durable.
    directory: bool,
    in_flight: Option<(Vec<Waiter>, DurablePoint)>,
}

impl std::fmt::Debug for FlushState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushState")
            .field("durable_next", &self.durable_next)
            .field("cuts", &self.cuts)
            .field("waiters", &self.waiters.len())
            .finish_non_exhaustive()
    }
}

impl FlushState {
    pub fn new(durable_next: LogIndex, cuts: u64) -> Self {
        Self { durable_next, cuts, waiters: Vec::new(), files: Vec::new(), directory: false, in_flight: None }
    }

    /// A segment was begun: its names and its header must last before any entry in it counts.
    pub fn created(&mut self, segment: &Segment) {
        self.files.push(segment.index.clone());
        self.files.push(segment.data.clone());
        self.directory = true;
    }

    /// A segment was sealed: its end and its footer must last before any entry behind it counts.
    pub fn sealed(&mut self, segment: &Segment) {
        self.files.push(segment.data.clone());
        self.files.push(segment.index.clone());
    }

    /// The log was cut, behind `last`: its new footer and the removal of what followed must last before another
    /// cut takes the place of this one's record.
    pub fn cut(&mut self, last: Option<&Segment>) {
        last.into_iter().for_each(|last| self.sealed(last));
        self.directory = true;
    }

    /// Syncs a file with the next round.
    pub fn add_file(&mut self, file: Arc<dyn DiskFile>) {
        self.files.push(file);
    }
}

impl Log {
    /// Calls `done` once everything appended before this call is durable, in the order of the calls. An error is
    /// final for the log.
    pub fn when_durable(self: &Arc<Self>, done: Box<dyn FnOnce(io::Result<()>) + Send>) {
        if let Err(error) = self.check_running() {
            return done(Err(io::Error::other(error)));
        }
        lock(&self.flush).waiters.push(done);
        self.host.mark_dirty(self.clone());
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    /// The sync error, which is final for the log.
    pub async fn flush(self: &Arc<Self>) -> io::Result<()> {
        let (done, wait) = tokio::sync::oneshot::channel();
        // The receiver may be gone: the caller gave up waiting.
        self.when_durable(Box::new(move |result| drop(done.send(result))));
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the flusher stopped")))
    }

    /// For a clean stop: everything durable, the index of the active segment too, and the durable point
    /// journalled, so that the next start has nothing to scan.
    ///
    /// # Errors
    /// As [`Log::flush`], and those of the journal.
    pub async fn flush_clean(self: &Arc<Self>) -> io::Result<()> {
        {
            let writer = lock(&self.writer);
            self.check_running().map_err(io::Error::other)?;
            if let Some(active) = &writer.active {
                active.segment.write_index().inspect_err(|e| drop(self.stop(e)))?;
                lock(&self.flush).add_file(active.segment.index.clone());
            }
        }
        self.flush().await?;
        let point = self.durable_point();
        if lock(&self.flush).durable_next < point.next_index {
            return Ok(());
        }
        self.host.put_fact(self.group, fact::DURABLE_POINT, point.encode()).await
    }

    /// The present end, as a durable point once it is synced.
    fn durable_point(&self) -> DurablePoint {
        // The number first: a cut lowers the end before it counts itself, so that no point names the cut and an end
        // from before it.
        let cuts = lock(&self.flush).cuts;
        let view = self.view();
        DurablePoint {
            cuts,
            next_index: view.next_index(),
            next_offset: view.next_offset(),
            segment_first_index: view.segments.last().map_or(view.next_index(), |s| s.first_index()),
            segment_generation: view.segments.last().map_or(0, |s| s.header.generation),
        }
    }
}

impl FlushSource for Log {
    fn group(&self) -> GroupId {
        self.group
    }

    fn begin_round(&self) -> FlushRound {
        // In this order: whoever waits already has appended, and a published entry's files are listed already.
        let waiters = std::mem::take(&mut lock(&self.flush).waiters);
        let point = self.durable_point();
        if self.check_running().is_err() {
            // After a failed write-back the next sync succeeds and proves nothing.
            lock(&self.flush).in_flight = Some((waiters, point));
            return FlushRound::default();
        }
        let last = self.view().segments.last().cloned();
        let mut state = lock(&self.flush);
        let mut files: Vec<Arc<dyn DiskFile>> = Vec::new();
        let unsynced = last.filter(|_| state.durable_next < point.next_index).map(|s| s.data.clone());
        for file in std::mem::take(&mut state.files).into_iter().chain(unsynced) {
            if !files.iter().any(|f| Arc::ptr_eq(f, &file)) {
                files.push(file);
            }
        }
        let directories =
            if std::mem::take(&mut state.directory) { vec![self.directory.clone()] } else { vec![] };
        state.in_flight = Some((waiters, point));
        FlushRound { files, directories, durable_point: point.encode() }
    }

    fn end_round(&self, result: io::Result<()>) {
        let Some((waiters, point)) = lock(&self.flush).in_flight.take() else {
            return;
        };
        let result = result.and_then(|()| self.check_running().map_err(io::Error::other));
        match &result {
            Ok(()) => {
                let mut state = lock(&self.flush);
                // A cut that came meanwhile lowered the durable point below what this round covers.
                if state.cuts == point.cuts {
                    state.durable_next = state.durable_next.max(point.next_index);
                }
            }
            // One that is stopped stays so for its first reason.
            Err(error) => drop(self.stop(error)),
        }
        for done in waiters {
            done(result.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string())));
        }
    }
}
