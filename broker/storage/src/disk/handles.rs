//! Open handles of files: a broker has more files than the system lets it keep open, so those that nobody used for a
//! while are closed, and opened again by their name when they are needed (second chance: Corbató, "A Paging Experiment
//! with the Multics System", 1968).
//!
//! Invariants: a handle with unsynced writes stays open, since only who has a file open is sure to hear of a failed
//! write; a file that is closed is mapped, so that what readers hold of it outlives its name. What it must not do: refuse a
//! file because others are open, that is the system's to say.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::process::{Resource, getrlimit};

use super::pool::Pool;
use crate::map::Map;

/// Of what the process may open; the rest is for connections.
const SHARE: (u64, u64) = (3, 4);
/// Files looked at to find one that may be closed.
const LOOKS_MAX: usize = 16;

/// The files that are open, in the order in which they are to be looked at.
#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    ring: Mutex<VecDeque<Weak<Handle>>>,
}

impl Handles {
    /// As many as the limit of the process allows when this is called.
    pub(super) fn within_limit() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::new(usize::try_from(limit / SHARE.1 * SHARE.0).unwrap_or(usize::MAX))
    }

    pub(super) fn new(max: usize) -> Self {
        Self { max, ring: Mutex::default() }
    }

    /// Takes note of a handle that was opened, and closes others if there are too many.
    fn opened(&self, handle: Weak<Handle>) {
        let mut ring = lock(&self.ring);
        ring.push_back(handle);
        for _ in 0..LOOKS_MAX {
            if ring.len() <= self.max {
                return;
            }
            let Some(oldest) = ring.pop_front() else { return };
            if oldest.upgrade().is_some_and(|handle| !handle.close_if_idle()) {
                ring.push_back(oldest);
            }
        }
    }
}

/// One file, open or not.
#[derive(Debug)]
pub(super) struct Handle {
    path: PathBuf,
    map_bytes: u64,
    file: Mutex<Option<Arc<File>>>,
    map: OnceLock<Arc<Map>>,
    /// Used since the last look.
    used: AtomicBool,
    /// Written to since the last sync that succeeded.
    unsynced: AtomicBool,
    handles: Arc<Handles>,
    reaper: Arc<Pool>,
}

impl Handle {
    /// Of a file just opened. `map_bytes`: the longest that it will be.
    pub(super) fn new(
        path: PathBuf,
        file: File,
        map_bytes: u64,
        handles: Arc<Handles>,
        reaper: Arc<Pool>,
    ) -> Arc<Self> {
        let handle = Arc::new(Self {
            path,
            map_bytes,
            file: Mutex::new(Some(Arc::new(file))),
            map: OnceLock::new(),
            used: AtomicBool::new(true),
            unsynced: AtomicBool::new(false),
            handles: Arc::clone(&handles),
            reaper,
        });
        handles.opened(Arc::downgrade(&handle));
        handle
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The file, to read or to sync it.
    pub(super) fn file(self: &Arc<Self>) -> io::Result<Arc<File>> {
        self.used.store(true, Ordering::Relaxed);
        let mut open = lock(&self.file);
        if let Some(file) = &*open {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&self.path)?);
        *open = Some(Arc::clone(&file));
        drop(open);
        self.handles.opened(Arc::downgrade(self));
        Ok(file)
    }

    /// Changes the file, which stays open until a sync that begins after that.
    pub(super) fn write<T>(self: &Arc<Self>, change: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        // Before the file is asked for, so that it isn't closed between; and after, for a sync that ended between.
        self.unsynced.store(true, Ordering::SeqCst);
        let changed = change(&*self.file()?);
        self.unsynced.store(true, Ordering::SeqCst);
        changed
    }

    /// What was written before `sync` is durable if it succeeds, and the file may be closed.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.unsynced.store(false, Ordering::SeqCst);
        Ok(rustix::fs::fdatasync(file).inspect_err(|_| self.unsynced.store(true, Ordering::SeqCst))?)
    }

    /// The map of the file, for at least `len` bytes at its making.
    pub(super) fn map(self: &Arc<Self>, len: u64) -> io::Result<&Arc<Map>> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => self.map_of(&*self.file()?, len),
        }
    }

    fn map_of(&self, file: &File, len: u64) -> io::Result<&Arc<Map>> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = Map::new(file, self.map_bytes.max(len), Arc::clone(&self.reaper))?;
        // Of two first readers one wins; the other's map is dropped again.
        Ok(self.map.get_or_init(|| map))
    }

    /// Whether it is closed now.
    fn close_if_idle(&self) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut open = lock(&self.file);
        let Some(file) = &*open else { return true };
        if self.unsynced.load(Ordering::SeqCst) || !self.is_mapped(file) {
            return false;
        }
        *open = None;
        true
    }

    fn is_mapped(&self, file: &File) -> bool {
        file.metadata().and_then(|metadata| self.map_of(file, metadata.len()).map(|_| ())).is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;

    use super::super::{Disk, RealDisk};

    /// Handles of this process on files below a directory.
    fn open_below(directory: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        targets.filter(|target| target.starts_with(directory)).count()
    }

    #[tokio::test]
    async fn no_more_files_are_open_than_allowed_and_all_of_them_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::with_open_files(4);
        let path = |n: usize| directory.path().join(n.to_string());
        let mut files = Vec::new();
        for n in 0..20 {
            let file = disk.create(&path(n), 1 << 20).unwrap();
            file.write_at(0, &[IoSlice::new(n.to_string().as_bytes())]).unwrap();
            file.sync_data().await.unwrap();
            files.push(file);
        }
        assert!(open_below(directory.path()) <= 4);
        for (n, file) in files.iter().enumerate() {
            file.write_at(file.len(), &[IoSlice::new(b" again")]).unwrap();
            file.sync_data().await.unwrap();
            assert_eq!(&file.read(0..file.len()).unwrap()[..], format!("{n} again").as_bytes());
        }
        assert!(open_below(directory.path()) <= 4);
        let removed = &files[0];
        disk.remove_file(&path(0)).unwrap();
        assert_eq!(&removed.read(0..7).unwrap()[..], b"0 again", "readers may still hold a closed segment");
    }

    #[tokio::test]
    async fn a_file_with_unsynced_writes_stays_open() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::with_open_files(2);
        let create = |n: usize| {
            let file = disk.create(&directory.path().join(n.to_string()), 4_096).unwrap();
            file.write_at(0, &[IoSlice::new(b"unsynced")]).unwrap();
            file
        };
        let files: Vec<_> = (0..8).map(create).collect();
        assert_eq!(open_below(directory.path()), 8);
        for file in &files {
            file.sync_data().await.unwrap();
        }
        let _one_more = create(8);
        assert!(open_below(directory.path()) <= 3, "they are closed once they are synced");
    }
}
