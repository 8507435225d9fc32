//! `streamctl leader transfer`.

use headwater_client::TopicPartition;
use serde_json::json;

use crate::commands::brokers::{must_know, parse_broker};
use crate::commands::partition::parse_partition;
use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes pause for a moment until the target has all of the log. The cluster may give the leadership back to \
the preferred replica later: `streamctl partition move` changes which that is.

Examples:
  streamctl leader transfer orders/3 --to 2
  streamctl leader transfer orders/3 orders/4")]
pub struct TransferArgs {
    /// The partitions, each as topic and number.
    #[arg(required = true, value_name = "TOPIC/N", value_parser = parse_partition)]
    partitions: Vec<TopicPartition>,
    /// The broker that is to lead; the preferred replica when not given.
    #[arg(long, value_name = "ID", value_parser = parse_broker)]
    to: Option<i32>,
}

pub async fn run(args: TransferArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    must_know(&admin, args.to.as_slice()).await?;
    let transfers = args.partitions.iter().map(|partition| (partition.clone(), args.to));
    let mut tally = Tally::default();
    let mut done = Vec::new();
    for (partition, result) in admin.transfer_leaders(transfers.collect()).await? {
        match result {
            Ok(()) => {
                done.push(partition);
                tally.done();
            }
            Err(e) => tally.failed(e.into()),
        }
    }
    if !done.is_empty() {
        let row = |partition: &TopicPartition| json!({ "topic": &*partition.topic, "partition": partition.partition, "to": args.to, "status": "transferred" });
        let data: Vec<_> = done.iter().map(row).collect();
        let to = args.to.map_or_else(|| "its preferred replica".to_owned(), |id| format!("broker {id}"));
        output.report(&data, |page| {
            done.iter().for_each(|partition| page.line(format!("{partition} is led by {to}")));
        })?;
    }
    tally.finish()
}
