//! A broker loses its disk and is started again on an empty one, while producers go on: how long until it holds
//! everything again, and what do the producers notice? Settings of the brokers, such as
//! `HEADWATER_CLUSTER_RECOVERY_BYTES_PER_SECOND`, come from the environment.
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin rebuild -- --gigabytes 5`

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_tests::local_cluster::{LocalCluster, Streamctl};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures the rebuild of an emptied broker under load")]
struct Args {
    /// Bytes of each broker's share, in GB.
    #[arg(long, default_value_t = 5)]
    gigabytes: u64,
    /// Offered by the producer all the time.
    #[arg(long, default_value_t = 5)]
    rate_mb: u64,
    /// Seconds of the measurements before the rebuild: with the broker, and without it.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Directory on the disk to use; emptied of what the run wrote.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Directory on the disk of the emptied broker, if it has one of its own.
    #[arg(long)]
    new_disk: Option<PathBuf>,
}

/// The one that loses its disk.
const VICTIM: usize = 3;
const RECORD_BYTES: u64 = 1_024;
const GB: u64 = 1_000_000_000;
const PATIENCE: Duration = Duration::from_secs(900);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The load connects, and does not measure its first second.
const WARM_UP: Duration = Duration::from_millis(1_500);

fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::tempdir_in(&args.dir)?;
    println!("the disk alone: {:.0} MB/s, one writer, one sync", disk_mb_per_s(dir.path())?);
    let mut cluster = LocalCluster::start(dir.path(), 3, &[])?;
    for topic in ["stored", "load"] {
        cluster.streamctl(&["topic", "create", topic, "--partitions", "12", "--replicas", "3"])?;
    }
    let records = (args.gigabytes * GB / RECORD_BYTES).to_string();
    cluster.streamctl(&["bench", "produce", "stored", "--records", &records, "--batch-records", "500"])?;
    let before = produce(&cluster, args.rate_mb, args.seconds)?;

    cluster.kill(VICTIM)?;
    let lost = cluster.data_dir(VICTIM)?.to_path_buf();
    let bytes = size_of(&lost)?;
    fs::remove_dir_all(&lost)?;
    let new_disk = args.new_disk.map(tempfile::tempdir_in).transpose()?;
    if let Some(disk) = &new_disk {
        std::os::unix::fs::symlink(disk.path().canonicalize()?, &lost)?;
    }
    // What producers notice of its leaders' end is another question.
    while !is_failed_over(&cluster) {
        std::thread::sleep(LOOK_AGAIN);
    }
    let without = produce(&cluster, args.rate_mb, args.seconds)?;
    let mut load = begin_load(&cluster, args.rate_mb, PATIENCE.as_secs())?;
    std::thread::sleep(WARM_UP);
    let begun = Instant::now();
    cluster.spawn(VICTIM)?;
    while !is_rebuilt(&cluster, &lost, bytes)? {
        if !load.is_running()? {
            load.printed()?;
            return Err(format!("not rebuilt after {PATIENCE:?}").into());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    let seconds = begun.elapsed().as_secs_f64();
    load.interrupt()?;
    let during = load.printed()?;
    println!(
        "{:.2} GB rebuilt in {seconds:.0} s: {:.0} MB/s",
        bytes as f64 / GB as f64,
        bytes as f64 / 1e6 / seconds
    );
    println!("producers at {} MB/s, before: {}", args.rate_mb, latencies(&before));
    println!("without the broker: {}", latencies(&without));
    println!("during the rebuild: {}", latencies(&during));
    Ok(())
}

fn produce(cluster: &LocalCluster, rate_mb: u64, seconds: u64) -> Result<Value> {
    Ok(begin_load(cluster, rate_mb, seconds)?.printed()?)
}

fn begin_load(cluster: &LocalCluster, rate_mb: u64, seconds: u64) -> Result<Streamctl> {
    let (rate, seconds) = (rate_mb.to_string(), seconds.to_string());
    let load =
        ["bench", "produce", "load", "--rate-mb", &rate, "--seconds", &seconds, "--batch-records", "10"];
    Ok(cluster.begin_streamctl(&load)?)
}

fn latencies(report: &Value) -> String {
    let millis = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
        millis("p50_ms"),
        millis("p99_ms"),
        millis("p999_ms")
    )
}

/// The loss was noticed, and every partition has a leader among the others.
fn is_failed_over(cluster: &LocalCluster) -> bool {
    let Ok(status) = cluster.streamctl(&["cluster", "status"]) else { return false };
    let brokers = status["brokers"].as_array().map_or(&[][..], Vec::as_slice);
    let is_gone = |broker: &Value| broker["live"] == false && broker["leaders"].as_u64() == Some(0);
    brokers.iter().any(is_gone) && status["leaderless"].as_u64() == Some(0)
}

/// What the cluster says of a broker that has just come back with nothing may be of its former self.
fn is_rebuilt(cluster: &LocalCluster, data_dir: &Path, bytes: u64) -> Result<bool> {
    Ok(size_of(data_dir)? >= bytes / 10 * 9 && is_whole(cluster)?)
}

/// Every broker is there and no replica lacks anything.
fn is_whole(cluster: &LocalCluster) -> Result<bool> {
    // While the cluster learns who is gone, an answer may be an error.
    let Ok(status) = cluster.streamctl(&["cluster", "status"]) else { return Ok(false) };
    let zero = |of: &Value, name: &str| of[name].as_u64() == Some(0);
    let brokers = status["brokers"].as_array().map_or(&[][..], Vec::as_slice);
    let whole = |broker: &Value| {
        broker["live"] == true && zero(broker, "out_of_sync") && broker["replicas"].as_u64() >= Some(24)
    };
    Ok(brokers.iter().filter(|broker| whole(broker)).count() == 3 && zero(&status, "under_replicated"))
}

/// What a plain program writes and syncs.
fn disk_mb_per_s(dir: &Path) -> Result<f64> {
    const CHUNKS: usize = 1_024;
    let (path, chunk) = (dir.join("raw"), vec![7; 1 << 20]);
    let begun = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..CHUNKS {
        file.write_all(&chunk)?;
    }
    file.sync_data()?;
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok((CHUNKS * chunk.len()) as f64 / 1e6 / seconds)
}

/// Bytes of the files below `path`; what goes meanwhile does not count.
fn size_of(path: &Path) -> io::Result<u64> {
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(error) };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return gone(error),
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path())?,
            Ok(metadata) => metadata.len(),
            Err(error) => gone(error)?,
        };
    }
    Ok(bytes)
}
