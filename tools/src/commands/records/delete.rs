//! `streamctl records delete`: records are deleted from the start of a partition up to an offset.

use headwater_client::TopicPartition;
use serde_json::json;

use crate::commands::confirm::confirm;
use crate::commands::offsets;
use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::{Output, grouped};
use crate::position::{PLACES_HELP, Place, parse};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = format!("\
Examples:
  streamctl records delete flights --before 1000 --partition 0
  streamctl records delete flights --before 30d-ago --dry-run
  streamctl records delete flights --before end --yes

{PLACES_HELP}"))]
pub struct DeleteArgs {
    /// The topic whose records are deleted.
    topic: String,
    /// The first record to keep: a place, see the end of --help.
    #[arg(long, value_name = "PLACE", value_parser = parse)]
    before: Place,
    /// Only in these partitions; in all of them when not given.
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Show what would be deleted, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: DeleteArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let bounds = offsets::bounds(&admin, &args.topic, &args.partition).await?;
    let before = offsets::resolve(&admin, &args.topic, args.before, &bounds).await?;
    let total: i64 = bounds.iter().map(|(partition, b)| before[partition] - b.start).sum();
    if !args.dry_run {
        confirm(&format!("Delete {} records of {}?", grouped(total), args.topic), args.yes)?;
    }
    let asked =
        before.iter().map(|(p, offset)| (TopicPartition::new(args.topic.as_str(), *p), Some(*offset)));
    let mut tally = Tally::default();
    let mut rows = Vec::new();
    let mut deleted = |partition: i32, log_start: i64| {
        let records = (log_start - bounds[&partition].start).max(0);
        rows.push((partition, records, log_start));
    };
    if args.dry_run {
        before.iter().for_each(|(partition, offset)| deleted(*partition, *offset));
    } else {
        for (partition, result) in admin.delete_records(asked.collect()).await? {
            match result {
                Ok(log_start) => {
                    deleted(partition.partition, log_start);
                    tally.done();
                }
                Err(e) => tally.failed(e.into()),
            }
        }
    }
    let status = if args.dry_run { "would_be_deleted" } else { "deleted" };
    let data: Vec<_> = rows
        .iter()
        .map(|(partition, records, log_start)| {
            json!({
                "topic": args.topic,
                "partition": partition,
                "status": status,
                "records": records,
                "log_start_offset": log_start,
            })
        })
        .collect();
    if !rows.is_empty() {
        output.report(&data, |page| {
            let heading = if args.dry_run { ">WOULD BE DELETED" } else { ">DELETED" };
            let rows = rows
                .iter()
                .map(|(p, records, start)| vec![p.to_string(), grouped(*records), grouped(*start)]);
            page.table(&[">PARTITION", heading, ">LOG START"], rows);
        })?;
    }
    tally.finish()
}
