//! A disk in memory that forgets, tears and fails as a real one may, reproducibly from a seed.
//!
//! It outlives the broker that uses it: a harness holds the `Arc`, cuts the power at any operation
//! ([`SimDisk::die_after`], [`SimDisk::power_cut`]) or kills the process ([`SimDisk::kill_process`]), and
//! starts the next broker on what is left. Handles of an earlier life fail from then on. Needs a tokio
//! runtime for the latency of syncs, and no other clock. Not simulated: hard links, renamed directories, modes.

mod content;
mod file;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use self::content::Content;
pub use self::content::SECTOR_BYTES;
use self::file::SimFile;
use self::names::Names;
use super::{Disk, DiskFile, LockGuard, Space};

/// Size of the disk unless told otherwise.
const TOTAL_BYTES: u64 = 1 << 40;

/// What is in memory or not as a whole.
const PAGE_BYTES: u64 = 4096;

/// A simulated [`Disk`].
#[derive(Debug)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    dead: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    names: Names,
    locks: BTreeSet<PathBuf>,
    /// Handles of an earlier life are refused.
    life: u64,
    operations: u64,
    bytes_written: u64,
    die_after: Option<u64>,
    used_bytes: u64,
    total_bytes: u64,
    sync_latency: Duration,
    failing_syncs: Option<String>,
    stalled_syncs: Option<(String, Duration)>,
}

/// A file behind its names and handles.
#[derive(Debug)]
pub struct Inode {
    content: Mutex<Content>,
    evicted: Mutex<Evicted>,
}

/// What of a file is not in memory until it is populated.
#[derive(Debug, Default)]
struct Evicted {
    /// After a power cut, until anything is read in.
    all: bool,
    /// Numbers of pages.
    pages: BTreeSet<u64>,
}

impl Inode {
    fn new(content: Content, resident: bool) -> Arc<Self> {
        let evicted = Evicted { all: !resident, pages: BTreeSet::new() };
        Arc::new(Self { content: Mutex::new(content), evicted: Mutex::new(evicted) })
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evicted(&self) -> MutexGuard<'_, Evicted> {
        self.evicted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        let evicted = self.evicted();
        !evicted.all && evicted.pages.range(pages(&range)).next().is_none()
    }

    fn populate(&self, range: Range<u64>) {
        let mut evicted = self.evicted();
        evicted.all = false;
        evicted.pages.retain(|page| !pages(&range).contains(page));
    }
}

fn pages(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}

