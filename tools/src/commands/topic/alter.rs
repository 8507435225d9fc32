//! `streamctl topic alter`: configs, more partitions, and the number of replicas.

use headwater_client::{Admin, ClientError, PartitionStatus};
use serde_json::json;

use super::parse_config;
use crate::commands::follow::{assigned, progress, until_done};
use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys keep their order only within a partition: after partitions were added, a key may belong to another one.

Examples:
  streamctl topic alter flights --config retention.ms=86400000
  streamctl topic alter flights --unset retention.ms
  streamctl topic alter flights --partitions 12 --dry-run
  streamctl topic alter flights --replicas 3")]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct AlterArgs {
    /// The topic to change.
    topic: String,
    /// New total number of partitions; more than there are.
    #[arg(short, long, value_name = "N", group = "change", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// New number of replicas of each partition; waits until they are there.
    #[arg(short, long, value_name = "N", group = "change", value_parser = clap::value_parser!(i32).range(1..))]
    replicas: Option<i32>,
    /// Do not wait for replicas: it goes on by itself.
    #[arg(long)]
    no_wait: bool,
    /// Set a config.
    #[arg(short, long = "config", value_name = "NAME=VALUE", group = "change", value_parser = parse_config)]
    configs: Vec<(String, String)>,
    /// Set a config back to its default.
    #[arg(long, value_name = "NAME", group = "change")]
    unset: Vec<String>,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: AlterArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let topic = args.topic.as_str();
    // What is in force now, for the difference; also tells an unknown topic before anything is changed.
    let (_, now) = admin.describe_configs([topic]).await?.pop().ok_or_else(|| {
        Failure::new(crate::exit::Exit::Failure, format!("the broker said nothing of {topic}"))
    })?;
    let now = now.map_err(|e| of_alter(topic, e))?;
    let value_of = |name: &str| now.iter().find(|c| c.name == name).map(|c| c.value.clone());

    let changes: Vec<(String, Option<String>)> = args
        .configs
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .chain(args.unset.into_iter().map(|name| (name, None)))
        .collect();
    let mut tally = Tally::default();
    let mut done = Vec::new();
    if !changes.is_empty() {
        match admin.alter_configs(topic, changes.clone(), args.dry_run).await {
            Ok(()) => {
                for (name, value) in changes {
                    let before = value_of(&name);
                    let after = value
                        .or_else(|| now.iter().find(|c| c.name == name).map(|c| c.default_value.clone()));
                    done.push(json!({ "change": name, "before": before, "after": after }));
                }
                tally.done();
            }
            Err(e) => tally.failed(e.into()),
        }
    }
    if let Some(total) = args.partitions {
        let before =
            admin.describe_topics([topic]).await?.pop().and_then(|(_, t)| t.ok()).map(|t| t.partitions.len());
        for (_, result) in admin.create_partitions(vec![(topic.to_string(), total)], args.dry_run).await? {
            match result {
                Ok(()) => {
                    done.push(json!({ "change": "partitions", "before": before, "after": total }));
                    tally.done();
                }
                Err(e) => tally.failed(e.into()),
            }
        }
    }
    if let Some(replicas) = args.replicas {
        match alter_replicas(&admin, topic, replicas, args.dry_run, !args.no_wait, output).await {
            Ok(before) => {
                done.push(json!({ "change": "replicas", "before": before, "after": replicas }));
                tally.done();
            }
            Err(failure) => tally.failed(failure),
        }
    }
    if !done.is_empty() {
        let changed = done.iter().any(|change| change["before"] != change["after"]);
        let (status, said) = match (args.dry_run, changed) {
            (true, true) => ("valid", "would be altered"),
            (true, false) => ("valid", "is so already: nothing would change"),
            (false, true) => ("altered", "altered"),
            (false, false) => ("unchanged", "is so already: nothing changed"),
        };
        let data = json!({ "name": topic, "status": status, "changes": done });
        output.report(&data, |page| {
            page.line(format!("topic {topic} {said}"));
            let text =
                |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
            page.table(
                &["CHANGE", "BEFORE", "AFTER"],
                done.iter().map(|change| {
                    ["change", "before", "after"].iter().map(|field| text(&change[field])).collect()
                }),
            );
        })?;
    }
    tally.finish()
}

/// What the broker says of a topic, to somebody who wants to alter it.
fn of_alter(topic: &str, error: ClientError) -> Failure {
    match error {
        ClientError::Refused { code, message, .. } => {
            Failure::from_code(format!("alter topic {topic}"), code, &message)
        }
        error => error.into(),
    }
}

/// Gives the number of replicas before; of a partition that has another number than wanted, if one has.
async fn alter_replicas(
    admin: &Admin,
    topic: &str,
    replicas: i32,
    dry_run: bool,
    wait: bool,
    output: Output,
) -> Result<usize, Failure> {
    let look = || admin.list_partitions(vec![topic.to_owned()], false);
    let wanted = |one: &PartitionStatus| i32::try_from(assigned(one).len()) == Ok(replicas);
    let now = look().await?;
    let differs = now.iter().find(|one| !wanted(one)).or_else(|| now.first());
    let before = differs.map_or(0, |partition| assigned(partition).len());
    for (_, result) in admin.alter_replicas(vec![(topic.to_owned(), replicas)], dry_run).await? {
        result?;
    }
    if wait && !dry_run {
        until_done(output, || async { Ok(progress(&look().await?, wanted)) }).await?;
    }
    Ok(before)
}
