//! Group commit for one data directory.
//!
//! One loop runs rounds. A round takes all puts and all dirty logs that there are when it begins, writes one
//! journal frame, syncs its copies and everything that the logs name, all at once, and then completes everyone
//! who waited: logs first, puts after, each in order. What arrives meanwhile forms the next round.
//!
//! The durable points of a round are journalled with the next one, so that what a power cut can leave in doubt is
//! one round; where no next one comes, in a round of their own after a pause.
//!
//! Invariants: **nobody is completed before everything of his round is on stable storage**; a point is journalled
//! only after its round was; an error is final, for the log whose file it was, or for all when it was the
//! journal's. Only a full disk is not: the puts of that round fail and nothing else changes.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use headwater_proto::types::GroupId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::disk::{Disk, LockGuard};
use crate::host::{FlushRound, FlushSource, fact};
use crate::journal::{Change, Journal};

/// How long the durable points of a round wait for another round to be journalled with.
pub const POINT_INTERVAL: Duration = Duration::from_millis(10);

/// Handle of the loop, which ends when the handle is dropped.
#[derive(Debug)]
pub struct Flusher {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
}

/// What the next round will take.
#[derive(Debug, Default)]
struct Queue {
    puts: Vec<Put>,
    sources: Vec<Arc<dyn FlushSource>>,
    /// Which sources are in it, by group and address.
    queued: BTreeSet<(GroupId, usize)>,
    stop: Option<oneshot::Sender<io::Result<()>>>,
    closed: bool,
}

#[derive(Debug)]
struct Put {
    changes: Vec<Change>,
    done: oneshot::Sender<io::Result<()>>,
}

