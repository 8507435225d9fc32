//! `streamctl produce`: records in.
//!
//! Invariants: memory is bounded by the client's buffer and a few chunks of input, whatever the size
//! of the input; records of one key reach their partition in the order of the input; what is reported
//! as acknowledged is.

mod args;
mod ledger;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_client::{ClientError, Producer, ProducerRecord};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use args::{AcksArg, Codec, ProduceArgs};
use ledger::{Ledger, Sent};
use report::report;

use crate::connect::connect_within;
use crate::exit::{Exit, Failure};
use crate::input::{Chunk, FeedOptions, InputError, InputRecord, feed};
use crate::output::Output;
use crate::progress::Progress;
use crate::settings::Settings;

/// Chunks of input that wait for the producer.
const CHUNKS_AHEAD: usize = 4;

/// How often the progress is shown while nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// How the input came to its end.
enum End {
    Whole,
    Input(InputError),
    /// The record at this place could not be handed to the producer.
    Refused(String, Failure),
    Interrupted,
    /// A delivery failed, the ledger knows which.
    Failed,
}

pub async fn run(args: ProduceArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let config = args.config()?;
    let layout = args.layout()?;
    // A file that is not there is told before anything is sent.
    for path in args.files.iter().filter(|path| path.as_os_str() != "-") {
        std::fs::metadata(path).map_err(|e| Failure::file("read", path.display(), &e))?;
    }
    let client = connect_within(settings, args.delivery_timeout).await?;
    let producer = client.producer(config).await.map_err(|e| nothing_sent(&args, e))?;
    let partitions = producer.partitions(&args.topic).await.map_err(|e| nothing_sent(&args, e))?;
    if let Some(partition) = args.partition.filter(|p| *p >= partitions) {
        return Err(Failure::new(
            Exit::NotFound,
            format!("topic {} has no partition {partition}; it has {partitions}, from 0", args.topic),
        ));
    }

    let read_bytes = Arc::new(AtomicU64::new(0));
    let progress = Progress::new(&args.files, output.quiet);
    let options = FeedOptions { paths: args.files.clone(), layout, read_bytes: Arc::clone(&read_bytes) };
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || feed(&options, &sender));

    let started = Instant::now();
    let mut ledger = Ledger::default();
    let shown = Shown { progress: &progress, read_bytes: &read_bytes };
    let end = send_all(&args, &producer, chunks, &mut ledger, &shown).await;
    // Whatever ended the input, everything that was accepted gets its chance.
    settle(&producer, &mut ledger, &shown).await;
    progress.finish();
    report(&args.topic, &ledger, &producer.stats(), started.elapsed(), end, output)
}

/// The cluster could not be asked for what a producer needs before it may send anything.
fn nothing_sent(args: &ProduceArgs, error: ClientError) -> Failure {
    let failure = Failure::from(error);
    if failure.exit != Exit::Unreachable {
        return failure;
    }
    let topic = &args.topic;
    let place = args.partition.map_or_else(|| topic.clone(), |partition| format!("{topic}/{partition}"));
    failure.at(format!("not acknowledged: no record was sent to {place}, so none is stored")).hint(
        "`streamctl partition list --unhealthy` shows what is missing; --delivery-timeout 5m waits longer",
    )
}

/// What the progress bar needs.
struct Shown<'a> {
    progress: &'a Progress,
    read_bytes: &'a AtomicU64,
}

impl Shown<'_> {
    fn now(&self, ledger: &Ledger) {
        self.progress.show(self.read_bytes.load(Ordering::Relaxed), ledger.acknowledged());
    }
}

async fn send_all(
    args: &ProduceArgs,
    producer: &Producer,
    mut chunks: mpsc::Receiver<Result<Chunk, InputError>>,
    ledger: &mut Ledger,
    shown: &Shown<'_>,
) -> End {
    let topic: Arc<str> = args.topic.as_str().into();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(TICK);
    loop {
        let chunk = tokio::select! {
            biased;
            _ = &mut interrupt => return End::Interrupted,
            chunk = chunks.recv() => chunk,
            _ = tick.tick() => {
                ledger.collect();
                shown.now(ledger);
                if ledger.has_failed() {
                    return End::Failed;
                }
                continue;
            }
        };
        let chunk = match chunk {
            None => return End::Whole,
            Some(Err(e)) => return End::Input(e),
            Some(Ok(chunk)) => chunk,
        };
        let source = ledger.source(&chunk.source_name);
        for (line, record) in chunk.records {
            let bytes = size(&record);
            let mut sending = std::pin::pin!(producer.send(args.record(&topic, record)));
            let delivery = loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => break sent,
                    _ = &mut interrupt => return End::Interrupted,
                    // The buffer is full: the broker is slow, or away.
                    _ = tick.tick() => {
                        ledger.collect();
                        shown.now(ledger);
                    }
                }
            };
            match delivery {
                Ok(delivery) => ledger.sent(Sent { delivery, source, line, bytes }),
                Err(e) => return End::Refused(format!("{} line {line}", chunk.source_name), e.into()),
            }
            if ledger.has_failed() {
                return End::Failed;
            }
        }
        ledger.collect();
        shown.now(ledger);
    }
}

/// Waits until the fate of each accepted record is known; a second interrupt ends the wait.
async fn settle(producer: &Producer, ledger: &mut Ledger, shown: &Shown<'_>) {
    let mut flush = std::pin::pin!(producer.flush());
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            () = &mut flush => break,
            _ = &mut interrupt => break,
            _ = tick.tick() => {
                ledger.collect();
                shown.now(ledger);
            }
        }
    }
    ledger.collect();
}

fn size(record: &InputRecord) -> u32 {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    u32::try_from(length(&record.key) + length(&record.value)).unwrap_or(u32::MAX)
}

impl ProduceArgs {
    fn record(&self, topic: &Arc<str>, record: InputRecord) -> ProducerRecord {
        let mut headers = record.headers;
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
        ProducerRecord {
            topic: Arc::clone(topic),
            partition: if self.keep_partition { record.partition } else { None }.or(self.partition),
            key: record.key.or_else(|| self.key.clone().map(Into::into)),
            value: record.value,
            headers,
            timestamp_ms: record.timestamp,
        }
    }
}
