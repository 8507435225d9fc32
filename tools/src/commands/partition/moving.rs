//! `streamctl partition move`.

use headwater_client::{Admin, PartitionStatus, TopicPartition};
use serde_json::json;

use super::{joined, parse_partition};
use crate::commands::brokers::{must_differ, must_know, parse_broker};
use crate::commands::follow::{assigned, is_moving, look_at, progress, until_done};
use crate::connect::connect;
use crate::exit::{Exit, Failure, Tally};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
New replicas catch up first, at a bounded rate; only then the old ones leave. Producers and consumers go on \
meanwhile.

Examples:
  streamctl partition move orders/3 --to 2,4,5
  streamctl partition move orders/3 orders/4 --to 2,4,5 --no-wait
  streamctl partition move orders/3 --cancel")]
pub struct MoveArgs {
    /// The partitions, each as topic and number.
    #[arg(required = true, value_name = "TOPIC/N", value_parser = parse_partition)]
    partitions: Vec<TopicPartition>,
    /// The brokers that are to have the replicas, the preferred leader first.
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = parse_broker, required_unless_present = "cancel")]
    to: Vec<i32>,
    /// Give up a move that is under way.
    #[arg(long, conflicts_with_all = ["to", "dry_run"])]
    cancel: bool,
    /// Do not wait until it is done: it goes on by itself.
    #[arg(long)]
    no_wait: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: MoveArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    must_differ(&args.to)?;
    let admin = connect(settings).await?.admin();
    must_know(&admin, &args.to).await?;
    let before = look_at(&admin, &args.partitions).await?;
    let mut tally = Tally::default();
    let accepted = begin(&admin, &args, &before, &mut tally).await?;
    if accepted.is_empty() {
        return tally.finish();
    }
    let (status, after) = match (args.dry_run, args.no_wait) {
        (true, _) => ("valid", Vec::new()),
        (_, true) => ("accepted", Vec::new()),
        (false, false) => {
            until_done(output, || async {
                let now = look_at(&admin, &accepted).await?;
                Ok(progress(&now, |one| args.cancel || assigned(one) == args.to))
            })
            .await?;
            ("done", look_at(&admin, &accepted).await?)
        }
    };
    let of = |all: &[PartitionStatus], partition: &TopicPartition| find(all, partition).map(assigned);
    let moved = |partition| Moved {
        before: of(&before, &partition).unwrap_or_default(),
        after: of(&after, &partition).unwrap_or_else(|| args.to.clone()),
        partition,
    };
    show(&accepted.into_iter().map(moved).collect::<Vec<_>>(), status, output)?;
    tally.finish()
}

/// Asks for the moves, or for their end; those that the cluster accepted.
async fn begin(
    admin: &Admin,
    args: &MoveArgs,
    before: &[PartitionStatus],
    tally: &mut Tally,
) -> Result<Vec<TopicPartition>, Failure> {
    let mut moves = Vec::new();
    for partition in &args.partitions {
        if args.cancel && !find(before, partition).is_some_and(is_moving) {
            tally.failed(no_move(partition));
        } else {
            moves.push((partition.clone(), args.to.clone()));
        }
    }
    let mut accepted = Vec::new();
    if moves.is_empty() {
        return Ok(accepted);
    }
    for (partition, result) in admin.reassign(moves, args.dry_run).await? {
        match result {
            Ok(()) => {
                accepted.push(partition);
                tally.done();
            }
            Err(e) => tally.failed(e.into()),
        }
    }
    Ok(accepted)
}

/// The brokers that a partition's replicas were on, and are or will be.
struct Moved {
    partition: TopicPartition,
    before: Vec<i32>,
    after: Vec<i32>,
}

fn show(moved: &[Moved], status: &str, output: Output) -> Result<(), Failure> {
    let to_json = |Moved { partition, before, after }: &Moved| {
        json!({
            "topic": &*partition.topic,
            "partition": partition.partition,
            "status": status,
            "before": before,
            "after": after,
        })
    };
    output.report(&moved.iter().map(to_json).collect::<Vec<_>>(), |page| {
        let rows = moved.iter().map(|Moved { partition, before, after }| {
            vec![partition.to_string(), joined(before), joined(after), status.to_owned()]
        });
        page.table(&["PARTITION", "BEFORE", "AFTER", "STATUS"], rows);
    })
}

fn find<'a>(all: &'a [PartitionStatus], partition: &TopicPartition) -> Option<&'a PartitionStatus> {
    all.iter().find(|one| *partition.topic == one.topic && one.partition == partition.partition)
}

fn no_move(partition: &TopicPartition) -> Failure {
    Failure::new(Exit::Conflict, format!("no move of {partition} is under way: there is nothing to cancel"))
        .hint("`streamctl partition list` shows what moves: +N joins, -N leaves")
}
