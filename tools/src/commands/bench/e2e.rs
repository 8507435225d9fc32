//! `streamctl bench e2e`: from the time at which a record was due to its arrival at a consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_client::{Client, Consumer, ConsumerConfig, Position, TopicPartition};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::consume::share;
use super::cpu::Stopwatch;
use super::latency::Latencies;
use super::load::Run;
use super::produce::{Fleet, rate, seconds, warm_up};
use super::{LoadArgs, client, payload, print, round};
use crate::commands::offsets;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;

/// How long the last records may take to arrive once they are acknowledged.
const STRAGGLERS: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Batches are due at fixed times (open loop); a latency counts from the time at which its batch was due to \
its arrival at a consumer in the same process. Every record must arrive.

Examples:
  streamctl bench e2e load --rate-mb 10 --batch-records 16 --seconds 20
  streamctl bench e2e load --rate-mb 10 --producers 2 --consumers 2 --seconds 20 -o json")]
#[command(group = clap::ArgGroup::new("length").required(true))]
pub struct BenchE2eArgs {
    /// A topic that exists; it is filled.
    topic: String,
    #[command(flatten)]
    load: LoadArgs,
    /// Consumers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    consumers: u32,
    /// Send so many records in all.
    #[arg(long, value_name = "N", group = "length", value_parser = clap::value_parser!(u64).range(1..u64::MAX))]
    records: Option<u64>,
    /// Send for so long, after the warm-up.
    #[arg(long, value_name = "N", group = "length", value_parser = seconds)]
    seconds: Option<f64>,
    /// Offer so much, over all producers.
    #[arg(long, value_name = "MB/S", default_value = "10", value_parser = rate)]
    rate_mb: f64,
    /// Do not measure the first seconds.
    #[arg(long, value_name = "N", default_value = "1", value_parser = warm_up)]
    warmup_seconds: f64,
}

pub async fn run(args: BenchE2eArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let consumers = start_consumers(&args, settings).await?;
    let fleet = Fleet::start(&args.topic, &args.load, settings).await?;
    let started = Instant::now();
    let measure_from = started + Duration::from_secs_f64(args.warmup_seconds);
    let end = args.seconds.map(|seconds| measure_from + Duration::from_secs_f64(seconds));
    let run = Arc::new(Run {
        id: crate::position::now_ms().unsigned_abs() << 20 | u64::from(std::process::id()),
        started,
        measure_from,
        stop: AtomicBool::new(false),
        budget: AtomicU64::new(args.records.unwrap_or(u64::MAX)),
        acknowledged: AtomicU64::new(0),
    });
    let readers = Readers::start(consumers, &run);
    let (mut watch, mut before) = (Stopwatch::start(), 0);
    let mut tasks = fleet.spawn(Some(args.rate_mb), end, &run, true);
    let mut acks = Latencies::new()?;
    if args.warmup_seconds > 0.0 {
        tasks.until(measure_from, &mut acks).await?;
        (watch, before) = (Stopwatch::start(), readers.received());
    }
    tasks.all(&mut acks).await?;
    let sent = run.acknowledged.load(Ordering::Relaxed);
    readers.stragglers(sent).await;
    let (elapsed_seconds, cpu_seconds) = watch.read();
    let (arrived, latencies) = readers.end().await?;
    let measured = Measured { sent, arrived, before, elapsed_seconds, cpu_seconds, acks, latencies };
    print(&format!("end to end through {}", args.topic), &report(&args, &measured), output)?;
    if arrived < sent {
        let text = format!("{} of {sent} acknowledged records have not arrived", sent - arrived);
        return Err(Failure::new(Exit::Failure, text));
    }
    Ok(())
}

struct Measured {
    sent: u64,
    arrived: u64,
    /// Of those that arrived, before the measurement.
    before: u64,
    elapsed_seconds: f64,
    cpu_seconds: f64,
    acks: Latencies,
    latencies: Latencies,
}

