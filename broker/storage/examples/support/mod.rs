//! What the measuring programs share.
#![allow(dead_code, reason = "each program uses its part")]

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::types::{GroupId, PartitionId, Term, TopicId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::RealDisk;
use headwater_storage::log::{Log, LogOptions, NewEntry};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

pub const MIB: f64 = 1024.0 * 1024.0;

/// The argument at `position`, or a default.
pub fn argument(position: usize, default: usize) -> Result<usize> {
    std::env::args().nth(position).map_or(Ok(default), |text| Ok(text.parse()?))
}

/// A batch of one record that is about `bytes` long.
pub fn entry(bytes: usize) -> Result<NewEntry> {
    let mut batch = RecordBatchBuilder::new(Compression::None, None);
    batch.append(0, None, Some(&vec![7; bytes.saturating_sub(80)]), &[])?;
    Ok(NewEntry { term: Term(1), batch: batch.build()? })
}

/// A new data directory with one log.
pub async fn new_log(path: &Path) -> Result<(Arc<DataDir>, Arc<Log>)> {
    let disk = Arc::new(RealDisk::new());
    let mut entropy = || 1;
    let data_dir = DataDir::open(disk, path, &mut entropy).await?;
    let group = GroupId { topic_id: TopicId([1; 16]), partition: PartitionId(0) };
    let log = data_dir.open_log(group, LogOptions::default()).await?;
    Ok((data_dir, log))
}

/// A file with `bytes` reserved, as a segment has them.
pub fn new_file(path: &Path, bytes: u64) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// One line of the result, against the raw figure.
pub fn report(name: &str, unit: &str, raw: f64, value: f64) {
    println!("{name:28} {value:10.1} {unit} {:6.1} % of raw", 100.0 * value / raw);
}

/// Keeps a batch's bytes for a raw write.
pub fn bytes_of(entry: &NewEntry) -> Bytes {
    entry.batch.clone()
}
