//! `streamctl partition recover`: the way out when a majority of a partition's disks is gone for good.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use headwater_client::{Admin, TopicPartition};
use headwater_proto::{ErrorCode, v1};
use serde_json::{Value, json};

use super::{joined, parse_partition};
use crate::commands::brokers::{must_know, parse_broker};
use crate::commands::confirm::confirm;
use crate::connect::connect;
use crate::exit::{Exit, Failure, Tally};
use crate::output::{Output, Page, counted, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A partition without a majority of its replicas takes no records, and goes on by itself once enough of their \
brokers are back. Only when they never will be: this gives up what the others had and the survivor has not. \
It is logged on every broker. The partition goes on with the survivor's replica alone, and grows back to as many \
replicas as it had on brokers that are alive; what returns on the others is deleted.

Examples:
  streamctl partition recover orders/3
  streamctl partition recover orders/3 orders/4 --accept-loss
  streamctl partition recover orders/3 --accept-loss --survivor 2 --yes
  streamctl partition recover --all                 # shows what all those without a majority would lose")]
pub struct RecoverArgs {
    /// The partitions, each as topic and number.
    #[arg(required_unless_present = "all", value_name = "TOPIC/N", value_parser = parse_partition)]
    partitions: Vec<TopicPartition>,
    /// Every partition that cannot elect a leader with the replicas that answer now.
    #[arg(long, conflicts_with_all = ["partitions", "survivor"])]
    all: bool,
    /// Do it; without this, only show what would be lost.
    #[arg(long)]
    accept_loss: bool,
    /// The broker whose replica goes on, or begins with nothing; the one that holds most when not given.
    #[arg(long, value_name = "ID", value_parser = parse_broker)]
    survivor: Option<i32>,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Each look asks every broker, and waits for those that are down.
const AT_ONCE: usize = 16;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A partition and what would be lost of it.
type Outlook = (TopicPartition, v1::RecoverPartitionResponse);

pub async fn run(args: RecoverArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    must_know(&admin, args.survivor.as_slice()).await?;
    if args.accept_loss {
        must_have_controller(&admin, settings.timeout.value).await?;
    }
    let mut tally = Tally::default();
    let mut outlooks = Vec::new();
    let mut spared = 0;
    for (partition, looked) in look_at(&admin, &args).await? {
        match looked {
            Ok(outlook) => outlooks.push((partition, outlook)),
            Err(failure) if args.all && elects_by_itself(&failure) => spared += 1,
            Err(failure) => tally.failed(failure),
        }
    }
    if outlooks.is_empty() {
        tally.finish()?;
        return show(&[], "preview", output, |page| page.line(nothing_lost(spared)));
    }
    if args.accept_loss {
        confirm(&question(&outlooks), args.yes)?;
        return recover(&admin, outlooks, args.all, tally, output).await;
    }
    outlooks.iter().for_each(|_| tally.done());
    show(&outlooks, "preview", output, |page| {
        let names: Vec<String> = outlooks.iter().map(|(partition, _)| partition.to_string()).collect();
        let which = if args.all { "--all".to_owned() } else { names.join(" ") };
        let survivor = args.survivor.map_or_else(String::new, |id| format!(" --survivor {id}"));
        page.line(format!(
            "Nothing was changed. To go on so: streamctl partition recover {which} --accept-loss{survivor}"
        ));
    })?;
    tally.finish()
}

fn nothing_lost(spared: usize) -> String {
    let others = match spared {
        0 => String::new(),
        _ => format!(
            "; {} that `streamctl partition list --unhealthy` shows have a leader or elect one by themselves",
            counted(spared as u64, "partition")
        ),
    };
    format!("no partition has lost its majority{others}")
}

/// Nothing can be decided without the metadata; an election of its leader is waited for.
async fn must_have_controller(admin: &Admin, patience: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    let status = loop {
        let status = admin.cluster_status().await?;
        if status.controller_id >= 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break status;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    Err(Failure::new(Exit::Unreachable, "the cluster has no controller: nothing was changed").hint(format!(
        "it elects one by itself while a majority of the brokers {} is up; if that is gone for good, stop one that \
         is left and run `headwater --recover-metadata` with its data directory",
        joined(&status.controller_voters)
    )))
}

type Looked = Result<v1::RecoverPartitionResponse, Failure>;

/// Those that were named, or all that are not whole: a leader that lost the others may still say that it leads.
async fn look_at(admin: &Admin, args: &RecoverArgs) -> Result<Vec<(TopicPartition, Looked)>, Failure> {
    let mut partitions = args.partitions.clone();
    if args.all {
        let unhealthy = admin.list_partitions(Vec::new(), true).await?.into_iter();
        partitions = unhealthy.map(|p| TopicPartition::new(p.topic, p.partition)).collect();
        partitions.sort();
    }
    let looks = partitions.into_iter().map(|partition| async move {
        let looked = look(admin, &partition, args.survivor).await;
        (partition, looked)
    });
    Ok(stream::iter(looks).buffered(AT_ONCE).collect().await)
}

/// The broker's refusal to give anything up: a leader was found, or will be.
fn elects_by_itself(failure: &Failure) -> bool {
    failure.kafka_error == Some(ErrorCode::InvalidRequest.name())
}

async fn recover(
    admin: &Admin,
    outlooks: Vec<Outlook>,
    all: bool,
    mut tally: Tally,
    output: Output,
) -> Result<(), Failure> {
    let mut recovered = Vec::new();
    for (partition, outlook) in outlooks {
        // What was shown is what is done, whoever comes back in between.
        match admin.recover_partition(&partition, Some(outlook.chosen), true).await {
            Ok(done) => {
                recovered.push((partition, done));
                tally.done();
            }
            Err(e) => match Failure::from(e) {
                // It was about to elect a leader when it was looked at.
                failure if all && elects_by_itself(&failure) => {}
                failure => tally.failed(failure),
            },
        }
    }
    if !recovered.is_empty() {
        show(&recovered, "recovered", output, |page| {
            for (partition, done) in &recovered {
                page.line(format!("{partition} goes on from the replica of broker {}", done.chosen));
            }
            page.line("`streamctl partition list` shows the other replicas being built");
        })?;
    }
    tally.finish()
}

/// What would be lost, if there is anything to go on with.
async fn look(
    admin: &Admin,
    partition: &TopicPartition,
    survivor: Option<i32>,
) -> Result<v1::RecoverPartitionResponse, Failure> {
    let outlook = admin.recover_partition(partition, survivor, false).await?;
    if outlook.chosen >= 0 {
        return Ok(outlook);
    }
    Err(Failure::new(Exit::Conflict, format!("no replica of {partition} answers: nothing can go on")).hint(format!(
        "bring back one of its brokers, `streamctl partition list` shows which they are; if none of them ever will \
         be, `streamctl partition recover {partition} --survivor ID --accept-loss` begins again there, with \
         nothing"
    )))
}

/// Asked once for all of them, so that each loss is read before any is accepted.
fn question(outlooks: &[Outlook]) -> String {
    let loss = |(partition, outlook): &Outlook| {
        let (chosen, others) = (outlook.chosen, joined(&outlook.given_up));
        format!(
            "{partition}: {}\n  goes on from broker {chosen}, gives up the replicas of {others}",
            outlook.loss
        )
    };
    let losses: Vec<String> = outlooks.iter().map(loss).collect();
    format!("{}\nGo on so, and give the others up for good?", losses.join("\n"))
}

fn show(
    outlooks: &[Outlook],
    status: &str,
    output: Output,
    end: impl FnOnce(&mut Page),
) -> Result<(), Failure> {
    let data: Vec<Value> =
        outlooks.iter().map(|(partition, outlook)| to_json(partition, outlook, status)).collect();
    output.report(&data, |page| {
        for (partition, outlook) in outlooks {
            print(&partition.to_string(), outlook, page);
            page.line("");
        }
        end(page);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_in_the_question_and_once() {
        let outlook = |partition, loss: &str| {
            let given_up = vec![2, 3];
            let outlook =
                v1::RecoverPartitionResponse { chosen: 1, given_up, loss: loss.into(), ..Default::default() };
            (TopicPartition::new("orders", partition), outlook)
        };
        let asked = question(&[outlook(3, "nothing is lost"), outlook(4, "two records are lost")]);
        for said in ["orders/3: nothing is lost", "orders/4: two records are lost", "broker 1", "2,3"] {
            assert!(asked.contains(said), "{asked}");
        }
        assert_eq!(asked.matches("is lost").count() + asked.matches("are lost").count(), 2, "{asked}");
        assert_eq!(asked.matches('?').count(), 1, "{asked}");
    }
}
