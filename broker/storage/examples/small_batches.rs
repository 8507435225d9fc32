//! One-record batches, one append each, without fsync, and both ways of reading them back.
//!
//!     cargo run --release -p headwater-storage --example small_batches -- [DIRECTORY]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::types::{GroupId, LogIndex, Offset, PartitionId, Term, TopicId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::RealDisk;
use headwater_storage::log::{Log, LogOptions, NewEntry};

fn batch(bytes: usize) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(1, None, Some(&vec![7; bytes.saturating_sub(80)]), &[]).unwrap();
    builder.build().unwrap()
}

async fn open(path: &Path) -> Arc<Log> {
    let mut draws = 0;
    let mut entropy = || {
        draws += 1;
        draws
    };
    let disk = Arc::new(RealDisk::new());
    let data_dir = DataDir::open(disk, path, &mut entropy).await.unwrap();
    let group = GroupId { topic_id: TopicId([1; 16]), partition: PartitionId(0) };
    data_dir.open_log(group, LogOptions::default()).await.unwrap()
}

#[tokio::main]
async fn main() {
    let root = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join("headwater-small-batches");
    drop(std::fs::remove_dir_all(&root));
    std::fs::create_dir_all(&root).unwrap();
    let log = open(&root).await;
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
