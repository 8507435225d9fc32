//! Files of another process, for reading only.
//!
//! Invariants: nothing is created, changed or locked; nothing is mapped, since a broker that runs may cut a file at any
//! moment (a map of it would end in SIGBUS) or write it over: what is read is a copy.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Disk, DiskFile, LockGuard, Space};

/// See the module. Everything that would write is refused as `Unsupported`.
#[derive(Debug, Clone, Copy, Default)]
pub struct OfflineDisk;

#[derive(Debug)]
struct OfflineFile(File);

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

#[async_trait]
impl Disk for OfflineDisk {
    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, _path: &Path, _map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        refused()
    }

    fn open(&self, path: &Path, _map_bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OfflineFile(File::open(path)?)))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_file(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_dir_all(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    async fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn lock(&self, _path: &Path) -> io::Result<Box<dyn LockGuard>> {
        refused()
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        refused()
    }
}

#[async_trait]
impl DiskFile for OfflineFile {
    /// As it is now; 0 for a file that cannot be asked.
    fn len(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    fn write_at(&self, _offset: u64, _parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        refused()
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        refused()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        refused()
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        // Before memory is taken: a length from a damaged header may be anything.
        if range.end > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = range.end.saturating_sub(range.start);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.0.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    fn is_resident(&self, _range: Range<u64>) -> bool {
        false
    }

    async fn populate(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        refused()
    }
}
