//! `streamctl bench produce`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_client::Producer;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::cpu::Stopwatch;
use super::latency::Latencies;
use super::load::{Load, Pace, Run};
use super::payload::Payload;
use super::{LoadArgs, client, print, round};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --rate-mb each producer sends as fast as its batches are acknowledged, and a latency counts from \
a batch's first record. With it, batches are due at fixed times, and a latency counts from the time \
at which its batch was due, whether or not it could be sent then.
MB are 10^6 bytes of record values. Ctrl-C ends the measurement early and reports what there is.

Examples:
  streamctl bench produce load --producers 8 --seconds 10
  streamctl bench produce load --producers 8 --record-bytes 1024 --batch-records 1000 --records 4000000 -o json
  streamctl bench produce load --producers 8 --batch-records 1 --seconds 10
  streamctl bench produce load --producers 2 --batch-records 16 --rate-mb 10 --seconds 20")]
#[command(group = clap::ArgGroup::new("length").required(true))]
pub struct BenchProduceArgs {
    /// A topic that exists; it is filled.
    topic: String,
    #[command(flatten)]
    load: LoadArgs,
    /// Send so many records in all.
    #[arg(long, value_name = "N", group = "length", value_parser = clap::value_parser!(u64).range(1..u64::MAX))]
    records: Option<u64>,
    /// Send for so long, after the warm-up.
    #[arg(long, value_name = "N", group = "length", value_parser = seconds)]
    seconds: Option<f64>,
    /// Offer so much, over all producers, whatever the broker answers (open loop).
    #[arg(long, value_name = "MB/S", value_parser = rate)]
    rate_mb: Option<f64>,
    /// Do not measure the first seconds [default: 1 with --seconds, 0 with --records].
    #[arg(long, value_name = "N", value_parser = warm_up)]
    warmup_seconds: Option<f64>,
}

pub fn seconds(text: &str) -> Result<f64, String> {
    positive(text).filter(|n| *n <= 1e6).ok_or_else(|| "a number of seconds above 0".to_string())
}

pub fn rate(text: &str) -> Result<f64, String> {
    positive(text).filter(|n| *n <= 1e6).ok_or_else(|| "a number of MB per second above 0".to_string())
}

pub fn warm_up(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { seconds(text) }
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0)
}

