//! The file system of the machine.
//!
//! Appends are `pwritev` on the caller's thread: they end in the page cache. Whatever waits for the device
//! (syncs, faulting in cold ranges, unmapping) runs on the pools. Reads come from a read-only map of the whole
//! file, made once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::handles::{Handle, Handles};
use super::pool::Pool;
use super::{Disk, DiskFile, LockGuard, Space};
use crate::map::Map;

/// Syncs in flight at once. Devices merge concurrent flushes; more threads than that gain nothing.
const SYNC_THREADS: usize = 16;
/// Cold reads in flight at once.
const READ_THREADS: usize = 8;
/// Linux takes at most this many parts in one write.
const PARTS_MAX: usize = 1024;

/// [`Disk`] on rustix and memmap2.
#[derive(Debug)]
pub struct RealDisk {
    pools: Pools,
    pub(super) handles: Arc<Handles>,
}

#[derive(Debug, Clone)]
struct Pools {
    sync: Arc<Pool>,
    /// Cold reads and unmapping: apart from the syncs, which must not wait behind them.
    read: Arc<Pool>,
}

impl RealDisk {
    #[must_use]
    pub fn new() -> Self {
        Self::with_handles(Handles::within_limit())
    }

    pub(super) fn with_handles(handles: Handles) -> Self {
        let sync = Arc::new(Pool::new("disk-sync", SYNC_THREADS));
        let read = Arc::new(Pool::new("disk-read", READ_THREADS));
        Self { pools: Pools { sync, read }, handles: Arc::new(handles) }
    }

    fn file(&self, path: &Path, options: &OpenOptions, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.handles.open(options, path)?;
        let len = AtomicU64::new(file.metadata()?.len());
        let (handles, reaper) = (Arc::clone(&self.handles), Arc::clone(&self.pools.read));
        let handle = Handle::new(path.to_owned(), file, map_bytes, handles, reaper);
        Ok(Arc::new(RealFile { handle, len, pools: self.pools.clone() }))
    }
}

impl Default for RealDisk {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Disk for RealDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        let mut names = fs::read_dir(path)?.map(name).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path, OpenOptions::new().read(true).write(true).create_new(true), map_bytes)
    }

    fn open(&self, path: &Path, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.file(path, OpenOptions::new().read(true).write(true), map_bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let directory = File::open(path)?;
        self.pools.sync.run(move || Ok(rustix::fs::fsync(&directory)?)).await
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(FileLock { _file: file }))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space { free_bytes: stat.f_bavail * stat.f_frsize, total_bytes: stat.f_blocks * stat.f_frsize })
    }
}

/// The kernel drops the lock with the last handle of the file, so also when the process is killed.
#[derive(Debug)]
struct FileLock {
    _file: File,
}

impl LockGuard for FileLock {}

#[derive(Debug)]
struct RealFile {
    handle: Arc<Handle>,
    len: AtomicU64,
    pools: Pools,
}

impl RealFile {
    fn map(&self) -> io::Result<&Arc<Map>> {
        self.handle.map(self.len()).map_err(|error| self.name(error))
    }

    fn change<T>(&self, change: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        self.handle.file().and_then(|file| change(&file)).map_err(|error| self.name(error))
    }

    fn check(&self, range: &Range<u64>) -> io::Result<()> {
        if range.start > range.end || range.end > self.len() {
            let detail = format!("{range:?} of {} bytes", self.len());
            return Err(self.name(io::Error::new(io::ErrorKind::UnexpectedEof, detail)));
        }
        Ok(())
    }

    /// Adds the path, which the operating system leaves out.
    fn name(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.handle.path().display()))
    }
}

#[async_trait]
impl DiskFile for RealFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        let end = self.change(|file| write_all(file, offset, parts))?;
        self.len.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old = self.len();
        if len <= old {
            return Ok(());
        }
        self.change(|file| reserve(file, old, len))?;
        self.len.fetch_max(len, Ordering::AcqRel);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| Ok(rustix::fs::ftruncate(file, len)?))?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.check(&range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.map()?.slice(range)
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        range.is_empty() || self.map().is_ok_and(|map| map.is_resident(&range))
    }

    async fn populate(&self, range: Range<u64>) -> io::Result<()> {
        self.check(&range)?;
        if range.is_empty() {
            return Ok(());
        }
        let map = Arc::clone(self.map()?);
        let populated = self.pools.read.run(move || map.populate(&range)).await;
        populated.map_err(|error| self.name(error))
    }

    async fn sync_data(&self) -> io::Result<()> {
        let handle = Arc::clone(&self.handle);
        let synced = self.pools.sync.run(move || Ok(rustix::fs::fdatasync(&*handle.file()?)?)).await;
        synced.map_err(|error| self.name(error))
    }
}

/// Makes a file of `old` bytes longer, by bytes that cannot run out of space any more.
fn reserve(file: &File, old: u64, len: u64) -> io::Result<()> {
    let reserved = loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), old, len - old) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => break fill(file, old, len),
            other => break other.map_err(io::Error::from),
        }
    };
    reserved.inspect_err(|_| {
        // What was reserved before the space ran out is given back; if even that fails, it is merely spare.
        let _ = rustix::fs::ftruncate(file, old);
    })
}

/// Zeros where the file system has no fallocate: written bytes are reserved too.
fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let part = &ZEROS[..ZEROS.len().min((to - at) as usize)];
        write_all(file, at, &[io::IoSlice::new(part)])?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Writes all parts and returns where they end.
fn write_all(file: &File, mut offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<u64> {
    let end = offset + parts.iter().map(|part| part.len() as u64).sum::<u64>();
    // Nearly every write is complete at the first call; only then is no copy of the parts needed.
    let mut written = write_some(file, offset, parts)?;
    if offset + written as u64 == end {
        return Ok(end);
    }
    let mut parts = parts.to_vec();
    let mut rest = parts.as_mut_slice();
    loop {
        io::IoSlice::advance_slices(&mut rest, written);
        offset += written as u64;
        if offset == end {
            return Ok(end);
        }
        written = write_some(file, offset, rest)?;
    }
}

/// One system call's worth, at least one byte unless there is none.
fn write_some(file: &File, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let parts = &parts[..parts.len().min(PARTS_MAX)];
    loop {
        match rustix::io::pwritev(file, parts, offset) {
            Ok(0) if parts.iter().any(|part| !part.is_empty()) => {
                return Err(io::ErrorKind::WriteZero.into());
            }
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
