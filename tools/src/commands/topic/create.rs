//! `streamctl topic create`.

use headwater_client::{ErrorCode, NewTopic};
use serde_json::json;

use super::parse_config;
use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::{Output, counted};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  streamctl topic create flights --partitions 6
  streamctl topic create audit --config retention.ms=604800000 --config segment.bytes=134217728
  streamctl topic create flights --partitions 6 --dry-run")]
pub struct CreateArgs {
    /// The names of the new topics.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Number of partitions; the broker's default when not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Number of replicas of each partition; the broker's default when not given.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    replicas: Option<i32>,
    /// A config, by Kafka's name, such as retention.ms; `streamctl topic configs TOPIC` lists those of a topic
    /// that exists.
    #[arg(short, long = "config", value_name = "NAME=VALUE", value_parser = parse_config)]
    configs: Vec<(String, String)>,
    /// A topic that exists already is no error.
    #[arg(long)]
    if_not_exists: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: CreateArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let topics = args.topics.iter().map(|name| NewTopic {
        name: name.clone(),
        partitions: args.partitions,
        replicas: args.replicas,
        configs: args.configs.clone(),
    });
    let results = admin.create_topics(topics.collect(), args.dry_run).await?;

    let mut tally = Tally::default();
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    for (name, result) in results {
        match result {
            Ok(created) => {
                let verb = if args.dry_run { "would be created" } else { "created" };
                let partitions = counted(u64::try_from(created.partitions).unwrap_or(0), "partition");
                lines.push(format!(
                    "topic {name} {verb} with {partitions}, {} each",
                    replicas(created.replicas)
                ));
                rows.push(json!({
                    "name": name,
                    "status": if args.dry_run { "valid" } else { "created" },
                    "topic_id": created.topic_id,
                    "partitions": created.partitions,
                    "replicas": created.replicas,
                }));
                tally.done();
            }
            Err(e) if args.if_not_exists && e.code() == Some(ErrorCode::TopicAlreadyExists) => {
                lines.push(format!("topic {name} exists already"));
                rows.push(json!({ "name": name, "status": "exists" }));
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

fn replicas(count: i32) -> String {
    if count == 1 { "1 replica".to_string() } else { format!("{count} replicas") }
}
