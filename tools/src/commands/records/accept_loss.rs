//! `streamctl records accept-loss`: the one way to go on with a damaged partition that has no other replica.

use headwater_client::{PartitionDescription, TopicPartition};
use serde_json::json;

use crate::commands::confirm::confirm;
use crate::connect::connect;
use crate::exit::{Exit, Failure, Tally};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A partition whose records are damaged can be read where they are intact, and takes no more records until \
its damage is gone: repaired from another replica, or accepted as lost by this command. `streamctl topic describe` \
shows the damage, `streamctl dump DATA_DIR` on the broker's host each place of it.

Examples:
  streamctl records accept-loss flights --dry-run
  streamctl records accept-loss flights --partition 3")]
pub struct AcceptLossArgs {
    /// The topic with the damage.
    topic: String,
    /// Only in these partitions; in all that are damaged when not given.
    #[arg(short, long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Show what is damaged, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: AcceptLossArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let topic = args.topic.as_str();
    for (_, found) in admin.describe_topics([topic]).await? {
        found?;
    }
    let mut damaged = admin.describe_partitions([topic]).await?;
    damaged.retain(|p| !p.damage.is_empty());
    if let Some(whole) = args.partition.iter().find(|n| damaged.iter().all(|p| p.partition != **n)) {
        return Err(Failure::new(
            Exit::Conflict,
            format!("partition {whole} of topic {topic} is not damaged"),
        )
        .hint(format!("`streamctl topic describe {topic}` shows which are")));
    }
    damaged.retain(|p| args.partition.is_empty() || args.partition.contains(&p.partition));
    let mut accepted: Vec<PartitionDescription> = Vec::new();
    let mut tally = Tally::default();
    if args.dry_run || damaged.is_empty() {
        accepted = damaged;
    } else {
        let lost: Vec<_> = damaged.iter().map(|p| format!("{topic}-{}: {}", p.partition, p.damage)).collect();
        confirm(&format!("{}\nGive up these records for good?", lost.join("\n")), args.yes)?;
        let asked = damaged.iter().map(|p| TopicPartition::new(topic, p.partition)).collect();
        let mut results = admin.accept_loss(asked).await?;
        for partition in damaged {
            match results.remove(&TopicPartition::new(topic, partition.partition)) {
                Some(Err(e)) => tally.failed(e.into()),
                Some(Ok(())) | None => {
                    accepted.push(partition);
                    tally.done();
                }
            }
        }
    }
    report(topic, &accepted, args.dry_run, output)?;
    tally.finish()
}

fn report(
    topic: &str,
    partitions: &[PartitionDescription],
    dry_run: bool,
    output: Output,
) -> Result<(), Failure> {
    let status = if dry_run { "damaged" } else { "accepted" };
    let data: Vec<_> = partitions
        .iter()
        .map(|p| json!({ "topic": topic, "partition": p.partition, "status": status, "damage": p.damage }))
        .collect();
    output.report(&data, |page| {
        if partitions.is_empty() {
            page.line(format!("no partition of topic {topic} is damaged"));
            return;
        }
        let rows =
            partitions.iter().map(|p| vec![p.partition.to_string(), status.to_string(), p.damage.clone()]);
        page.table(&[">PARTITION", "STATUS", "DAMAGE"], rows);
    })
}