pub async fn run(args: BenchProduceArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let fleet = Fleet::start(&args.topic, &args.load, settings).await?;
    let warm_up = args.warmup_seconds.unwrap_or(if args.seconds.is_some() { 1.0 } else { 0.0 });
    let started = Instant::now();
    let measure_from = started + Duration::from_secs_f64(warm_up);
    let end = args.seconds.map(|seconds| measure_from + Duration::from_secs_f64(seconds));
    let run = Arc::new(Run {
        id: 0,
        started,
        measure_from,
        stop: AtomicBool::new(false),
        budget: AtomicU64::new(args.records.unwrap_or(u64::MAX)),
        acknowledged: AtomicU64::new(0),
    });
    let (mut watch, mut before) = (Stopwatch::start(), 0);
    let mut tasks = fleet.spawn(args.rate_mb, end, &run, false);
    let mut latencies = Latencies::new()?;

    if warm_up > 0.0 {
        tasks.until(measure_from, &mut latencies).await?;
        (watch, before) = (Stopwatch::start(), run.acknowledged.load(Ordering::Relaxed));
    }
    tokio::select! {
        done = tasks.until_end(end, &mut latencies) => done?,
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
    let acknowledged = run.acknowledged.load(Ordering::Relaxed);
    let (elapsed, cpu_seconds) = watch.read();
    run.stop.store(true, Ordering::Relaxed);
    tasks.all(&mut latencies).await?;

    let measured = acknowledged - before;
    if measured == 0 {
        return Err(Failure::new(Exit::Failure, "nothing was acknowledged while it was measured")
            .hint("measure longer, or with a shorter --warmup-seconds"));
    }
    let bytes = measured * u64::from(args.load.record_bytes);
    let mut data = json!({
        "topic": args.topic,
        "producers": args.load.producers,
        "record_bytes": args.load.record_bytes,
        "batch_records": args.load.batch_records,
        "compression": format!("{:?}", args.load.compression).to_lowercase(),
        "acks": format!("{:?}", args.load.acks).to_lowercase(),
        "rate_mb": args.rate_mb,
        "records": measured,
        "bytes": bytes,
        "seconds": round(elapsed),
        "mb_per_s": round(bytes as f64 / 1e6 / elapsed),
        "records_per_s": round(measured as f64 / elapsed),
        "client_cpu_seconds": round(cpu_seconds),
        "client_cpu_seconds_per_gb": round(cpu_seconds / (bytes as f64 / 1e9)),
        "warmup_records": before,
    });
    if let Value::Object(data) = &mut data {
        latencies.report(data);
    }
    print(&format!("produce to {}", args.topic), &data, output)
}

/// Connected producers, so that the measurement is not of connecting.
pub struct Fleet {
    topic: String,
    load: LoadArgs,
    /// Each with the number of the topic's partitions.
    producers: Vec<(Producer, i32)>,
    payload: Payload,
}

/// Producers at work.
pub struct Tasks(JoinSet<Result<Latencies, Failure>>);

impl Fleet {
    pub async fn start(topic: &str, load: &LoadArgs, settings: &Settings) -> Result<Self, Failure> {
        let mut producers = Vec::new();
        for _ in 0..load.producers {
            let producer = client(settings).await?.producer(load.config()?).await?;
            let partitions = producer.partitions(topic).await?;
            producers.push((producer, partitions));
        }
        let payload = Payload::new(load.record_bytes);
        Ok(Self { topic: topic.to_string(), load: load.clone(), producers, payload })
    }

    /// Sets the producers to work, at their own pace or at a rate.
    pub fn spawn(self, rate_mb: Option<f64>, end: Option<Instant>, run: &Arc<Run>, stamped: bool) -> Tasks {
        let mut tasks = JoinSet::new();
        let mut paced = Vec::new();
        for (n, (producer, partitions)) in (0..).zip(self.producers) {
            let due = rate_mb.map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                paced.push(sender);
                receiver
            });
            let load = Load {
                producer,
                topic: self.topic.clone(),
                partitions,
                first_partition: n % partitions.max(1),
                batch_records: u64::from(self.load.batch_records),
                in_flight: self.load.in_flight(partitions),
                payload: self.payload.clone(),
                stamped,
                run: Arc::clone(run),
            };
            tasks.spawn(load.drive(due));
        }
        if let Some(rate_mb) = rate_mb {
            let batches_per_s = rate_mb * 1e6 / self.load.batch_bytes() as f64;
            let pace = Pace { batches_per_s, start: run.started, end };
            let run = Arc::clone(run);
            tokio::task::spawn_blocking(move || pace.keep(&paced, &run.stop));
        }
        Tasks(tasks)
    }
}

impl Tasks {
    /// Returns at a time, or at the first failure.
    pub async fn until(&mut self, at: Instant, latencies: &mut Latencies) -> Result<(), Failure> {
        let mut sleep = std::pin::pin!(tokio::time::sleep_until(at.into()));
        loop {
            tokio::select! {
                biased;
                () = &mut sleep => return Ok(()),
                Some(done) = self.0.join_next() => merge(done, latencies)?,
            }
        }
    }

    /// Returns at the end of the run, if it has one, or when every producer is done.
    async fn until_end(&mut self, end: Option<Instant>, latencies: &mut Latencies) -> Result<(), Failure> {
        match end {
            Some(end) => self.until(end, latencies).await,
            None => self.all(latencies).await,
        }
    }

    /// Returns when every producer is done.
    pub async fn all(&mut self, latencies: &mut Latencies) -> Result<(), Failure> {
        while let Some(done) = self.0.join_next().await {
            merge(done, latencies)?;
        }
        Ok(())
    }
}

fn merge(
    done: Result<Result<Latencies, Failure>, tokio::task::JoinError>,
    latencies: &mut Latencies,
) -> Result<(), Failure> {
    latencies.merge(&done.map_err(|e| Failure::new(Exit::Failure, format!("a producer broke down: {e}")))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_rates_are_numbers_above_zero() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        assert_eq!(warm_up("0"), Ok(0.0));
        for bad in ["0", "-1", "inf", "NaN", "x", "1e9"] {
            assert!(seconds(bad).is_err() && rate(bad).is_err(), "{bad}");
        }
    }
}
