//! `streamctl partition list`.

use headwater_proto::v1;
use serde_json::{Value, json};

use crate::connect::connect;
use crate::exit::Failure;
use crate::output::{Output, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The preferred leader stands first among the replicas; +N joins, -N leaves. LAG is the number of log entries
(batches) that the replica farthest behind lacks.

Examples:
  streamctl partition list
  streamctl partition list orders
  streamctl partition list --unhealthy -o jsonl | jq -c '[.topic, .partition, .remarks]'")]
pub struct ListArgs {
    /// Of these topics only.
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    /// Only those that lack a leader, or a replica that is live, whole and caught up, or that move.
    #[arg(long)]
    unhealthy: bool,
}

pub async fn run(args: ListArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let mut partitions = admin.list_partitions(args.topics, args.unhealthy).await?;
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
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
