//! `streamctl topic alter`: configs, more partitions, and the number of replicas.

use headwater_client::{Admin, ClientError, ConfigDescription, PartitionStatus};
use serde::Serialize;
use serde_json::{Value, json};

use super::parse_config;
use crate::commands::follow::{assigned, progress, until_done};
use crate::connect::connect;
use crate::exit::{Exit, Failure, Tally};
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
    let AlterArgs { topic, dry_run, .. } = &args;
    // Also tells an unknown topic before anything is changed.
    let now = configs_in_force(&admin, topic).await?;
    let mut tally = Tally::default();
    let mut done = Vec::new();
    let mut note = |outcome: Result<Vec<Value>, Failure>| match outcome {
        Ok(changes) => {
            done.extend(changes);
            tally.done();
        }
        Err(failure) => tally.failed(failure),
    };
    if !args.configs.is_empty() || !args.unset.is_empty() {
        note(alter_configs(&admin, &args, &now).await);
    }
    if let Some(total) = args.partitions {
        note(add_partitions(&admin, topic, total, *dry_run).await);
    }
    if let Some(replicas) = args.replicas {
        note(alter_replicas(&admin, &args, replicas, output).await);
    }
    if !done.is_empty() {
        show(topic, *dry_run, &done, output)?;
    }
    tally.finish()
}

fn show(topic: &str, dry_run: bool, done: &[Value], output: Output) -> Result<(), Failure> {
    let changed = done.iter().any(|change| change["before"] != change["after"]);
    let (status, said) = match (dry_run, changed) {
        (true, true) => ("valid", "would be altered"),
        (true, false) => ("valid", "is so already: nothing would change"),
        (false, true) => ("altered", "altered"),
        (false, false) => ("unchanged", "is so already: nothing changed"),
    };
    let data = json!({ "name": topic, "status": status, "changes": done });
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    output.report(&data, |page| {
        page.line(format!("topic {topic} {said}"));
        let rows = done
            .iter()
            .map(|change| ["change", "before", "after"].iter().map(|field| text(&change[field])).collect());
        page.table(&["CHANGE", "BEFORE", "AFTER"], rows);
    })
}

fn change(what: &str, before: impl Serialize, after: impl Serialize) -> Value {
    json!({ "change": what, "before": before, "after": after })
}

async fn configs_in_force(admin: &Admin, topic: &str) -> Result<Vec<ConfigDescription>, Failure> {
    let (_, configs) = admin
        .describe_configs([topic])
        .await?
        .pop()
        .ok_or_else(|| Failure::new(Exit::Failure, format!("the broker said nothing of {topic}")))?;
    configs.map_err(|e| of_alter(topic, e))
}

async fn alter_configs(
    admin: &Admin,
    args: &AlterArgs,
    now: &[ConfigDescription],
) -> Result<Vec<Value>, Failure> {
    let set = args.configs.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
    let unset = args.unset.iter().map(|name| (name.clone(), None));
    let changes: Vec<(String, Option<String>)> = set.chain(unset).collect();
    admin.alter_configs(&args.topic, changes.clone(), args.dry_run).await?;
    let difference = |(name, value): (String, Option<String>)| {
        let config = now.iter().find(|config| config.name == name);
        let after = value.or_else(|| config.map(|config| config.default_value.clone()));
        change(&name, config.map(|config| &config.value), after)
    };
    Ok(changes.into_iter().map(difference).collect())
}

async fn add_partitions(
    admin: &Admin,
    topic: &str,
    total: i32,
    dry_run: bool,
) -> Result<Vec<Value>, Failure> {
    let described = admin.describe_topics([topic]).await?.pop();
    let before = described.and_then(|(_, topic)| topic.ok()).map(|topic| topic.partitions.len());
    for (_, created) in admin.create_partitions(vec![(topic.to_owned(), total)], dry_run).await? {
        created?;
    }
    Ok(vec![change("partitions", before, total)])
}

/// Where partitions differ, the number before is that of one that is not as wanted.
async fn alter_replicas(
    admin: &Admin,
    args: &AlterArgs,
    replicas: i32,
    output: Output,
) -> Result<Vec<Value>, Failure> {
    let topic = &args.topic;
    let look = || admin.list_partitions(vec![topic.clone()], false);
    let wanted = |one: &PartitionStatus| i32::try_from(assigned(one).len()) == Ok(replicas);
    let now = look().await?;
    let differs = now.iter().find(|one| !wanted(one)).or_else(|| now.first());
    let before = differs.map_or(0, |partition| assigned(partition).len());
    for (_, altered) in admin.alter_replicas(vec![(topic.clone(), replicas)], args.dry_run).await? {
        altered?;
    }
    if !args.no_wait && !args.dry_run {
        until_done(output, || async { Ok(progress(&look().await?, wanted)) }).await?;
    }
    Ok(vec![change("replicas", before, replicas)])
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
