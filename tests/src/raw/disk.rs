//! `pwrite` and `fdatasync` on a preallocated file, at full speed and at a fixed rate.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::pwrite;

/// The file starts again from its beginning after this many bytes, so that a run of any length fits a disk.
const FILE_BYTES: u64 = 1 << 30;

/// Bytes written and how long it took.
#[derive(Debug, Clone, Copy)]
pub struct Bandwidth {
    pub bytes: u64,
    pub elapsed: Duration,
}

impl Bandwidth {
    /// Megabytes (10^6 bytes) per second.
    #[must_use]
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }
}

fn preallocated(dir: &Path, name: &str) -> io::Result<File> {
    let path = dir.join(name);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    fallocate(&file, FallocateFlags::empty(), 0, FILE_BYTES)?;
    file.sync_all()?;
    Ok(file)
}

/// Writes `block_bytes` and syncs, one after the other, for `duration`.
pub fn synced_writes(dir: &Path, block_bytes: usize, duration: Duration) -> io::Result<Bandwidth> {
    let mut file = preallocated(dir, "raw-synced")?;
    let block = noise(block_bytes);
    let (mut bytes, mut position) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < duration {
        if position + block_bytes as u64 > FILE_BYTES {
            // A fresh file rather than the old blocks again: those would be faster than any log's.
            file = preallocated(dir, "raw-synced")?;
            position = 0;
        }
        write_all(&file, &block, position)?;
        fdatasync(&file)?;
        position += block_bytes as u64;
        bytes += block_bytes as u64;
    }
    Ok(Bandwidth { bytes, elapsed: started.elapsed() })
}

/// Writes `block_bytes` and syncs at a fixed rate; latencies in microseconds, counted from the moment
/// at which each write was due (Tene's correction of coordinated omission).
pub fn open_loop(
    dir: &Path,
    block_bytes: usize,
    bytes_per_s: f64,
    duration: Duration,
) -> io::Result<Histogram<u64>> {
    let file = preallocated(dir, "raw-open-loop")?;
    let block = noise(block_bytes);
    let interval = Duration::from_secs_f64(block_bytes as f64 / bytes_per_s);
    let mut latencies = Histogram::<u64>::new(3).map_err(io::Error::other)?;
    let started = Instant::now();
    let mut due = Duration::ZERO;
    let mut position = 0;
    while due < duration {
        if let Some(wait) = due.checked_sub(started.elapsed()) {
            thread::sleep(wait);
        }
        position = if position + block_bytes as u64 > FILE_BYTES { 0 } else { position };
        write_all(&file, &block, position)?;
        fdatasync(&file)?;
        position += block_bytes as u64;
        latencies.saturating_record((started.elapsed() - due).as_micros() as u64);
        due += interval;
    }
    Ok(latencies)
}

fn write_all(file: &File, mut block: &[u8], mut position: u64) -> io::Result<()> {
    while !block.is_empty() {
        let written = pwrite(file, block, position)?;
        block = &block[written..];
        position += written as u64;
    }
    Ok(())
}

/// Bytes that no device or file system can compress away.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
