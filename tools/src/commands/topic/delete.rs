//! `streamctl topic delete`.

use headwater_client::ErrorCode;
use serde_json::json;

use crate::commands::confirm::confirm;
use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::{Output, bytes, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  streamctl topic delete flights
  streamctl topic delete flights audit --yes
  streamctl topic delete flights --dry-run")]
pub struct DeleteArgs {
    /// The topics to delete.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// A topic that does not exist is no error.
    #[arg(long)]
    if_exists: bool,
    /// Show what would be deleted, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: DeleteArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    if !args.dry_run {
        confirm(&format!("Delete {} and all records in it?", args.topics.join(", ")), args.yes)?;
    }
    let admin = connect(settings).await?.admin();
    let mut tally = Tally::default();
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    let results = if args.dry_run {
        let found = admin.describe_topics(args.topics.clone()).await?;
        found.into_iter().map(|(name, result)| (name, result.map(|_| ()))).collect()
    } else {
        admin.delete_topics(args.topics.clone()).await?
    };
    for (name, result) in results {
        match result {
            Ok(()) if args.dry_run => {
                let partitions = admin.describe_partitions([name.clone()]).await?;
                let records: i64 = partitions.iter().map(|p| p.high_watermark - p.log_start_offset).sum();
                let size: u64 = partitions.iter().map(|p| p.size_bytes).sum();
                lines.push(format!(
                    "topic {name} would be deleted: {} records, {}",
                    grouped(records),
                    bytes(size)
                ));
                rows.push(
                    json!({ "name": name, "status": "exists", "records": records, "size_bytes": size }),
                );
                tally.done();
            }
            Ok(()) => {
                lines.push(format!("topic {name} deleted"));
                rows.push(json!({ "name": name, "status": "deleted" }));
                tally.done();
            }
            Err(e) if args.if_exists && e.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                lines.push(format!("topic {name} does not exist"));
                rows.push(json!({ "name": name, "status": "absent" }));
                tally.done();
            }
            Err(e) => tally.failed(e.into()),
        }
    }
    if !rows.is_empty() {
        output.report(&rows, |page| lines.iter().for_each(|line| page.line(line)))?;
    }
    tally.finish()
}
