//! `streamctl partition recover`: the way out when a majority of a partition's disks is gone for good.

use headwater_client::TopicPartition;
use headwater_proto::v1;
use serde_json::{Value, json};

use super::{joined, parse_partition, slashed};
use crate::commands::confirm::confirm;
use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Page, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A partition without a majority of its replicas takes no records, and goes on by itself once enough of their
brokers are back. Only when they never will be: this gives up what the others had and the survivor has not.
It is logged on every broker. The partition goes on with the survivor's replica alone, and grows back to as many
replicas as it had on brokers that are alive; what returns on the others is deleted.

Examples:
  streamctl partition recover orders/3
  streamctl partition recover orders/3 --accept-loss
  streamctl partition recover orders/3 --accept-loss --survivor 2 --yes")]
pub struct RecoverArgs {
    #[arg(value_name = "TOPIC/N", value_parser = parse_partition)]
    partition: TopicPartition,
    /// Do it; without this, only show what would be lost.
    #[arg(long)]
    accept_loss: bool,
    /// The broker whose replica goes on; the one that holds most when not given.
    #[arg(long, value_name = "ID")]
    survivor: Option<i32>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub async fn run(args: RecoverArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let name = slashed(&args.partition);
    let outlook = admin.recover_partition(&args.partition, args.survivor, false).await?;
    if outlook.chosen < 0 {
        return Err(Failure::new(Exit::Conflict, format!("no replica of {name} answers: nothing can go on"))
            .hint("bring back one of its brokers first; `streamctl partition list` shows which they are"));
    }
    if !args.accept_loss {
        return output.report(&to_json(&args.partition, &outlook, "preview"), |page| {
            print(&name, &outlook, page);
            page.line(format!(
                "\nNothing was changed. To go on so: streamctl partition recover {name} --accept-loss"
            ));
        });
    }
    if !args.yes {
        output.note(&outlook.loss);
    }
    let others = joined(&outlook.given_up);
    let question = format!(
        "{name}: {}\nGo on from the replica of broker {} and give up those of {others} for good?",
        outlook.loss, outlook.chosen
    );
    confirm(&question, args.yes)?;
    // What was shown is what is done, whoever comes back in between.
    let done = admin.recover_partition(&args.partition, Some(outlook.chosen), true).await?;
    output.report(&to_json(&args.partition, &done, "recovered"), |page| {
        print(&name, &done, page);
        page.line(format!(
            "\n{name} goes on from the replica of broker {}; `streamctl partition list` shows the others being built",
            done.chosen
        ));
    })
}

fn to_json(partition: &TopicPartition, outlook: &v1::RecoverPartitionResponse, status: &str) -> Value {
    let survivor = |s: &v1::Survivor| {
        json!({
            "broker": s.broker_id,
            "replica_id": s.replica_id,
            "last_log_term": s.last_log_term,
            "last_log_index": s.last_log_index,
            "high_watermark": s.high_watermark,
            "log_end_offset": s.log_end_offset,
            "damage": if s.damage.is_empty() { None } else { Some(&s.damage) },
        })
    };
    json!({
        "topic": &*partition.topic,
        "partition": partition.partition,
        "status": status,
        "chosen": outlook.chosen,
        "given_up": outlook.given_up,
        "loss": outlook.loss,
        "highest_term": outlook.highest_term,
        "survivors": outlook.survivors.iter().map(survivor).collect::<Vec<_>>(),
    })
}

fn print(name: &str, outlook: &v1::RecoverPartitionResponse, page: &mut Page) {
    page.fields(&[
        ("partition", name.to_owned()),
        ("survivor", format!("broker {}", outlook.chosen)),
        ("given up", joined(&outlook.given_up)),
        ("highest term", outlook.highest_term.to_string()),
        ("lost", outlook.loss.clone()),
    ]);
    page.line("");
    let rows = outlook.survivors.iter().map(|s| {
        vec![
            s.broker_id.to_string(),
            s.last_log_term.to_string(),
            grouped(s.last_log_index),
            grouped(s.high_watermark),
            grouped(s.log_end_offset),
            s.damage.clone(),
        ]
    });
    page.table(&[">BROKER", ">LAST TERM", ">LAST INDEX", ">HIGH WATERMARK", ">LOG END", "DAMAGE"], rows);
}
