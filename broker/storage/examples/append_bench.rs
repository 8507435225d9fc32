//! Append path against raw `pwrite` on the same file system, alternated in one run, without fsync.
//!
//!     cargo run --release -p headwater-storage --example append_bench -- [DIRECTORY] [MEGABYTES]
//!
//! Prints MB/s of appends of 1 MB made of 16 KB batches and of raw writes of the same sizes into preallocated files,
//! and appends/s of one-record batches one call each, with the reads of both.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::types::{GroupId, LogIndex, Offset, PartitionId, Term, TopicId};
use headwater_storage::data_dir::{DataDir, DataDirOptions};
use headwater_storage::disk::RealDisk;
use headwater_storage::log::{Log, LogOptions, NewEntry};

const BATCH_BYTES: usize = 16 << 10;
const APPEND_BATCHES: usize = 64;

fn batch(bytes: usize) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(1, None, Some(&vec![7; bytes.saturating_sub(80)]), &[]).unwrap();
    builder.build().unwrap()
}

fn raw(path: &Path, rounds: usize) -> f64 {
    let file = File::create(path).unwrap();
    let bytes = vec![7u8; BATCH_BYTES * APPEND_BATCHES];
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, (rounds * bytes.len()) as u64)
        .unwrap();
    let begin = Instant::now();
    for round in 0..rounds {
        file.write_all_at(&bytes, (round * bytes.len()) as u64).unwrap();
    }
    let rate = (rounds * bytes.len()) as f64 / 1e6 / begin.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    rate
}

fn append(log: &Log, rounds: usize) -> f64 {
    let entries: Vec<NewEntry> =
        (0..APPEND_BATCHES).map(|_| NewEntry { term: Term(1), batch: batch(BATCH_BYTES) }).collect();
    let bytes: usize = entries.iter().map(|e| e.batch.len()).sum();
    let begin = Instant::now();
    for _ in 0..rounds {
        log.append(&entries).unwrap();
    }
    (rounds * bytes) as f64 / 1e6 / begin.elapsed().as_secs_f64()
}

async fn open(path: &Path, partition: i32) -> Arc<Log> {
    let mut draws = 0;
    let mut entropy = || {
        draws += 1;
        draws
    };
    let disk = Arc::new(RealDisk::new());
    let data_dir = DataDir::open(disk, path, &mut entropy, DataDirOptions::default()).await.unwrap();
    let group = GroupId { topic_id: TopicId([1; 16]), partition: PartitionId(partition) };
    data_dir.open_log(group, LogOptions::default()).await.unwrap()
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let root = args.next().map_or_else(std::env::temp_dir, PathBuf::from).join("headwater-append-bench");
    let megabytes: usize = args.next().map_or(512, |n| n.parse().unwrap());
    drop(std::fs::remove_dir_all(&root));
    std::fs::create_dir_all(&root).unwrap();
    for round in 0..4 {
        let raw = raw(&root.join("raw"), megabytes);
        let directory = root.join(format!("log{round}"));
        let log = open(&directory, round).await;
        let ours = append(&log, megabytes);
        println!(
            "16 KB batches, 1 MB an append: {ours:.0} MB/s, raw {raw:.0} MB/s, {:.0} %",
            ours / raw * 100.0
        );
        drop(log);
        std::fs::remove_dir_all(&directory).unwrap();
    }
    let log = open(&root.join("small"), 9).await;
    small(&log);
    std::fs::remove_dir_all(&root).unwrap();
}

/// One record a batch, one batch a call; then both ways of reading.
fn small(log: &Log) {
    const COUNT: u64 = 500_000;
    let one = [NewEntry { term: Term(1), batch: batch(180) }];
    let begin = Instant::now();
    for _ in 0..COUNT {
        log.append(&one).unwrap();
    }
    println!("one-record batches: {:.0} appends/s", COUNT as f64 / begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    let (mut index, mut entries) = (LogIndex(1), 0);
    while entries < COUNT {
        let got = log.batches(index..LogIndex(COUNT + 1), 1 << 20).unwrap();
        entries += got.len() as u64;
        index = LogIndex(1 + entries);
    }
    println!("entries by index, 1 MB a call: {:.0} entries/s", COUNT as f64 / begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    let (mut at, mut calls) = (Offset(0), 0);
    while at.0 < COUNT.cast_signed() {
        at = log.read(at, Offset(i64::MAX), 64 << 10).unwrap().next_offset;
        calls += 1;
    }
    println!("reads of 64 KiB: {:.0} ns each", begin.elapsed().as_nanos() as f64 / f64::from(calls));
}
