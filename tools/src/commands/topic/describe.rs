//! `streamctl topic describe`: who has a topic, how much is in it, which configs differ from their defaults.

use std::collections::BTreeMap;

use headwater_client::{ConfigDescription, PartitionDescription, Topic};
use serde_json::{Value, json};

use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::{Output, Page, bytes, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  streamctl topic describe flights
  streamctl topic describe flights -o json | jq '.partitions[] | {partition, high_watermark}'")]
pub struct DescribeArgs {
    /// The topics to show.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
}

struct Described {
    topic: Topic,
    partitions: BTreeMap<i32, PartitionDescription>,
    configs: Vec<ConfigDescription>,
}

pub async fn run(args: DescribeArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let mut tally = Tally::default();
    let mut topics = Vec::new();
    for (_, result) in admin.describe_topics(args.topics.clone()).await? {
        match result {
            Ok(topic) => topics.push(topic),
            Err(e) => tally.failed(e.into()),
        }
    }
    let names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
    let mut described = Vec::new();
    if !names.is_empty() {
        let mut partitions = admin.describe_partitions(names.clone()).await?;
        let mut configs: BTreeMap<_, _> = admin.describe_configs(names).await?.into_iter().collect();
        for topic in topics {
            let (mine, others) = partitions.into_iter().partition(|p| p.topic == topic.name);
            partitions = others;
            let mine: Vec<PartitionDescription> = mine;
            let mut configs = configs.remove(&topic.name).transpose()?.unwrap_or_default();
            configs.retain(|config| !config.is_default);
            let partitions = mine.into_iter().map(|p| (p.partition, p)).collect();
            described.push(Described { topic, partitions, configs });
            tally.done();
        }
    }
    let mut data: Vec<Value> = described.iter().map(Described::to_json).collect();
    // One topic asked for is one document, several are a list.
    let data = if args.topics.len() == 1 { data.pop() } else { Some(Value::Array(data)) };
    if let Some(data) = data {
        output.report(&data, |page| {
            for (n, topic) in described.iter().enumerate() {
                if n > 0 {
                    page.line("");
                }
                topic.print(page);
            }
        })?;
    }
    tally.finish()
}

fn records(p: &PartitionDescription) -> i64 {
    p.high_watermark - p.log_start_offset
}

impl Described {
    fn to_json(&self) -> Value {
        let partitions = self.topic.partitions.iter().map(|info| {
            let mut value = json!({
                "partition": info.partition,
                "leader": info.leader_id,
                "leader_epoch": info.leader_epoch,
                "replicas": info.replicas,
                "in_sync": info.in_sync,
            });
            match self.partitions.get(&info.partition) {
                Some(p) if p.error.is_none() => merge(
                    &mut value,
                    json!({
                        "log_start_offset": p.log_start_offset,
                        "high_watermark": p.high_watermark,
                        "records": records(p),
                        "size_bytes": p.size_bytes,
                        "segments": p.segments,
                        "first_log_index": p.first_log_index,
                        "last_log_index": p.last_log_index,
                        "committed_log_index": p.committed_log_index,
                        "damage": if p.damage.is_empty() { Value::Null } else { p.damage.clone().into() },
                    }),
                ),
                Some(p) => merge(&mut value, json!({ "error": p.error.as_ref().map(|e| e.message.clone()) })),
                None => {}
            }
            value
        });
        let configs: serde_json::Map<String, Value> =
            self.configs.iter().map(|c| (c.name.clone(), c.value.clone().into())).collect();
        json!({
            "name": self.topic.name,
            "topic_id": self.topic.topic_id,
            "internal": self.topic.internal,
            "records": self.partitions.values().map(records).sum::<i64>(),
            "size_bytes": self.partitions.values().map(|p| p.size_bytes).sum::<u64>(),
            "configs": configs,
            "partitions": partitions.collect::<Vec<_>>(),
        })
    }

    fn print(&self, page: &mut Page) {
        let total: i64 = self.partitions.values().map(records).sum();
        let size: u64 = self.partitions.values().map(|p| p.size_bytes).sum();
        let configs: Vec<_> = self.configs.iter().map(|c| format!("{}={}", c.name, c.value)).collect();
        page.fields(&[
            ("topic", self.topic.name.clone()),
            ("id", self.topic.topic_id.clone()),
            ("records", grouped(total)),
            ("size", bytes(size)),
            ("configs", if configs.is_empty() { "(all default)".into() } else { configs.join(" ") }),
        ]);
        page.line("");
        let joined = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        let rows = self.topic.partitions.iter().map(|info| {
            let mut row = vec![
                info.partition.to_string(),
                info.leader_id.map_or_else(|| "none".into(), |id| id.to_string()),
                info.leader_epoch.to_string(),
                joined(&info.replicas),
                joined(&info.in_sync),
            ];
            match self.partitions.get(&info.partition) {
                Some(p) if p.error.is_none() => row.extend([
                    grouped(p.log_start_offset),
                    grouped(p.high_watermark),
                    grouped(records(p)),
                    bytes(p.size_bytes),
                    p.segments.to_string(),
                ]),
                _ => row.extend(std::iter::repeat_n("?".to_string(), 5)),
            }
            row
        });
        page.table(
            &[
                ">PARTITION",
                ">LEADER",
                ">EPOCH",
                "REPLICAS",
                "IN SYNC",
                ">LOG START",
                ">HIGH WATERMARK",
                ">RECORDS",
                ">SIZE",
                ">SEGMENTS",
            ],
            rows,
        );
        for (partition, p) in &self.partitions {
            if let Some(error) = &p.error {
                page.line(format!("partition {partition}: {}", error.message));
            }
            if !p.damage.is_empty() {
                page.line(format!("partition {partition} is damaged: {}", p.damage));
            }
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
