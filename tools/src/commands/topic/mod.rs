//! `streamctl topic`: a file for each verb.

mod alter;
mod configs;
mod create;
mod delete;
mod describe;
mod list;

use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum TopicCommand {
    /// Create topics.
    Create(create::CreateArgs),
    /// Show all topics.
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show topics with their partitions, offsets and sizes.
    Describe(describe::DescribeArgs),
    /// Delete topics with all their records.
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    /// Change configs, add partitions, or change the number of replicas.
    Alter(alter::AlterArgs),
    /// Show a topic's configs.
    Configs(configs::ConfigsArgs),
}

pub async fn run(command: TopicCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        TopicCommand::Create(args) => create::run(args, settings, output).await,
        TopicCommand::List(args) => list::run(args, settings, output).await,
        TopicCommand::Describe(args) => describe::run(args, settings, output).await,
        TopicCommand::Delete(args) => delete::run(args, settings, output).await,
        TopicCommand::Alter(args) => alter::run(args, settings, output).await,
        TopicCommand::Configs(args) => configs::run(args, settings, output).await,
    }
}

/// `NAME=VALUE` of a `--config` flag.
fn parse_config(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("write NAME=VALUE, such as retention.ms=86400000".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_split_at_its_first_equals_sign() {
        assert_eq!(parse_config("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_config("a="), Ok(("a".into(), String::new())));
        assert!(parse_config("a").is_err());
        assert!(parse_config("=b").is_err());
    }
}
