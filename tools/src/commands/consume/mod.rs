//! `streamctl consume`: records out.
//!
//! Invariants: without --follow it ends, at the latest at the end that the partitions had when it
//! began; records of a partition come in their order; what was printed is flushed before it waits.

mod sink;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

use futures_util::FutureExt;
use headwater_client::{ConsumedBatch, Consumer, ConsumerConfig, OffsetPolicy, Position, TopicPartition};

use sink::Sink;

use super::offsets;
use crate::connect::connect;
use crate::envelope::Received;
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output};
use crate::position::{PLACES_HELP, Place, parse};
use crate::settings::Settings;
use crate::template::{TEMPLATE_HELP, Template};

#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Output:
  (nothing)  each value on a line, byte for byte
  -o jsonl   an envelope a line: partition, offset, timestamp (ms), key, headers, value; bytes that
             are no text as base64, marked by key_encoding or value_encoding
  -o json    all envelopes in one array     -o yaml  a document each     -o table  columns

{PLACES_HELP}

{TEMPLATE_HELP}

Examples:
  streamctl consume flights --from start --until end
  streamctl consume flights --from 2h-ago --follow
  streamctl consume flights --from end-10 -o jsonl
  streamctl consume flights --template '{{key}}\\t{{value}}' --max 100"))]
pub struct ConsumeArgs {
    /// The topic to read.
    topic: String,
    /// The first record: a place, see below [default: start; with --follow end].
    #[arg(long, value_name = "PLACE", value_parser = parse)]
    from: Option<Place>,
    /// Where to stop: a place, or the end as it is now when there are fewer records [default: end].
    #[arg(long, value_name = "PLACE", value_parser = parse, conflicts_with = "follow")]
    until: Option<Place>,
    /// Stop after so many records.
    #[arg(short = 'n', long, value_name = "N")]
    max: Option<u64>,
    /// Wait for records to come, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Only from these partitions; from all of them when not given.
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Lay out each record, as '{key}\t{value}'; see below.
    #[arg(short, long, conflicts_with = "output")]
    template: Option<Template>,
}

/// `format` is the --output flag itself: a context's preference is for reports, not for records.
pub async fn run(
    args: ConsumeArgs,
    settings: &Settings,
    output: Output,
    format: Option<Format>,
) -> Result<(), Failure> {
    let client = connect(settings).await?;
    let admin = client.admin();
    let bounds = offsets::bounds(&admin, &args.topic, &args.partition).await?;
    let from = args.from.unwrap_or(if args.follow { Place::End } else { Place::Start });
    let from = offsets::resolve(&admin, &args.topic, from, &bounds).await?;
    let until = match args.follow {
        true => None,
        false => {
            Some(offsets::resolve(&admin, &args.topic, args.until.unwrap_or(Place::End), &bounds).await?)
        }
    };
    let mut plan = Plan::new(&from, until.as_ref(), args.max);
    let mut sink = Sink::new(BufWriter::with_capacity(256 << 10, io::stdout().lock()), format, args.template);
    if plan.is_done() {
        return sink.finish();
    }
    let mut consumer = client.consumer(ConsumerConfig {
        // Retention may pass by while we read; what is gone is gone.
        offset_policy: OffsetPolicy::Earliest,
        ..ConsumerConfig::default()
    })?;
    let topic: std::sync::Arc<str> = args.topic.as_str().into();
    let assigned = from.iter().filter(|(partition, _)| plan.wants(**partition));
    let assigned = assigned.map(|(partition, offset)| {
        (TopicPartition { topic: topic.clone(), partition: *partition }, Position::Offset(*offset))
    });
    consumer.assign(assigned.collect::<Vec<_>>()).await?;
    let ended = read(&mut consumer, &mut plan, &mut sink).await?;
    sink.finish()?;
    match ended {
        Ended::Complete => Ok(()),
        // To be interrupted is how following ends.
        Ended::Interrupted if args.follow => Ok(()),
        Ended::Interrupted => {
            output.note(format!("interrupted after {} records", plan.taken));
            Err(Failure::new(Exit::Partial, "interrupted before the end"))
        }
    }
}

enum Ended {
    Complete,
    Interrupted,
}

