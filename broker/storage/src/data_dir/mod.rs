//! A broker's data directory: who may open it, what it knows durably of its groups, and their logs.
//!
//! Invariants: one broker at a time, by the lock; **a directory keeps its incarnation for ever**, so that an
//! emptied disk is another one; a group is forgotten in the journal before its files go.
//! It must not know what the facts of the layers above mean.

mod error;
mod layout;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future;
use headwater_proto::types::{GroupId, Incarnation, LogIndex, Term};

pub use self::error::OpenError;
pub use self::layout::FORMAT_VERSION;
use self::layout::{Layout, draw_incarnation};
pub use self::suspects::Suspect;
use self::suspects::Suspects;
use crate::disk::{Disk, Space};
use crate::flusher::Flusher;
use crate::host::{FlushSource, LogHost};
use crate::journal::{Change, SharedFacts};
use crate::log::{Log, LogError, LogOptions};

/// Kind of the fact that makes a group exist in a data directory: [`DataDir::groups`] lists those that have it.
/// Its value belongs to the layer above.
pub const GROUP_CREATED: u8 = 32;

/// Node fact: the incarnation, 16 bytes.
const INCARNATION: u8 = 1;
/// Node fact: the last broker stopped cleanly. Removed before anything else is written.
const CLEAN: u8 = 2;
/// Group fact: the group was deleted, its files perhaps not yet.
const DELETED: u8 = 31;

/// A log that is open, or being opened by whoever holds the lock.
type LogSlot = Arc<tokio::sync::Mutex<Weak<Log>>>;

/// An open data directory.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    layout: Layout,
    incarnation: Incarnation,
    was_clean: bool,
    facts: SharedFacts,
    flusher: Flusher,
    logs: Mutex<BTreeMap<GroupId, LogSlot>>,
    suspects: Suspects,
}

