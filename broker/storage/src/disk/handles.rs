//! Open handles of files: a broker has more files than the system lets it keep open, so those that nobody used for a
//! while are closed, and opened again by their name when they are needed (second chance: Corbató, "A Paging Experiment
//! with the Multics System", 1968).
//!
//! Invariant: a file that is closed is mapped, which keeps its inode: what readers hold of it outlives its name, and a
//! write that failed while nobody had it open is told to the next sync all the same (Linux 4.17, `errseq_sample`).
//! What it must not do: refuse a file because others are open, that is the system's to say.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::pool::Pool;
use crate::map::Map;

/// Half of what the process may open is for files, the rest for connections.
const SHARE: u64 = 2;
/// Files looked at to find one that may be closed.
const LOOKS_MAX: usize = 16;

/// The files that are open, in the order in which they are to be looked at.
#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    ring: Mutex<VecDeque<Weak<Handle>>>,
    /// Handles that were dropped since the ring was last cleared of them.
    dropped: AtomicUsize,
}

impl Handles {
    /// As many as the limit of the process allows when this is called.
    pub(super) fn within_limit() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::new(usize::try_from(limit / SHARE).unwrap_or(usize::MAX))
    }

    pub(super) fn new(max: usize) -> Self {
        Self { max, ring: Mutex::default(), dropped: AtomicUsize::new(0) }
    }

    /// Opens a file, and closes others if the system would open no more.
    pub(super) fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<File> {
        loop {
            let opened = options.open(path);
            let too_many = |error: &io::Error| {
                let errno = error.raw_os_error();
                errno == Some(Errno::MFILE.raw_os_error()) || errno == Some(Errno::NFILE.raw_os_error())
            };
            match opened {
                Err(error) if too_many(&error) && self.close_some() => {}
                opened => return opened,
            }
        }
    }

    /// Takes note of a handle that was opened, and closes others if there are too many.
    fn opened(&self, handle: Weak<Handle>) {
        let mut ring = lock(&self.ring);
        if self.dropped.load(Ordering::Relaxed) > ring.len() / 2 {
            self.dropped.store(0, Ordering::Relaxed);
            ring.retain(|handle| handle.strong_count() > 0);
        }
        ring.push_back(handle);
        for _ in 0..LOOKS_MAX {
            if ring.len() <= self.max {
                return;
            }
            close_oldest(&mut ring);
        }
    }

    /// Whether any was closed, of all that are open.
    fn close_some(&self) -> bool {
        let mut ring = lock(&self.ring);
        let before = ring.len();
        // Twice around: those that were used count as unused the second time.
        for _ in 0..2 * before {
            close_oldest(&mut ring);
            if ring.len() + LOOKS_MAX <= before {
                break;
            }
        }
        ring.len() < before
    }
}

/// Looks at the handle at the front, which is gone from the ring if it is closed then.
fn close_oldest(ring: &mut VecDeque<Weak<Handle>>) {
    let Some(oldest) = ring.pop_front() else { return };
    if oldest.upgrade().is_some_and(|handle| !handle.close_if_idle()) {
        ring.push_back(oldest);
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
            handles: Arc::clone(&handles),
            reaper,
        });
        handles.opened(Arc::downgrade(&handle));
        handle
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file; it stays open for as long as it is held.
    pub(super) fn file(self: &Arc<Self>) -> io::Result<Arc<File>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(file) = &*lock(&self.file) {
            return Ok(Arc::clone(file));
        }
        // Not under the lock, which is taken with the ring locked.
        let file = Arc::new(self.handles.open(OpenOptions::new().read(true).write(true), &self.path)?);
        let mut open = lock(&self.file);
        if let Some(first) = &*open {
            return Ok(Arc::clone(first));
        }
        *open = Some(Arc::clone(&file));
        drop(open);
        self.handles.opened(Arc::downgrade(self));
        Ok(file)
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
        // Whoever holds it writes or syncs.
        if Arc::strong_count(file) > 1 || !self.is_mapped(file) {
            return false;
        }
        *open = None;
        true
    }

    fn is_mapped(&self, file: &File) -> bool {
        file.metadata().and_then(|metadata| self.map_of(file, metadata.len()).map(|_| ())).is_ok()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.handles.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::IoSlice;

    use super::super::{Disk, RealDisk};
    use super::*;

    /// Handles of this process on files below a directory.
    fn open_below(directory: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        targets.filter(|target| target.starts_with(directory)).count()
    }

    #[tokio::test]
    async fn no_more_files_are_open_than_allowed_and_all_of_them_can_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::with_handles(Handles::new(4));
        let path = |n: usize| directory.path().join(n.to_string());
        let mut files = Vec::new();
        for n in 0..20 {
            let file = disk.create(&path(n), 1 << 20).unwrap();
            file.write_at(0, &[IoSlice::new(n.to_string().as_bytes())]).unwrap();
            files.push(file);
        }
        assert!(open_below(directory.path()) <= 4);
        for (n, file) in files.iter().enumerate() {
            file.write_at(file.len(), &[IoSlice::new(b" again")]).unwrap();
            file.sync_data().await.unwrap();
            assert_eq!(&file.read(0..file.len()).unwrap()[..], format!("{n} again").as_bytes());
        }
        assert!(open_below(directory.path()) <= 4);
        disk.remove_file(&path(0)).unwrap();
        assert_eq!(&files[0].read(0..7).unwrap()[..], b"0 again", "readers may still hold a closed segment");
    }

    #[test]
    fn files_that_are_gone_are_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::with_handles(Handles::new(100));
        let kept = disk.create(&directory.path().join("kept"), 4_096).unwrap();
        for n in 0..1_000 {
            drop(disk.create(&directory.path().join(n.to_string()), 4_096).unwrap());
        }
        assert!(lock(&disk.handles.ring).len() < 10);
        assert_eq!((open_below(directory.path()), kept.len()), (1, 0));
    }

    #[test]
    fn room_is_made_by_closing_what_is_not_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::with_handles(Handles::new(100));
        assert!(!disk.handles.close_some(), "there is none");
        let create = |n: usize| disk.create(&directory.path().join(n.to_string()), 4_096).unwrap();
        let _files: Vec<_> = (0..40).map(create).collect();
        assert!(disk.handles.close_some());
        assert_eq!(open_below(directory.path()), 40 - LOOKS_MAX);
    }
}