async fn read<W: Write>(
    consumer: &mut Consumer,
    plan: &mut Plan,
    sink: &mut Sink<W>,
) -> Result<Ended, Failure> {
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while !plan.is_done() {
        let batch = match consumer.next_batch().now_or_never() {
            Some(batch) => batch?,
            None => {
                sink.flush()?;
                tokio::select! {
                    batch = consumer.next_batch() => batch?,
                    _ = &mut interrupt => return Ok(Ended::Interrupted),
                }
            }
        };
        let partition = batch.partition.partition;
        if !plan.wants(partition) {
            continue;
        }
        take(&batch, plan, sink)?;
        if !plan.wants(partition) {
            consumer.pause(&batch.partition)?;
        }
    }
    Ok(Ended::Complete)
}

fn take<W: Write>(batch: &ConsumedBatch, plan: &mut Plan, sink: &mut Sink<W>) -> Result<(), Failure> {
    let partition = batch.partition.partition;
    let damaged = |e| {
        Failure::new(Exit::Failure, format!("{} from offset {}: {e}", batch.partition, batch.first_offset))
            .hint("`streamctl dump DATA_DIR` shows on the broker's host what is damaged there")
    };
    for record in batch.records().map_err(damaged)? {
        let record = record.map_err(damaged)?;
        if !plan.take(partition, record.offset) {
            break;
        }
        sink.write(&Received {
            topic: &record.topic,
            partition,
            offset: record.offset,
            timestamp: record.timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: record.headers.iter().map(|h| (h.key.as_ref(), h.value.as_deref())).collect(),
        })?;
    }
    plan.reached(partition, batch.next_offset());
    Ok(())
}

/// What is still wanted: offsets below a bound in each partition, and so many records in all.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Partitions that are not done, each with the first offset not wanted; `None` follows for ever.
    open: BTreeMap<i32, Option<i64>>,
    left: Option<u64>,
    taken: u64,
}

impl Plan {
    fn new(from: &BTreeMap<i32, i64>, until: Option<&BTreeMap<i32, i64>>, max: Option<u64>) -> Self {
        let open = from
            .iter()
            .map(|(partition, offset)| {
                (*partition, *offset, until.and_then(|until| until.get(partition).copied()))
            })
            .filter(|(_, offset, until)| until.is_none_or(|until| *offset < until))
            .map(|(partition, _, until)| (partition, until))
            .collect();
        Self { open, left: max, taken: 0 }
    }

    fn is_done(&self) -> bool {
        self.open.is_empty() || self.left == Some(0)
    }

    fn wants(&self, partition: i32) -> bool {
        self.left != Some(0) && self.open.contains_key(&partition)
    }

    /// Whether the record at this offset is wanted; counts it when it is.
    fn take(&mut self, partition: i32, offset: i64) -> bool {
        let wanted = self.left != Some(0)
            && self.open.get(&partition).is_some_and(|until| until.is_none_or(|until| offset < until));
        if wanted {
            self.taken += 1;
            self.left = self.left.map(|left| left - 1);
        }
        wanted
    }

    /// Everything below `next` has been seen: compaction may have left nothing at the bound itself.
    fn reached(&mut self, partition: i32, next: i64) {
        if self.open.get(&partition).is_some_and(|until| until.is_some_and(|until| next >= until)) {
            self.open.remove(&partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(pairs: &[(i32, i64)]) -> BTreeMap<i32, i64> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn a_plan_ends_when_each_partition_has_reached_its_bound() {
        let mut plan =
            Plan::new(&offsets(&[(0, 5), (1, 0), (2, 7)]), Some(&offsets(&[(0, 7), (1, 0), (2, 7)])), None);
        assert!(plan.wants(0) && !plan.wants(1) && !plan.wants(2));
        assert!(plan.take(0, 5) && plan.take(0, 6) && !plan.take(0, 7));
        assert!(!plan.is_done());
        plan.reached(0, 6);
        assert!(!plan.is_done());
        plan.reached(0, 9);
        assert!(plan.is_done());
        assert_eq!(plan.taken, 2);
    }

    #[test]
    fn a_maximum_ends_it_in_the_middle_of_a_batch() {
        let mut plan = Plan::new(&offsets(&[(0, 0)]), None, Some(2));
        assert!(plan.take(0, 0) && plan.take(0, 1) && !plan.take(0, 2));
        assert!(plan.is_done());
        assert!(Plan::new(&offsets(&[(0, 0)]), None, Some(0)).is_done());
    }

    #[test]
    fn following_never_ends_by_itself() {
        let mut plan = Plan::new(&offsets(&[(0, 0)]), None, None);
        plan.reached(0, i64::MAX);
        assert!(plan.take(0, i64::MAX - 1) && !plan.is_done());
    }
}
