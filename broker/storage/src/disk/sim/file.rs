//! An open file of the simulated disk.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Inode, Shared};
use crate::disk::DiskFile;

/// A handle, good for the life of the disk in which it was opened.
#[derive(Debug)]
pub struct SimFile {
    shared: Arc<Shared>,
    life: u64,
    path: PathBuf,
    map_bytes: u64,
    inode: Arc<Inode>,
}

impl SimFile {
    pub fn open(
        shared: &Arc<Shared>,
        life: u64,
        path: &Path,
        map_bytes: u64,
        inode: Arc<Inode>,
    ) -> Arc<dyn DiskFile> {
        let map_bytes = map_bytes.max(inode.content().len());
        Arc::new(Self { shared: Arc::clone(shared), life, path: path.to_owned(), map_bytes, inode })
    }

    /// As on a real disk, a file that outgrew the map it was opened with can't be read there.
    fn check(&self, range: &Range<u64>) -> io::Result<()> {
        let len = self.inode.content().len();
        if range.start > range.end || range.end > len || range.end > self.map_bytes {
            let detail = format!("{}: {range:?} of {len} bytes", self.path.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, detail));
        }
        Ok(())
    }
}

#[async_trait]
impl DiskFile for SimFile {
    fn len(&self) -> u64 {
        self.inode.content().len()
    }

    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.shared.operate(Some(self.life))?;
        let mut content = self.inode.content();
        let mut at = offset;
        for part in parts {
            state.grow(content.len(), at + part.len() as u64)?;
            content.write(at, part);
            at += part.len() as u64;
        }
        state.bytes_written += at - offset;
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.shared.operate(Some(self.life))?;
        let mut content = self.inode.content();
        if len > content.len() {
            state.grow(content.len(), len)?;
            content.set_len(len);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.shared.operate(Some(self.life))?;
        let mut content = self.inode.content();
        state.grow(content.len(), len)?;
        state.shrink(content.len().saturating_sub(len));
        content.set_len(len);
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let _alive = self.shared.alive(Some(self.life))?;
        self.check(&range)?;
        Ok(self.inode.content().read(range).into())
    }

    fn is_resident(&self, range: Range<u64>) -> bool {
        self.inode.is_resident(range)
    }

    async fn populate(&self, range: Range<u64>) -> io::Result<()> {
        drop(self.read(range.clone())?);
        tokio::task::yield_now().await;
        self.inode.populate(range);
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        let upto = {
            let _state = self.shared.operate(Some(self.life))?;
            self.inode.content().change()
        };
        let result = self.shared.sync(&self.path, self.life).await;
        let mut content = self.inode.content();
        match &result {
            Ok(()) => content.synced(upto),
            Err(_) => content.sync_failed(upto),
        }
        result
    }
}