fn report(args: &BenchE2eArgs, measured: &Measured) -> Value {
    let Measured { sent, arrived, elapsed_seconds, cpu_seconds, .. } = *measured;
    let records = arrived - measured.before;
    let bytes = records * u64::from(args.load.record_bytes);
    let mut data = json!({
        "topic": args.topic,
        "producers": args.load.producers,
        "consumers": args.consumers,
        "record_bytes": args.load.record_bytes,
        "batch_records": args.load.batch_records,
        "rate_mb": args.rate_mb,
        "records": records,
        "bytes": bytes,
        "seconds": round(elapsed_seconds),
        "mb_per_s": round(bytes as f64 / 1e6 / elapsed_seconds),
        "records_per_s": round(records as f64 / elapsed_seconds),
        "client_cpu_seconds": round(cpu_seconds),
        "client_cpu_seconds_per_gb": round(cpu_seconds / (bytes as f64 / 1e9).max(1e-9)),
        "ack_p50_ms": measured.acks.millis(0.5),
        "ack_p99_ms": measured.acks.millis(0.99),
        "missing": sent.saturating_sub(arrived),
    });
    if let Value::Object(data) = &mut data {
        measured.latencies.report(data);
    }
    data
}

/// The consumers at work, and what they got.
struct Readers {
    tasks: JoinSet<Result<Latencies, Failure>>,
    received: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
}

impl Readers {
    fn start(consumers: Vec<Consumer>, run: &Arc<Run>) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for consumer in consumers {
            tasks.spawn(read(consumer, Arc::clone(run), Arc::clone(&received), stopped.clone()));
        }
        Self { tasks, received, stop }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until so many have arrived, for as long as the last ones may take.
    async fn stragglers(&self, sent: u64) {
        let deadline = Instant::now() + STRAGGLERS;
        while self.received() < sent && Instant::now() < deadline && !self.tasks.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many records arrived, and after how long.
    async fn end(mut self) -> Result<(u64, Latencies), Failure> {
        // Consumers that have failed already no longer listen.
        let _ = self.stop.send(true);
        let mut latencies = Latencies::new()?;
        while let Some(done) = self.tasks.join_next().await {
            let broke = |e| Failure::new(Exit::Failure, format!("a consumer broke down: {e}"));
            latencies.merge(&done.map_err(broke)??)?;
        }
        Ok((self.received(), latencies))
    }
}

/// Consumers that stand at the end of their partitions, so that nothing of the run passes by unseen.
async fn start_consumers(args: &BenchE2eArgs, settings: &Settings) -> Result<Vec<Consumer>, Failure> {
    let admin: Client = client(settings).await?;
    let bounds = offsets::bounds(&admin.admin(), &args.topic, &[]).await?;
    let partitions: Vec<i32> = bounds.keys().copied().collect();
    // Two consumers of one partition would count its records twice.
    let count = (args.consumers as usize).min(partitions.len());
    let mut consumers = Vec::new();
    for n in 0..count {
        let mut consumer = client(settings).await?.consumer(ConsumerConfig::default())?;
        let mine = share(&partitions, n, count).into_iter();
        let mine =
            mine.map(|p| (TopicPartition::new(args.topic.as_str(), p), Position::Offset(bounds[&p].end)));
        consumer.assign(mine.collect::<Vec<_>>()).await?;
        consumers.push(consumer);
    }
    Ok(consumers)
}

/// Takes the time of each batch of this run as it arrives; all records of a batch were due together.
async fn read(
    mut consumer: Consumer,
    run: Arc<Run>,
    received: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Latencies, Failure> {
    let mut latencies = Latencies::new()?;
    loop {
        let batch = tokio::select! {
            biased;
            batch = consumer.next_batch() => batch?,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(latencies),
        };
        let arrived = Instant::now();
        let damaged = |e| Failure::new(Exit::Failure, format!("{}: {e}", batch.partition));
        let first = batch.records().map_err(damaged)?.next().transpose().map_err(damaged)?;
        let value = first.and_then(|record| record.value).unwrap_or_default();
        let Some(due) = payload::due(&value, run.id).map(|due| run.started + due) else { continue };
        let records = batch.offset_count().unsigned_abs();
        received.fetch_add(records, Ordering::Relaxed);
        if due >= run.measure_from {
            latencies.record(arrived.saturating_duration_since(due), records);
        }
    }
}