impl Queue {
    fn has_work(&self) -> bool {
        !self.puts.is_empty() || !self.sources.is_empty()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flusher {
    /// Starts the loop on the current runtime. `lock` is held until nothing is written any more.
    #[must_use]
    pub fn start(disk: Arc<dyn Disk>, journal: Journal, lock: Box<dyn LockGuard>) -> Self {
        let shared = Arc::new(Shared::default());
        let rounds = Rounds {
            shared: Arc::clone(&shared),
            disk,
            journal,
            points: BTreeMap::new(),
            round_ended_at: Instant::now(),
            ended: None,
            lock: Some(lock),
        };
        tokio::spawn(rounds.run());
        Self { shared }
    }

    /// Makes changes durable, all or none. They are queued when this is called, in that order, whether or not the
    /// result is awaited.
    pub fn put(&self, changes: Vec<Change>) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let (done, result) = oneshot::channel();
        self.shared.lock().puts.push(Put { changes, done });
        self.shared.wake.notify_one();
        async { result.await.unwrap_or_else(|_| Err(ended("the flusher is gone"))) }
    }

    /// Asks for a round that begins after this call. Asking again before it begins is free. The source is called
    /// from the loop, never from here.
    pub fn mark_dirty(&self, source: Arc<dyn FlushSource>) {
        let key = (source.group(), Arc::as_ptr(&source).cast::<()>() as usize);
        let mut queue = self.shared.lock();
        if queue.queued.insert(key) {
            queue.sources.push(source);
            drop(queue);
            self.shared.wake.notify_one();
        }
    }

    /// Runs a last round that journals every durable point, and the facts in `last` behind them; then gives the
    /// lock free. Whatever is asked for later fails.
    pub async fn stop(&self, last: Vec<Change>) -> io::Result<()> {
        let put = self.put(last);
        let (sender, stopped) = oneshot::channel();
        self.shared.lock().stop = Some(sender);
        self.shared.wake.notify_one();
        put.await?;
        stopped.await.unwrap_or_else(|_| Err(ended("the flusher is gone")))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

fn ended(why: &str) -> io::Error {
    io::Error::other(why)
}

/// The loop's own state.
struct Rounds {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    journal: Journal,
    /// Durable points not yet journalled.
    points: BTreeMap<GroupId, Bytes>,
    round_ended_at: Instant,
    /// Why nothing is written any more; everyone who still asks is told so.
    ended: Option<String>,
    lock: Option<Box<dyn LockGuard>>,
}

impl Rounds {
    async fn run(mut self) {
        while self.wait().await {
            // Those whom the last round completed get the chance to join this one, instead of waiting
            // for it and the next.
            tokio::task::yield_now().await;
            let (puts, sources, stop) = {
                let mut queue = self.shared.lock();
                queue.queued.clear();
                (std::mem::take(&mut queue.puts), std::mem::take(&mut queue.sources), queue.stop.take())
            };
            if let Some(why) = &self.ended {
                refuse(why, puts, sources);
            } else if stop.is_some() {
                // Whoever reads the last puts may rely on what the logs synced before.
                self.round(Vec::new(), sources).await;
                self.round(puts, Vec::new()).await;
            } else {
                self.round(puts, sources).await;
            }
            if let Some(stop) = stop {
                let result = self.ended.as_deref().map_or(Ok(()), |why| Err(ended(why)));
                self.ended.get_or_insert_with(|| "the data directory is closed".into());
                self.lock = None;
                // Whoever asked may have gone.
                let _ = stop.send(result);
            }
        }
    }

    /// Waits until a round has something to do; false when the handle is gone.
    async fn wait(&self) -> bool {
        loop {
            {
                let queue = self.shared.lock();
                if queue.has_work() || queue.stop.is_some() {
                    return true;
                }
                if queue.closed {
                    return false;
                }
            }
            if self.points.is_empty() || self.ended.is_some() {
                self.shared.wake.notified().await;
            } else {
                let due = self.round_ended_at + POINT_INTERVAL;
                if tokio::time::timeout_at(due, self.shared.wake.notified()).await.is_err() {
                    return true;
                }
            }
        }
    }

    async fn round(&mut self, puts: Vec<Put>, sources: Vec<Arc<dyn FlushSource>>) {
        let rounds: Vec<_> = sources.iter().map(|source| source.begin_round()).collect();
        let changes = self.changes(&puts);
        let journal = async { if changes.is_empty() { Ok(()) } else { self.journal.append(&changes).await } };
        let disk = &self.disk;
        let syncs = future::join_all(rounds.iter().map(|round| sync(disk, round)));
        let (journalled, synced) = future::join(journal, syncs).await;
        self.journalled(&changes, &journalled);

        let failed = self.ended.clone();
        let removed = removed_groups(&puts);
        for ((source, round), result) in sources.into_iter().zip(rounds).zip(synced) {
            let result = match &failed {
                Some(why) => Err(ended(why)),
                None => result,
            };
            if result.is_ok() && !round.durable_point.is_empty() && !removed.contains(&source.group()) {
                self.points.insert(source.group(), round.durable_point);
            }
            source.end_round(result);
        }
        for put in puts {
            let _ = put.done.send(copy(&journalled));
        }
        self.round_ended_at = Instant::now();
    }

    /// What this round journals: points first, for a put of the same fact is younger.
    fn changes(&self, puts: &[Put]) -> Vec<Change> {
        let points = self.points.iter().map(|(group, value)| Change::Put {
            group: Some(*group),
            kind: fact::DURABLE_POINT,
            value: value.clone(),
        });
        points.chain(puts.iter().flat_map(|put| put.changes.iter().cloned())).collect()
    }

    /// Keeps the points for a later round if this one could not journal them.
    fn journalled(&mut self, changes: &[Change], result: &io::Result<()>) {
        if changes.is_empty() {
            return;
        }
        match result {
            Ok(()) => self.points.clear(),
            Err(error) if self.journal.is_failed() => {
                tracing::error!(%error, "the journal failed; this broker stores nothing any more");
                self.ended = Some(error.to_string());
            }
            Err(error) => tracing::warn!(%error, "no space for the journal"),
        }
    }
}

/// Syncs all that a log names, at once.
async fn sync(disk: &Arc<dyn Disk>, round: &FlushRound) -> io::Result<()> {
    let files = future::try_join_all(round.files.iter().map(|file| file.sync_data()));
    let directories = future::try_join_all(round.directories.iter().map(|path| disk.sync_dir(path)));
    future::try_join(files, directories).await?;
    Ok(())
}

fn removed_groups(puts: &[Put]) -> BTreeSet<GroupId> {
    let removed = |change: &Change| match change {
        Change::RemoveGroup(group) => Some(*group),
        Change::Put { .. } => None,
    };
    puts.iter().flat_map(|put| put.changes.iter().filter_map(removed)).collect()
}

fn refuse(why: &str, puts: Vec<Put>, sources: Vec<Arc<dyn FlushSource>>) {
    for source in sources {
        drop(source.begin_round());
        source.end_round(Err(ended(why)));
    }
    for put in puts {
        let _ = put.done.send(Err(ended(why)));
    }
}

/// An error for each of several waiters.
fn copy(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}
