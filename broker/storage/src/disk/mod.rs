//! The seam between Headwater and the disk.
//!
//! Everything durable goes through [`Disk`], so that the whole broker runs on a simulated one.
//! Invariants: a write is visible to `read` on return and durable only once a `sync_data` that
//! began after it has returned; a new, renamed or removed name is durable only once its directory was
//! synced. Bytes handed out by `read` never change: callers read only ranges that nobody writes again.

mod handles;
mod offline;
pub(crate) mod pool;
mod real;
pub mod sim;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::offline::OfflineDisk;
pub use self::real::RealDisk;
pub use self::sim::SimDisk;

/// Held as long as a data directory is in use; dropping it gives the directory free.
pub trait LockGuard: Send + Sync + Debug {}

/// Bytes on the file system that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// A file system, real or simulated. Paths are absolute or relative to the working directory.
#[async_trait]
pub trait Disk: Send + Sync + Debug + 'static {
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names of the entries of a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Creates a file that must not exist. `map_bytes` is the largest length it will ever have: that
    /// much address space is mapped, once, at the first read.
    fn create(&self, path: &Path, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing. `map_bytes` as in [`Disk::create`].
    fn open(&self, path: &Path, map_bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name; slices of the file that are still held stay readable.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    async fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes the exclusive lock file at `path`; `WouldBlock` when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;

    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// An open file of a [`Disk`].
#[async_trait]
pub trait DiskFile: Send + Sync + Debug + 'static {
    /// Length in bytes, what was allocated ahead of the writer included.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all parts one after the other at `offset`; an error leaves any part of them written.
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()>;

    /// Grows the file to `len` zero bytes that are reserved, so that writing them cannot run out of space.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts the unwritten tail. No slice of the bytes beyond `len` may be held.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Bytes of a written range, mapped where the disk can; `UnexpectedEof` beyond the length.
    fn read(&self, range: Range<u64>) -> io::Result<Bytes>;

    /// Whether reading the range would not wait for the device.
    fn is_resident(&self, range: Range<u64>) -> bool;

    /// Brings a range into memory, off the caller's thread.
    async fn populate(&self, range: Range<u64>) -> io::Result<()>;

    /// Makes every write that returned before this call durable, and the length with it.
    async fn sync_data(&self) -> io::Result<()>;
}
