//! `streamctl partition list`.

use headwater_client::{Admin, TopicPartition};
use headwater_proto::v1;
use serde_json::{Value, json};

use super::parse_partition;
use crate::commands::follow::no_partition;
use crate::connect::connect;
use crate::exit::Failure;
use crate::output::{Output, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The preferred leader stands first among the replicas; +N joins, -N leaves. LAG is the number of log entries \
(batches) that the replica farthest behind lacks.

Examples:
  streamctl partition list
  streamctl partition list orders
  streamctl partition list orders/3 payments
  streamctl partition list --unhealthy -o jsonl | jq -c '[.topic, .partition, .remarks]'")]
pub struct ListArgs {
    /// These topics and partitions only; all when none is named.
    #[arg(value_name = "TOPIC[/N]", value_parser = parse_chosen)]
    chosen: Vec<Chosen>,
    /// Only those that lack a leader, or a replica that is live, whole and caught up, or that move.
    #[arg(long)]
    unhealthy: bool,
}

/// What is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Chosen {
    Topic(String),
    Partition(TopicPartition),
}

/// A slash is in no topic's name.
fn parse_chosen(text: &str) -> Result<Chosen, String> {
    match text.contains('/') {
        true => parse_partition(text).map(Chosen::Partition),
        false => Ok(Chosen::Topic(text.to_owned())),
    }
}

impl Chosen {
    fn topic(&self) -> &str {
        match self {
            Self::Topic(topic) => topic,
            Self::Partition(partition) => &partition.topic,
        }
    }

    fn has(&self, one: &v1::PartitionStatus) -> bool {
        let same_number = match self {
            Self::Topic(_) => true,
            Self::Partition(partition) => partition.partition == one.partition,
        };
        self.topic() == one.topic && same_number
    }
}

async fn look(admin: &Admin, args: &ListArgs) -> Result<Vec<v1::PartitionStatus>, Failure> {
    let mut topics: Vec<String> = args.chosen.iter().map(|chosen| chosen.topic().to_owned()).collect();
    topics.sort();
    topics.dedup();
    let mut found = admin.list_partitions(topics, args.unhealthy).await?;
    // Of the unhealthy only, one that is missing may be healthy.
    let missing =
        args.chosen.iter().find(|chosen| !args.unhealthy && !found.iter().any(|one| chosen.has(one)));
    if let Some(Chosen::Partition(partition)) = missing {
        return Err(no_partition(&partition.to_string()));
    }
    found.retain(|one| args.chosen.is_empty() || args.chosen.iter().any(|chosen| chosen.has(one)));
    found.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(found)
}

pub async fn run(args: ListArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let partitions = look(&admin, &args).await?;
    let data: Vec<Value> = partitions.iter().map(to_json).collect();
    output.report(&data, |page| {
        if partitions.is_empty() {
            let none = if args.unhealthy { "all partitions are healthy" } else { "there are no partitions" };
            page.line(none);
            return;
        }
        let rows = partitions.iter().map(|partition| {
            vec![
                format!("{}/{}", partition.topic, partition.partition),
                leader(partition).map_or_else(|| "none".to_owned(), |id| id.to_string()),
                partition.leader_epoch.to_string(),
                replicas(partition),
                in_sync(partition),
                lag(partition).map_or_else(|| "?".to_owned(), grouped),
                partition.remarks.join("; "),
            ]
        });
        page.table(&["PARTITION", ">LEADER", ">EPOCH", "REPLICAS", "IN SYNC", ">LAG", "REMARKS"], rows);
    })
}

fn leader(partition: &v1::PartitionStatus) -> Option<i32> {
    Some(partition.leader_id).filter(|id| *id >= 0)
}

fn replicas(partition: &v1::PartitionStatus) -> String {
    let name = |replica: &v1::ReplicaStatus| {
        let mark = match (replica.joining, replica.leaving) {
            (_, true) => "-",
            (true, _) => "+",
            (false, false) => "",
        };
        format!("{mark}{}", replica.broker_id)
    };
    partition.replicas.iter().map(name).collect::<Vec<_>>().join(",")
}

fn in_sync(partition: &v1::PartitionStatus) -> String {
    let ids: Vec<i32> = partition.replicas.iter().filter(|r| r.in_sync).map(|r| r.broker_id).collect();
    super::joined(&ids)
}

/// Of the replica farthest behind; `None` where no leader told.
fn lag(partition: &v1::PartitionStatus) -> Option<u64> {
    partition.replicas.iter().filter(|r| !r.leaving).filter_map(|r| r.lag_entries).max()
}

fn to_json(partition: &v1::PartitionStatus) -> Value {
    let replica = |r: &v1::ReplicaStatus| {
        json!({
            "broker": r.broker_id,
            "replica_id": r.replica_id,
            "live": r.live,
            "in_sync": r.in_sync,
            "lag_entries": r.lag_entries,
            "joining": r.joining,
            "leaving": r.leaving,
            "damage": if r.damage.is_empty() { None } else { Some(&r.damage) },
        })
    };
    let offset = |offset: i64| (offset >= 0).then_some(offset);
    json!({
        "topic": partition.topic,
        "partition": partition.partition,
        "leader": leader(partition),
        "leader_epoch": partition.leader_epoch,
        "log_start_offset": offset(partition.log_start_offset),
        "high_watermark": offset(partition.high_watermark),
        "replicas": partition.replicas.iter().map(replica).collect::<Vec<_>>(),
        "remarks": partition.remarks,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_topic_or_one_of_its_partitions_is_chosen() {
        let one = |topic: &str, partition| v1::PartitionStatus {
            topic: topic.into(),
            partition,
            ..Default::default()
        };
        let topic = parse_chosen("orders").unwrap();
        assert!(topic.has(&one("orders", 3)) && !topic.has(&one("order", 3)));
        let partition = parse_chosen("orders/3").unwrap();
        assert!(partition.has(&one("orders", 3)) && !partition.has(&one("orders", 4)));
        assert!(parse_chosen("orders/x").unwrap_err().contains("TOPIC/NUMBER"));
    }
}