impl DataDir {
    /// Opens a data directory, or makes a new one with an incarnation drawn from `entropy` (two numbers). Call it
    /// on the runtime that is to run the flusher.
    pub async fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        entropy: &mut (dyn FnMut() -> u64 + Send),
    ) -> Result<Arc<Self>, OpenError> {
        let layout = Layout::new(path);
        let lock = layout.lock(&disk)?;
        let drawn = Bytes::copy_from_slice(&draw_incarnation(entropy).0);
        let identity = Change::Put { group: None, kind: INCARNATION, value: drawn };
        let mut journal = layout.open_journal(&disk, &[identity]).await?;

        let facts = journal.facts().clone();
        let incarnation = facts.get(None, INCARNATION).and_then(|value| value.as_ref().try_into().ok());
        let incarnation = incarnation
            .map(Incarnation)
            .ok_or_else(|| layout.error(io::Error::other("the journal has no incarnation")))?;
        let was_clean = facts.get(None, CLEAN).is_some();
        if was_clean {
            let used = Change::Put { group: None, kind: CLEAN, value: Bytes::new() };
            journal.append(&[used]).await.map_err(|error| layout.error(error))?;
        }
        let flusher = Flusher::start(Arc::clone(&disk), journal, lock);
        let (logs, suspects) = (Mutex::default(), Suspects::default());
        let data_dir = Self { disk, layout, incarnation, was_clean, facts, flusher, logs, suspects };
        data_dir.finish_deletions().await.map_err(|error| data_dir.layout.error(error))?;
        Ok(Arc::new(data_dir))
    }

    pub fn path(&self) -> &Path {
        self.layout.root()
    }

    /// Identity of this directory.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether the last broker that used the directory stopped by [`DataDir::flush_clean`].
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// A durable fact of a group, or of the node.
    pub fn get(&self, group: Option<GroupId>, kind: u8) -> Option<Bytes> {
        self.facts.get(group, kind)
    }

    /// All durable facts of a group, or of the node, by kind.
    pub fn facts(&self, group: Option<GroupId>) -> BTreeMap<u8, Bytes> {
        self.facts.of(group)
    }

    /// Makes a fact durable; an empty value removes it. Puts take effect in the order of the calls, awaited or not.
    /// Fails with `StorageFull` (nothing changed, a later put may succeed) or for good.
    pub fn put(
        &self,
        group: Option<GroupId>,
        kind: u8,
        value: Bytes,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        self.put_many(vec![Change::Put { group, kind, value }])
    }

    /// As [`DataDir::put`], all or none.
    pub fn put_many(&self, changes: Vec<Change>) -> impl Future<Output = io::Result<()>> + Send + use<> {
        self.flusher.put(changes)
    }

    /// The groups that have a [`GROUP_CREATED`] fact, in order.
    pub fn groups(&self) -> Vec<GroupId> {
        self.facts.groups_with(GROUP_CREATED)
    }

    /// The log of a group, begun if there is none; the same one as long as anybody holds it.
    pub async fn open_log(
        self: &Arc<Self>,
        group: GroupId,
        options: LogOptions,
    ) -> Result<Arc<Log>, LogError> {
        self.open_log_up_to(group, options, Term(u64::MAX)).await
    }

    /// As [`DataDir::open_log`], of a log that can't hold an entry of a term above `term_max`: what the end of it says
    /// of higher ones was not written there. The term of a batch lies outside its CRC.
    pub async fn open_log_up_to(
        self: &Arc<Self>,
        group: GroupId,
        options: LogOptions,
        term_max: Term,
    ) -> Result<Arc<Log>, LogError> {
        let slot = self.slot(group);
        let mut slot = slot.lock().await;
        // One that stopped writes nothing more, and a reader may hold it for long.
        if let Some(log) = slot.upgrade().filter(|log| log.stopped().is_none()) {
            return Ok(log);
        }
        if self.facts.get(Some(group), DELETED).is_some() {
            return Err(LogError::InvalidRequest("the group was deleted"));
        }
        let host: Arc<dyn LogHost> = Arc::clone(self) as _;
        let log = Log::open(host, group, self.layout.group(group), options, term_max).await?;
        *slot = Arc::downgrade(&log);
        Ok(log)
    }

    /// Forgets all facts of a group durably, then removes its files; a crash in between is made good at the next
    /// start. Nobody may append to its log any more; slices of it stay readable.
    pub async fn delete_group(&self, group: GroupId) -> io::Result<()> {
        let mark = Change::Put { group: Some(group), kind: DELETED, value: Bytes::from_static(&[1]) };
        self.put_many(vec![Change::RemoveGroup(group), mark]).await?;
        self.lock_logs().remove(&group);
        self.remove_files(group).await
    }

    /// The next entry of any log that did not read back as it was written; waits for one. For one caller at a time.
    pub async fn suspected(&self) -> Suspect {
        self.suspects.next().await
    }

    /// Space on the file system of the directory.
    pub fn space(&self) -> io::Result<Space> {
        self.disk.space(self.layout.root())
    }

    /// Clean stop: everything in the open logs durable and vouched for, so that the next start need not look.
    /// Later puts and appends fail; the directory is free.
    pub async fn flush_clean(&self) -> io::Result<()> {
        let slots: Vec<LogSlot> = self.lock_logs().values().cloned().collect();
        let flush = |slot: LogSlot| async move {
            let log = slot.lock().await.upgrade();
            match log {
                Some(log) => log.flush_clean().await,
                None => Ok(()),
            }
        };
        let flushed = future::join_all(slots.into_iter().map(flush)).await;
        // A log that failed is looked through at the next start; the others needn't suffer.
        let clean = flushed.iter().all(Result::is_ok);
        let mark = Change::Put { group: None, kind: CLEAN, value: Bytes::from_static(&[1]) };
        self.flusher.stop(if clean { vec![mark] } else { Vec::new() }).await?;
        flushed.into_iter().collect()
    }

    /// Frees the directory and vouches for nothing: the next start looks at everything. Later puts and appends fail.
    pub async fn abandon(&self) -> io::Result<()> {
        self.flusher.stop(Vec::new()).await
    }

    /// Removes the files of groups that a crash left half deleted.
    async fn finish_deletions(&self) -> io::Result<()> {
        for group in self.facts.groups_with(DELETED) {
            self.remove_files(group).await?;
        }
        Ok(())
    }

    async fn remove_files(&self, group: GroupId) -> io::Result<()> {
        match self.disk.remove_dir_all(&self.layout.group(group)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        // Before the mark goes, or the files could come back.
        self.disk.sync_dir(&self.layout.groups()).await?;
        self.put_many(vec![Change::RemoveGroup(group)]).await
    }

    fn slot(&self, group: GroupId) -> LogSlot {
        Arc::clone(self.lock_logs().entry(group).or_default())
    }

    fn lock_logs(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupId, LogSlot>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDir")
            .field("path", &self.layout.root())
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LogHost for DataDir {
    fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn fact(&self, group: GroupId, kind: u8) -> Option<Bytes> {
        self.facts.get(Some(group), kind)
    }

    async fn put_fact(&self, group: GroupId, kind: u8, value: Bytes) -> io::Result<()> {
        self.put(Some(group), kind, value).await
    }

    fn mark_dirty(&self, source: Arc<dyn FlushSource>) {
        self.flusher.mark_dirty(source);
    }

    fn suspect(&self, group: GroupId, index: LogIndex) {
        self.suspects.add(group, index);
    }
}
