//! Three Headwater brokers beside three of Apache Kafka's, alternated in one run, as a Markdown table.
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin versus_kafka -- --help`
//!
//! Both get 12 partitions of 3 replicas, 1 KB records, acks=all, the same batches and the same offered rate; each
//! client is its project's own load tool. Kafka runs as it ships, which acknowledges from the page cache, and again
//! with an fsync for each append. At the steady rate nobody lingers: Kafka's client sends what it has, ours 10 records.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use headwater_tests::local_cluster::LocalCluster;
use headwater_tests::process::cpu_seconds_of;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const KAFKA_BROKERS: &str = "127.0.0.1:19092,127.0.0.1:29092,127.0.0.1:39092";
const PARTITIONS: &str = "12";
const RECORD_BYTES: u64 = 1_024;
/// Records of one batch at full speed, where Kafka's client lingers to fill it, and at the steady rate.
const BATCH_RECORDS: u64 = 100;
const STEADY_BATCH_RECORDS: u64 = 10;
/// Room for [`BATCH_RECORDS`] with their overhead, as Kafka's `batch.size` counts it.
const BATCH_BYTES: u64 = BATCH_RECORDS * (RECORD_BYTES + 16);
const LINGER_MS: u64 = 5;

#[derive(Parser)]
#[command(about = "Measures Headwater and Apache Kafka side by side, three brokers each")]
struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Rounds; each row is the median of its throughputs.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rate of the latency measurement.
    #[arg(long, default_value_t = 10)]
    rate_mb: u64,
    /// Producers of the throughput measurement.
    #[arg(long, default_value_t = 1)]
    producers: u64,
    /// Directory on the disk to measure; emptied of what the run wrote.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Where `tests/scripts/kafka_cluster` lies.
    #[arg(long, default_value = "tests/scripts/kafka_cluster")]
    kafka: PathBuf,
}

/// One measurement of one system.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    mb_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    /// Of all brokers together, for each GB produced.
    broker_cpu_s_per_gb: f64,
}

/// A running cluster under measurement.
trait System {
    fn name(&self) -> String;
    /// As fast as it goes for `seconds`, or at `rate_mb`.
    fn produce(&self, topic: &str, load: &Load) -> Result<Figures>;
}

struct Load {
    seconds: u64,
    producers: u64,
    rate_mb: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut full = vec![Vec::new(); 3];
    let mut steady = vec![Vec::new(); 3];
    let mut names = Vec::new();
    for round in 0..args.rounds {
        names.clear();
        for which in 0..3 {
            let dir = tempfile::tempdir_in(&args.dir)?;
            let system = start(which, dir.path(), &args.kafka)?;
            names.push(system.name());
            let warm = Load { seconds: args.seconds.min(10), producers: args.producers, rate_mb: None };
            system.produce("warm", &warm)?;
            let at_full = Load { seconds: args.seconds, ..warm };
            full[which].push(system.produce("full", &at_full)?);
            let at_rate = Load { seconds: args.seconds, producers: 1, rate_mb: Some(args.rate_mb) };
            steady[which].push(system.produce("steady", &at_rate)?);
            eprintln!(
                "round {round}: {}: {:?} {:?}",
                system.name(),
                full[which].last(),
                steady[which].last()
            );
        }
    }
    println!(
        "| three brokers, 12 partitions x 3 replicas, 1 KB records, acks=all | MB/s | CPU s/GB, all brokers | \
         at {} MB/s: p50 | p99 | p99.9 | CPU s/GB |\n|---|---|---|---|---|---|---|",
        args.rate_mb
    );
    for (which, name) in names.iter().enumerate() {
        let (full, steady) = (median(&mut full[which]), median_latency(&mut steady[which]));
        println!(
            "| {name} | {:.1} | {:.2} | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} |",
            full.mb_per_s,
            full.broker_cpu_s_per_gb,
            steady.p50_ms,
            steady.p99_ms,
            steady.p999_ms,
            steady.broker_cpu_s_per_gb,
        );
    }
    Ok(())
}

fn start(which: usize, dir: &Path, script: &Path) -> Result<Box<dyn System>> {
    Ok(match which {
        0 => Box::new(Headwater::start(dir)?),
        1 => Box::new(Kafka::start(dir, script, None)?),
        _ => Box::new(Kafka::start(dir, script, Some("log.flush.interval.messages=1"))?),
    })
}

fn median(figures: &mut [Figures]) -> Figures {
    figures.sort_by(|a, b| a.mb_per_s.total_cmp(&b.mb_per_s));
    figures[figures.len() / 2]
}

fn median_latency(figures: &mut [Figures]) -> Figures {
    figures.sort_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms));
    figures[figures.len() / 2]
}

struct Headwater(LocalCluster);

impl Headwater {
    fn start(dir: &Path) -> Result<Self> {
        Ok(Self(LocalCluster::start(dir, 3, &[])?))
    }
}

impl System for Headwater {
    fn name(&self) -> String {
        "Headwater, fsync on a quorum before each acknowledgement".to_owned()
    }

    fn produce(&self, topic: &str, load: &Load) -> Result<Figures> {
        self.0.streamctl(&["topic", "create", topic, "--partitions", PARTITIONS, "--replicas", "3"])?;
        let batch = if load.rate_mb.is_some() { STEADY_BATCH_RECORDS } else { BATCH_RECORDS };
        let (producers, batch) = (load.producers.to_string(), batch.to_string());
        let (record, seconds) = (RECORD_BYTES.to_string(), load.seconds.to_string());
        let rate = load.rate_mb.map(|rate| rate.to_string());
        let mut command =
            vec!["bench", "produce", topic, "--producers", &producers, "--record-bytes", &record];
        command.extend(["--batch-records", &batch, "--seconds", &seconds, "--warmup-seconds", "2"]);
        if let Some(rate) = &rate {
            command.extend(["--rate-mb", rate]);
        }
        let before = self.0.cpu_seconds()?;
        let report = self.0.streamctl(&command)?;
        let cpu = self.0.cpu_seconds()? - before;
        let number = |field: &str| report.get(field).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let bytes = (number("records") + number("warmup_records")) * RECORD_BYTES as f64;
        Ok(Figures {
            mb_per_s: number("mb_per_s"),
            p50_ms: number("p50_ms"),
            p99_ms: number("p99_ms"),
            p999_ms: number("p999_ms"),
            broker_cpu_s_per_gb: cpu / (bytes / 1e9),
        })
    }
}

/// Stopped when dropped.
struct Kafka {
    dir: PathBuf,
    script: PathBuf,
    setting: Option<&'static str>,
}

impl Kafka {
    fn start(dir: &Path, script: &Path, setting: Option<&'static str>) -> Result<Self> {
        let kafka = Self { dir: dir.to_owned(), script: script.to_owned(), setting };
        let started = Command::new(script).arg("start").arg(dir).args(setting).output()?;
        if !started.status.success() {
            return Err(String::from_utf8_lossy(&started.stderr).into_owned().into());
        }
        Ok(kafka)
    }

    fn tool(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.script).arg("tool").args(arguments).output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
        }
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let mut sum = 0.0;
        for id in 1..=3 {
            let pid = fs::read_to_string(self.dir.join(format!("{id}.pid")))?;
            sum += cpu_seconds_of(pid.trim().parse()?)?;
        }
        Ok(sum)
    }
}

impl System for Kafka {
    fn name(&self) -> String {
        match self.setting {
            None => "Apache Kafka as it ships, no fsync".to_owned(),
            Some(setting) => format!("Apache Kafka, `{setting}`"),
        }
    }

    fn produce(&self, topic: &str, load: &Load) -> Result<Figures> {
        let create = ["--create", "--topic", topic, "--partitions", PARTITIONS, "--replication-factor", "3"];
        let topics = ["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", KAFKA_BROKERS];
        self.tool(&[&topics[..], &create].concat())?;
        // Its tool is told a number of records: enough for the time at a rate that was found first.
        let per_second = match load.rate_mb {
            Some(rate) => rate * 1_000_000 / RECORD_BYTES,
            None => self.rate_of(topic)?,
        };
        let throughput = load.rate_mb.map_or("-1".to_owned(), |_| per_second.to_string());
        let before = self.cpu_seconds()?;
        let records = per_second * load.seconds;
        let report = self.perf(topic, records, &throughput)?;
        let cpu = self.cpu_seconds()? - before;
        Ok(Figures { broker_cpu_s_per_gb: cpu / (records as f64 * RECORD_BYTES as f64 / 1e9), ..report })
    }
}

impl Kafka {
    fn rate_of(&self, topic: &str) -> Result<u64> {
        let probe = self.perf(topic, 100_000, "-1")?;
        Ok((probe.mb_per_s * 1e6 / RECORD_BYTES as f64).max(100.0) as u64)
    }

    fn perf(&self, topic: &str, records: u64, throughput: &str) -> Result<Figures> {
        let (records, size) = (records.to_string(), RECORD_BYTES.to_string());
        let batch = format!("batch.size={BATCH_BYTES}");
        let linger_ms = if throughput == "-1" { LINGER_MS } else { 0 };
        let (linger, brokers) =
            (format!("linger.ms={linger_ms}"), format!("bootstrap.servers={KAFKA_BROKERS}"));
        let tool =
            ["org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", &records];
        let load = ["--record-size", &size, "--throughput", throughput, "--producer-props", "acks=all"];
        let output = self.tool(&[&tool[..], &load, &[&brokers, &batch, &linger]].concat())?;
        let last = output.lines().rev().find(|line| line.contains("99.9th"));
        last.and_then(read_summary).ok_or_else(|| format!("no summary in: {output}").into())
    }
}

/// `300000 records sent, 27414.8 records/sec (26.77 MB/sec), 1063.96 ms avg latency, 2292.00 ms max latency, 1036 ms
/// 50th, 1676 ms 95th, 2022 ms 99th, 2245 ms 99.9th.` Its MB are of 2^20 bytes.
fn read_summary(line: &str) -> Option<Figures> {
    let before = |unit: &str| -> Option<f64> {
        let head = &line[..line.find(unit)?];
        head.rsplit([' ', '(']).find(|word| !word.is_empty())?.parse().ok()
    };
    Some(Figures {
        mb_per_s: before(" records/sec")? * RECORD_BYTES as f64 / 1e6,
        p50_ms: before(" ms 50th")?,
        p99_ms: before(" ms 99th")?,
        p999_ms: before(" ms 99.9th")?,
        broker_cpu_s_per_gb: 0.0,
    })
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Nothing can be done about a broker that does not stop.
        let _ = Command::new(&self.script).arg("stop").arg(&self.dir).status();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_summary_of_kafkas_tool_is_read() {
        let line = "300000 records sent, 27414.8 records/sec (26.77 MB/sec), 1063.96 ms avg latency, 2292.00 ms \
                    max latency, 1036 ms 50th, 1676 ms 95th, 2022 ms 99th, 2245 ms 99.9th.";
        let figures = read_summary(line).unwrap();
        assert_eq!((figures.p50_ms, figures.p99_ms, figures.p999_ms), (1036.0, 2022.0, 2245.0));
        assert!((figures.mb_per_s - 28.07).abs() < 0.01);
        assert!(read_summary("nothing of the kind").is_none());
    }
}
