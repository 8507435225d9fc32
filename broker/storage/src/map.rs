//! Read-only maps of files: the only unsafe code of the workspace.
//!
//! A file's whole address space is mapped once and slices of it are handed out as [`Bytes`]. Three rules,
//! kept by [`crate::disk::RealDisk`] and its callers, make that sound: a slice never reaches beyond the
//! file's length (else SIGBUS); the bytes below it were written before and are never written again (else a
//! `&[u8]` that changes); no file is cut below a slice that is held. No `&[u8]` is ever made of the whole map.
//! What remains is a device that fails between the residency check and the touch: SIGBUS, which is a fail stop.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::disk::pool::Pool;

/// Granularity at which residency is asked for.
const PAGE_BYTES: usize = 4096;

/// The address space of one file, mapped for reading.
pub struct Map {
    /// `None` only while being dropped.
    raw: Option<MmapRaw>,
    /// Unmaps: giving back a gigabyte costs milliseconds, and the last slice may drop on an async worker.
    reaper: Arc<Pool>,
}

impl Map {
    /// Maps `bytes` (more than the file may hold yet) from the beginning of `file`.
    pub fn new(file: &File, bytes: u64, reaper: Arc<Pool>) -> io::Result<Arc<Self>> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let raw = MmapOptions::new().len(bytes).map_raw_read_only(file)?;
        // A core dump of records helps nobody and may be as large as the page cache.
        raw.advise(Advice::DontDump)?;
        Ok(Arc::new(Self { raw: Some(raw), reaper }))
    }

    /// Bytes of a range that lies within the file's length and is never written again.
    pub fn slice(self: &Arc<Self>, range: Range<u64>) -> io::Result<Bytes> {
        let (start, len) = self.check(&range)?;
        Ok(Bytes::from_owner(Slice { map: Arc::clone(self), start, len }))
    }

    /// Whether every page of the range is in memory.
    pub fn is_resident(&self, range: &Range<u64>) -> bool {
        let (Ok((start, len)), Some(raw)) = (self.check(range), &self.raw) else {
            return false;
        };
        let first = start - start % PAGE_BYTES;
        let mut pages = vec![0u8; (start + len - first).div_ceil(PAGE_BYTES)];
        // SAFETY: the range lies within the map (checked), the address is page-aligned because a map is, and
        // the vector has one byte for each page. mincore only reads the page tables.
        let result = unsafe {
            libc::mincore(raw.as_mut_ptr().add(first).cast(), start + len - first, pages.as_mut_ptr())
        };
        result == 0 && pages.iter().all(|page| page & 1 == 1)
    }

    /// Faults a range in; the calling thread waits for the device. A range beyond the file's length is
    /// an error (EFAULT), not a signal.
    pub fn populate(&self, range: &Range<u64>) -> io::Result<()> {
        let (start, len) = self.check(range)?;
        self.raw()?.advise_range(Advice::PopulateRead, start, len)
    }

    fn raw(&self) -> io::Result<&MmapRaw> {
        self.raw.as_ref().ok_or_else(|| io::Error::other("map is closed"))
    }

    /// Start and length of a range that the map covers.
    fn check(&self, range: &Range<u64>) -> io::Result<(usize, usize)> {
        if range.start > range.end || range.end > self.raw()?.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((range.start as usize, (range.end - range.start) as usize))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.reaper.spawn(move || drop(raw));
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("bytes", &self.raw.as_ref().map(MmapRaw::len)).finish()
    }
}

/// Owner of one handed-out range.
struct Slice {
    map: Arc<Map>,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        let Some(raw) = &self.map.raw else {
            return &[];
        };
        // SAFETY: the range lies within the map (checked by `Map::slice`), which lives as long as `self`; by
        // the module's rules it also lies within the file and nobody writes to it any more.
        unsafe { std::slice::from_raw_parts(raw.as_ptr().add(self.start), self.len) }
    }
}