impl SimDisk {
    /// An empty disk. Everything random about it follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            names: Names::default(),
            locks: BTreeSet::new(),
            life: 0,
            operations: 0,
            bytes_written: 0,
            die_after: None,
            used_bytes: 0,
            total_bytes: TOTAL_BYTES,
            sync_latency: Duration::ZERO,
            failing_syncs: None,
            stalled_syncs: None,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), dead: watch::Sender::new(false) }) }
    }

    /// The power goes and comes back: any subset of what was not synced is lost or torn, in any order. Faults
    /// and the death set for an operation are over, a lock is free, handles of before fail.
    pub fn power_cut(&self) {
        let mut state = self.shared.lock();
        let State { names, rng, .. } = &mut *state;
        let mut left = names.after_power_cut(rng);
        left.replace_files(|_, inode| Inode::new(inode.content().after_power_cut(rng), false));
        state.used_bytes = left.files().map(|(_, inode)| inode.content().len()).sum();
        state.names = left;
        self.next_life(state);
    }

    /// The process dies, the machine lives: what was written stays, synced or not.
    pub fn kill_process(&self) {
        self.next_life(self.shared.lock());
    }

    fn next_life(&self, mut state: MutexGuard<'_, State>) {
        state.life += 1;
        state.locks.clear();
        state.die_after = None;
        state.failing_syncs = None;
        state.stalled_syncs = None;
        drop(state);
        self.shared.dead.send_replace(false);
    }

    /// The power fails right after the `operation`-th counted operation (see [`SimDisk::operations`]): it takes
    /// effect as far as an unsynced one does, every later one fails, syncs under way never end.
    /// [`SimDisk::power_cut`] then decides what is left.
    pub fn die_after(&self, operation: u64) {
        let mut state = self.shared.lock();
        state.die_after = Some(operation);
        if state.operations >= operation {
            self.shared.dead.send_replace(true);
        }
    }

    /// Whether the power has failed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        *self.shared.dead.borrow()
    }

    /// Returns once the power has failed.
    pub async fn died(&self) {
        let mut dead = self.shared.dead.subscribe();
        // The sender lives in `self`.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// Operations so far that change the disk or make a change durable: each write, allocation, cut, creation,
    /// rename and removal, and the begin of each sync of a file or directory.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// Bytes handed to `write_at` so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.shared.lock().bytes_written
    }

    /// Paths of all files, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.shared.lock().names.files().map(|(path, _)| path.clone()).collect()
    }

    /// Mean duration of a sync; each takes between half and one and a half times of it.
    pub fn set_sync_latency(&self, mean: Duration) {
        self.shared.lock().sync_latency = mean;
    }

    /// Syncs of files and directories whose path contains `part` fail, and what they should have synced is never
    /// synced (fsyncgate); `None` ends it.
    pub fn fail_syncs(&self, part: Option<&str>) {
        self.shared.lock().failing_syncs = part.map(str::to_owned);
    }

    /// Syncs of files and directories whose path contains `part` take that much longer; `None` ends it.
    pub fn stall_syncs(&self, stall: Option<(&str, Duration)>) {
        self.shared.lock().stalled_syncs = stall.map(|(part, time)| (part.to_owned(), time));
    }

    /// From now on the disk has room for just that many bytes more.
    pub fn set_free_bytes(&self, free: u64) {
        let mut state = self.shared.lock();
        state.total_bytes = state.used_bytes + free;
    }

    /// Rot: flips one bit (0 to 7) of the byte at `position`. It is seen from now on, so the page that
    /// held the byte in memory is gone.
    pub fn flip_bit(&self, path: &Path, position: u64, bit: u8) -> io::Result<()> {
        let inode = Arc::clone(self.shared.lock().names.file(path)?);
        inode.content().flip_bit(position, bit);
        inode.evicted().pages.insert(position / PAGE_BYTES);
        Ok(())
    }

    /// What a file holds, for a look from outside.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inode = Arc::clone(self.shared.lock().names.file(path)?);
        let content = inode.content();
        Ok(content.read(0..content.len()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation that counts, unless the power is off or the caller belongs to an earlier life.
    fn operate(&self, life: Option<u64>) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.alive(life)?;
        state.operations += 1;
        if state.die_after.is_some_and(|last| state.operations >= last) {
            // This one still happens; the next one won't.
            self.dead.send_replace(true);
        }
        Ok(state)
    }

    fn alive(&self, life: Option<u64>) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if *self.dead.borrow() || life.is_some_and(|life| life != state.life) {
            return Err(io::Error::other("the simulated disk has no power"));
        }
        Ok(state)
    }

    /// Waits as long as a sync takes; returns whether it succeeds. Never returns once the power is off.
    async fn sync(&self, path: &Path, life: u64) -> io::Result<()> {
        let (latency, fails) = {
            let mut state = self.lock();
            let path = path.to_string_lossy();
            let stall = state.stalled_syncs.iter().find(|(part, _)| path.contains(part.as_str()));
            let stall = stall.map_or(Duration::ZERO, |(_, time)| *time);
            let fails = state.failing_syncs.as_ref().is_some_and(|part| path.contains(part.as_str()));
            let jitter = state.rng.random_range(0.5..1.5);
            (state.sync_latency.mul_f64(jitter) + stall, fails)
        };
        if latency.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(latency).await;
        }
        if self.alive(Some(life)).is_err() {
            std::future::pending::<()>().await;
        }
        if fails {
            Err(io::Error::other(format!("{}: simulated sync error", path.display())))
        } else {
            Ok(())
        }
    }
}

impl State {
    /// Takes space for a file that grows.
    fn grow(&mut self, from: u64, to: u64) -> io::Result<()> {
        let used = self.used_bytes + to.saturating_sub(from);
        if used > self.total_bytes {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        self.used_bytes = used;
        Ok(())
    }

    fn shrink(&mut self, bytes: u64) {
        self.used_bytes = self.used_bytes.saturating_sub(bytes);
    }
}

#[async_trait]
impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.shared.operate(None)?.names.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.shared.alive(None)?.names.list(path)
    }

    fn create(&self, path: &Path, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let inode = Inode::new(Content::default(), true);
        let mut state = self.shared.operate(None)?;
        state.names.create(path, Arc::clone(&inode))?;
        Ok(SimFile::open(&self.shared, state.life, path, map_bytes, inode))
    }

    fn open(&self, path: &Path, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.shared.alive(None)?;
        let inode = Arc::clone(state.names.file(path)?);
        Ok(SimFile::open(&self.shared, state.life, path, map_bytes, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.operate(None)?.names.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.operate(None)?;
        let bytes = state.names.file(path)?.content().len();
        state.names.remove_file(path)?;
        state.shrink(bytes);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.operate(None)?;
        let below = state.names.files().filter(|(name, _)| name.starts_with(path));
        let bytes = below.map(|(_, inode)| inode.content().len()).sum();
        state.names.remove_dir_all(path)?;
        state.shrink(bytes);
        Ok(())
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let (life, upto) = {
            let state = self.shared.operate(None)?;
            state.names.check_directory(path)?;
            (state.life, state.names.change())
        };
        self.shared.sync(path, life).await?;
        self.shared.lock().names.synced(path, upto);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut state = self.shared.alive(None)?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { shared: Arc::clone(&self.shared), life: state.life, path: path.to_owned() }))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.shared.alive(None)?;
        let free_bytes = state.total_bytes.saturating_sub(state.used_bytes);
        Ok(Space { free_bytes, total_bytes: state.total_bytes })
    }
}

#[derive(Debug)]
struct SimLock {
    shared: Arc<Shared>,
    life: u64,
    path: PathBuf,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        // A lock of an earlier life is gone already; the path may be locked by the next one.
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}
