//! `streamctl partition`: where replicas lie.

mod list;
mod moving;
mod recover;

use headwater_client::TopicPartition;

use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum PartitionCommand {
    /// Show leaders and replicas, and which are in trouble.
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Put the replicas of partitions on other brokers.
    Move(moving::MoveArgs),
    /// Go on from one surviving replica after a majority of disks is gone for good.
    Recover(recover::RecoverArgs),
}

pub async fn run(command: PartitionCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        PartitionCommand::List(args) => list::run(args, settings, output).await,
        PartitionCommand::Move(args) => moving::run(args, settings, output).await,
        PartitionCommand::Recover(args) => recover::run(args, settings, output).await,
    }
}

/// `TOPIC/N`.
pub fn parse_partition(text: &str) -> Result<TopicPartition, String> {
    let parts = text.rsplit_once('/').filter(|(topic, _)| !topic.is_empty());
    let parsed = parts.and_then(|(topic, number)| Some((topic, number.parse::<i32>().ok()?)));
    match parsed {
        Some((topic, number @ 0..)) => Ok(TopicPartition::new(topic, number)),
        _ => Err("write TOPIC/NUMBER, such as orders/3".to_owned()),
    }
}

/// `2,4,5`.
pub fn joined(ids: &[i32]) -> String {
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_partition_is_a_topic_and_a_number() {
        let partition = parse_partition("orders/3").unwrap();
        assert_eq!((&*partition.topic, partition.partition), ("orders", 3));
        assert_eq!(partition.to_string(), "orders/3");
        for wrong in ["orders", "orders/", "/3", "orders/-1", "orders/x", "orders-3"] {
            assert!(parse_partition(wrong).is_err(), "{wrong}");
        }
    }
}
