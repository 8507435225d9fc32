//! `streamctl bench consume`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_client::{Consumer, ConsumerConfig, Position, TopicPartition};
use serde_json::json;
use tokio::task::JoinSet;

use super::cpu::Stopwatch;
use super::produce::{seconds, warm_up};
use super::{client, print, round};
use crate::commands::offsets;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads from the start; a consumer that has reached the end begins again. Batches are checked (CRC-32C)
as any consumer checks them, and counted by their headers. MB are 10^6 bytes of record batches.

Examples:
  streamctl bench consume load --consumers 2 --seconds 10
  streamctl bench consume load --consumers 1 --records 4000000 -o json")]
#[command(group = clap::ArgGroup::new("length").required(true))]
pub struct BenchConsumeArgs {
    /// A topic with records in it.
    topic: String,
    /// Consumers, each with a connection of its own; the partitions are dealt out among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    consumers: u32,
    /// Read so many records in all.
    #[arg(long, value_name = "N", group = "length", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Read for so long, after the warm-up.
    #[arg(long, value_name = "N", group = "length", value_parser = seconds)]
    seconds: Option<f64>,
    /// Do not measure the first seconds [default: 1 with --seconds, 0 with --records].
    #[arg(long, value_name = "N", value_parser = warm_up)]
    warmup_seconds: Option<f64>,
    /// Bytes of one message of the stream.
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=32 << 20))]
    message_bytes: u32,
    /// Do not check batches, to see what the check costs.
    #[arg(long)]
    no_crc: bool,
}

/// What all consumers of a run share.
#[derive(Debug, Default)]
struct Read {
    records: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

pub async fn run(args: BenchConsumeArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = client(settings).await?.admin();
    let bounds = offsets::bounds(&admin, &args.topic, &[]).await?;
    let filled: Vec<i32> = bounds.iter().filter(|(_, b)| b.end > b.start).map(|(p, _)| *p).collect();
    if filled.is_empty() {
        return Err(Failure::new(Exit::Conflict, format!("topic {} is empty", args.topic))
            .hint(format!("fill it with `streamctl bench produce {} --seconds 10`", args.topic)));
    }
    let config = ConsumerConfig {
        max_message_bytes: args.message_bytes,
        check_crc: !args.no_crc,
        ..ConsumerConfig::default()
    };
    let mut consumers = Vec::new();
    for n in 0..args.consumers as usize {
        let partitions = share(&filled, n, args.consumers as usize);
        let partitions =
            partitions.into_iter().map(|p| TopicPartition::new(args.topic.as_str(), p)).collect::<Vec<_>>();
        consumers.push((client(settings).await?.consumer(config.clone())?, partitions));
    }

    let read = Arc::new(Read::default());
    let warm_up = args.warmup_seconds.unwrap_or(if args.seconds.is_some() { 1.0 } else { 0.0 });
    let (mut watch, mut records_before, mut bytes_before) = (Stopwatch::start(), 0, 0);
    let mut tasks = JoinSet::new();
    for (consumer, partitions) in consumers {
        tasks.spawn(drive(consumer, partitions, Arc::clone(&read), args.records.filter(|_| warm_up == 0.0)));
    }
    let measure_from = Instant::now() + Duration::from_secs_f64(warm_up);
    if warm_up > 0.0 {
        until(&mut tasks, Some(measure_from), || false).await?;
        watch = Stopwatch::start();
        records_before = read.records.load(Ordering::Relaxed);
        bytes_before = read.bytes.load(Ordering::Relaxed);
    }
    let enough = || {
        let so_far = read.records.load(Ordering::Relaxed) - records_before;
        args.records.is_some_and(|records| so_far >= records)
    };
    let end = args.seconds.map(|seconds| measure_from + Duration::from_secs_f64(seconds));
    until(&mut tasks, end, enough).await?;
    let (elapsed, cpu_seconds) = watch.read();
    let records = read.records.load(Ordering::Relaxed) - records_before;
    let bytes = read.bytes.load(Ordering::Relaxed) - bytes_before;
    read.stop.store(true, Ordering::Relaxed);
    tasks.shutdown().await;

    let data = json!({
        "topic": args.topic,
        "consumers": args.consumers,
        "message_bytes": args.message_bytes,
        "records": records,
        "bytes": bytes,
        "seconds": round(elapsed),
        "mb_per_s": round(bytes as f64 / 1e6 / elapsed),
        "records_per_s": round(records as f64 / elapsed),
        "client_cpu_seconds": round(cpu_seconds),
        "client_cpu_seconds_per_gb": round(cpu_seconds / (bytes as f64 / 1e9).max(1e-9)),
        "warmup_records": records_before,
    });
    print(&format!("consume from {}", args.topic), &data, output)
}

/// Partitions of the `n`th of `of` consumers; with more consumers than partitions some read the same.
pub fn share(partitions: &[i32], n: usize, of: usize) -> Vec<i32> {
    if of > partitions.len() {
        return vec![partitions[n % partitions.len()]];
    }
    partitions.iter().copied().skip(n).step_by(of).collect()
}

/// Reads round and round until it is stopped, or all consumers together have read `limit` records.
async fn drive(
    mut consumer: Consumer,
    partitions: Vec<TopicPartition>,
    read: Arc<Read>,
    limit: Option<u64>,
) -> Result<(), Failure> {
    loop {
        consumer.assign(partitions.iter().map(|p| (p.clone(), Position::Start))).await?;
        loop {
            let batch = consumer.next_batch().await?;
            read.bytes.fetch_add(batch.size_bytes() as u64, Ordering::Relaxed);
            let count = batch.offset_count().unsigned_abs();
            let total = read.records.fetch_add(count, Ordering::Relaxed) + count;
            if read.stop.load(Ordering::Relaxed) || limit.is_some_and(|limit| total >= limit) {
                return Ok(());
            }
            if consumer.at_end() {
                break;
            }
        }
    }
}

/// Returns at a time, when `enough`, when all tasks are done, or at the first failure.
async fn until(
    tasks: &mut JoinSet<Result<(), Failure>>,
    at: Option<Instant>,
    enough: impl Fn() -> bool,
) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    loop {
        if at.is_some_and(|at| Instant::now() >= at) || enough() {
            return Ok(());
        }
        tokio::select! {
            done = tasks.join_next() => match done {
                None => return Ok(()),
                Some(done) => done.map_err(|e| Failure::new(Exit::Failure, format!("a consumer broke down: {e}")))??,
            },
            _ = tick.tick() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_dealt_out_and_every_consumer_has_some() {
        assert_eq!(share(&[0, 1, 2, 5, 7], 0, 2), [0, 2, 7]);
        assert_eq!(share(&[0, 1, 2, 5, 7], 1, 2), [1, 5]);
        assert_eq!(share(&[3, 4], 2, 3), [3]);
        assert_eq!(share(&[3, 4], 1, 3), [4]);
    }
}
