//! Headwater beside the limits of this machine, alternated in one run, as a Markdown table.
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin compare -- --help`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_tests::process::{Addresses, BrokerProcess, binary};
use headwater_tests::raw::{disk, stream};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures Headwater and the raw limits side by side")]
struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds; each table row is the median of its ratios.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Directory on the disk to measure; emptied of what the run wrote.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Only these, separated by commas: produce, small, consume, latency, idle, partitions, restart.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Gigabytes in the data directory of the restart measurement.
    #[arg(long, default_value_t = 10)]
    restart_gb: u64,
}

struct Bench {
    dir: tempfile::TempDir,
    seconds: Duration,
    rounds: usize,
    runtime: tokio::runtime::Runtime,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let bench = Bench {
        dir: tempfile::tempdir_in(&args.dir)?,
        seconds: Duration::from_secs(args.seconds),
        rounds: args.rounds,
        runtime: tokio::runtime::Runtime::new()?,
    };
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    println!("| measurement | Headwater | limit | ratio | bar |\n|---|---|---|---|---|");
    if wanted("produce") {
        bench.produce()?;
    }
    if wanted("small") {
        bench.small_batches()?;
    }
    if wanted("consume") {
        bench.consume()?;
    }
    if wanted("latency") {
        bench.latency()?;
    }
    if wanted("idle") {
        bench.idle("idle, 1 topic of 1 partition", 1, "60 MB, 0.5 % of a core")?;
    }
    if wanted("partitions") {
        bench.idle("idle, 1,000 partitions", 1_000, "400 MB, 10 % of a core, 1 GB of disk")?;
    }
    if wanted("restart") {
        bench.restart(args.restart_gb)?;
    }
    Ok(())
}

impl Bench {
    fn produce(&self) -> Result<()> {
        let broker = self.broker("produce")?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let raw = disk::synced_writes(self.dir.path(), 1 << 20, self.seconds)?.mb_per_s();
            let topic = format!("produce-{round}");
            create_topic(&broker, &topic, 8)?;
            let cpu = broker.cpu_seconds()?;
            let seconds = self.seconds.as_secs().to_string();
            let load = ["--producers", "8", "--record-bytes", "1024", "--batch-records", "1000"];
            let report = streamctl(
                &broker,
                &[&["bench", "produce", &topic][..], &load, &["--seconds", &seconds]].concat(),
            )?;
            let cpu = broker.cpu_seconds()? - cpu;
            streamctl(&broker, &["topic", "delete", &topic, "--yes"])?;
            let mb = number(&report, "mb_per_s");
            let gigabytes = (number(&report, "records") + number(&report, "warmup_records")) * 1024.0 / 1e9;
            rounds.push((
                mb / raw,
                mb,
                raw,
                number(&report, "p99_ms"),
                (cpu / gigabytes, number(&report, "client_cpu_seconds_per_gb")),
            ));
        }
        let (ratio, mb, raw, p99, (cpu, client_cpu)) = median(rounds);
        println!(
            "| produce, 8 producers, 1 KB records, 1,000 a batch, fsynced | {mb:.0} MB/s, p99 {p99:.1} ms, CPU s/GB: broker {cpu:.2}, client {client_cpu:.2} | \
             pwrite + fdatasync of 1 MiB: {raw:.0} MB/s | {ratio:.2} | 0.70, p99 60 ms |"
        );
        Ok(())
    }

    fn small_batches(&self) -> Result<()> {
        let broker = self.broker("small")?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let topic = format!("small-{round}");
            create_topic(&broker, &topic, 8)?;
            let seconds = self.seconds.as_secs().to_string();
            let load = ["--producers", "8", "--record-bytes", "1024", "--batch-records", "1"];
            let report = streamctl(
                &broker,
                &[&["bench", "produce", &topic][..], &load, &["--seconds", &seconds]].concat(),
            )?;
            let rate = number(&report, "records_per_s");
            rounds.push((rate / 25_000.0, rate, number(&report, "mb_per_s"), number(&report, "p99_ms"), 0.0));
        }
        let (ratio, rate, mb, p99, _) = median(rounds);
        println!(
            "| produce, 8 producers, 1 record a batch, fsynced | {rate:.0} records/s ({mb:.0} MB/s), p99 {p99:.1} ms | \
             25,000 records/s | {ratio:.2} | 1.00 |"
        );
        Ok(())
    }

    fn consume(&self) -> Result<()> {
        let broker = self.broker("consume")?;
        create_topic(&broker, "consume", 8)?;
        let load =
            ["--producers", "8", "--record-bytes", "1024", "--batch-records", "1000", "--records", "4000000"];
        streamctl(&broker, &[&["bench", "produce", "consume"][..], &load].concat())?;
        for connections in [1_usize, 4] {
            let mut rounds = Vec::new();
            for _ in 0..self.rounds {
                let raw = self.runtime.block_on(async {
                    stream::drain(stream::serve().await?, connections, self.seconds).await
                })?;
                let cpu = broker.cpu_seconds()?;
                let consumers = connections.to_string();
                let report = streamctl(
                    &broker,
                    &["bench", "consume", "consume", "--consumers", &consumers, "--records", "4000000"],
                )?;
                let cpu = broker.cpu_seconds()? - cpu;
                let (mb, raw) = (number(&report, "mb_per_s"), raw.mb_per_s());
                rounds.push((mb / raw, mb, raw, cpu / 4.096, number(&report, "client_cpu_seconds_per_gb")));
            }
            let (ratio, mb, raw, cpu, client_cpu) = median(rounds);
            println!(
                "| consume, {connections} consumer(s), same records | {mb:.0} MB/s, CPU s/GB: broker {cpu:.2}, client {client_cpu:.2} | \
                 bare gRPC stream of 1 MiB messages, {connections} connection(s): {raw:.0} MB/s | {ratio:.2} | 0.60 |"
            );
        }
        Ok(())
    }

    fn latency(&self) -> Result<()> {
        const BATCH_RECORDS: &str = "10";
        const BATCH_BYTES: usize = 10 * 1024;
        let broker = self.broker("latency")?;
        create_topic(&broker, "latency", 1)?;
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let raw = disk::open_loop(self.dir.path(), BATCH_BYTES, 10e6, self.seconds)?;
            let seconds = self.seconds.as_secs().to_string();
            let load = ["--producers", "1", "--record-bytes", "1024", "--batch-records", BATCH_RECORDS];
            let report = streamctl(
                &broker,
                &[&["bench", "e2e", "latency"][..], &load, &["--seconds", &seconds, "--rate-mb", "10"]]
                    .concat(),
            )?;
            let raw_ms = |quantile| raw.value_at_quantile(quantile) as f64 / 1e3;
            let (p50, p99) = (number(&report, "p50_ms"), number(&report, "p99_ms"));
            rounds.push((p99 / raw_ms(0.99), p50, raw_ms(0.5), p99, raw_ms(0.99)));
        }
        let (ratio, p50, raw_p50, p99, raw_p99) = median(rounds);
        println!(
            "| end to end at 10 MB/s, open loop, 10 KB a batch | p50 {p50:.2} ms, p99 {p99:.2} ms | \
             pwrite + fdatasync: p50 {raw_p50:.2} ms, p99 {raw_p99:.2} ms | {ratio:.2} | p50 +1 ms, p99 x5 |"
        );
        Ok(())
    }

    fn idle(&self, name: &str, partitions: u32, bar: &str) -> Result<()> {
        let broker = self.broker(&format!("idle-{partitions}"))?;
        create_topic(&broker, "idle", partitions)?;
        let (cpu, started) = (broker.cpu_seconds()?, Instant::now());
        std::thread::sleep(self.seconds.max(Duration::from_secs(10)));
        let share = (broker.cpu_seconds()? - cpu) / started.elapsed().as_secs_f64();
        let mb = |field| broker.memory_bytes(field).map(|bytes| bytes as f64 / 1e6);
        println!(
            "| {name} | RssAnon {:.0} MB, RssFile {:.0} MB, {:.2} % of a core, {:.0} MB of disk | | | {bar} |",
            mb("RssAnon")?,
            mb("RssFile")?,
            share * 100.0,
            disk_bytes(&self.dir.path().join(format!("idle-{partitions}")))? as f64 / 1e6,
        );
        Ok(())
    }

    fn restart(&self, gigabytes: u64) -> Result<()> {
        let broker = self.broker("restart")?;
        create_topic(&broker, "restart", 8)?;
        let records = (gigabytes * 1_000_000_000 / 1024).to_string();
        let load =
            ["--producers", "8", "--record-bytes", "1024", "--batch-records", "1000", "--records", &records];
        streamctl(&broker, &[&["bench", "produce", "restart"][..], &load].concat())?;
        broker.stop()?;
        let started = Instant::now();
        let broker = self.broker("restart")?;
        println!(
            "| ready after a clean stop, {gigabytes} GB | {} ms | | | 200 ms |",
            started.elapsed().as_millis()
        );
        let load =
            ["--producers", "8", "--record-bytes", "1024", "--batch-records", "1000", "--records", "500000"];
        streamctl(&broker, &[&["bench", "produce", "restart"][..], &load].concat())?;
        broker.kill()?;
        let started = Instant::now();
        self.broker("restart")?;
        println!(
            "| ready after SIGKILL, {gigabytes} GB | {} ms | | | 2,000 ms |",
            started.elapsed().as_millis()
        );
        Ok(())
    }

    fn broker(&self, name: &str) -> Result<BrokerProcess> {
        Ok(BrokerProcess::start(&self.dir.path().join(name), Addresses::free()?, &[])?)
    }
}

fn create_topic(broker: &BrokerProcess, topic: &str, partitions: u32) -> Result<()> {
    streamctl(broker, &["topic", "create", topic, "--partitions", &partitions.to_string()]).map(|_| ())
}

/// Runs `streamctl -o json` against a broker and returns what it printed.
fn streamctl(broker: &BrokerProcess, arguments: &[&str]) -> Result<Value> {
    let brokers = broker.addresses.grpc.to_string();
    let output = Command::new(binary("streamctl")?)
        .args(arguments)
        .args(["-o", "json", "--brokers", &brokers])
        .output()?;
    if !output.status.success() {
        return Err(format!("streamctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or(f64::NAN)
}

fn median<A: Copy, B: Copy, C: Copy, D: Copy>(mut rounds: Vec<(f64, A, B, C, D)>) -> (f64, A, B, C, D) {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds[rounds.len() / 2]
}

/// Blocks really taken, not lengths: segments are preallocated.
fn disk_bytes(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
