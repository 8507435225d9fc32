//! The grammar of the command line: what is common to all commands, and the list of them.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    bench, cluster, completion, consume, context, dump, leader, node, partition, produce, records, topic,
};
use crate::exit::EXIT_CODES_HELP;
use crate::output::Format;
use crate::position::parse_duration;

/// Talk to a Headwater cluster: topics, records, benchmarks, and its files offline.
#[derive(Debug, Parser)]
#[command(
    name = "streamctl",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXIT_CODES_HELP,
    after_long_help = format!("\
Examples:
  streamctl topic create flights --partitions 6
  zcat flights.jsonl.gz | streamctl produce flights --key-field tailnum
  streamctl consume flights --from start --until end
  streamctl consume flights --from 2h-ago --follow -o jsonl
  streamctl topic describe flights -o json | jq .partitions

Settings: flags, then HEADWATER_BROKERS, then the context, then 127.0.0.1:9093;
`streamctl context explain` shows which is in force.

{EXIT_CODES_HELP}")
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// gRPC addresses of brokers [env: HEADWATER_BROKERS] [default: 127.0.0.1:9093].
    #[arg(long, global = true, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub brokers: Option<Vec<String>>,
    /// Settings to use, of those that `streamctl context list` shows [env: STREAMCTL_CONTEXT].
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// How to print results (and errors: as JSON with json and jsonl).
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Longest wait for an answer [default: 10s].
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Print no result and no progress, only errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, list, describe, change and delete topics.
    #[command(subcommand, visible_alias = "topics")]
    Topic(topic::TopicCommand),
    /// Delete records.
    #[command(subcommand)]
    Records(records::RecordsCommand),
    /// Send records from standard input or files.
    Produce(produce::ProduceArgs),
    /// Print records.
    Consume(consume::ConsumeArgs),
    /// Measure throughput and latency.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Verify and print a broker's files, offline.
    Dump(dump::DumpArgs),
    /// Show the cluster and its brokers.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show and change where the replicas of partitions lie.
    #[command(subcommand, visible_alias = "partitions")]
    Partition(partition::PartitionCommand),
    /// Hand leaderships over.
    #[command(subcommand)]
    Leader(leader::LeaderCommand),
    /// Drain, replace and remove brokers.
    #[command(subcommand, visible_alias = "nodes")]
    Node(node::NodeCommand),
    /// Keep named settings.
    #[command(subcommand)]
    Context(context::ContextCommand),
    /// Print a completion script.
    Completion(completion::CompletionArgs),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn each_command(command: &clap::Command, path: &str, visit: &mut impl FnMut(&str, &clap::Command)) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            visit(&path, sub);
            each_command(sub, &path, visit);
        }
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_does_something_has_examples() {
        each_command(&Cli::command(), "streamctl", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(command.has_subcommands() || help.contains(path), "{path} has no example of itself");
        });
    }

    #[test]
    fn every_argument_says_what_it_is() {
        each_command(&Cli::command(), "streamctl", &mut |path, command| {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{path}: {} is not described", arg.get_id());
            }
        });
    }

    /// Lines that were broken by hand are broken again where the terminal is narrower.
    #[test]
    fn prose_is_wrapped_by_the_terminal_only() {
        each_command(&Cli::command(), "streamctl", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| line.len() > 60 && !line.starts_with(' ')) {
                assert!(line.ends_with(['.', ':', ')']), "{path}: {line}");
            }
        });
    }

    #[test]
    fn global_flags_stand_before_and_behind_the_command() {
        for line in [
            "streamctl -o json --brokers a:1,b:2 topic list",
            "streamctl topic list -o json --brokers a:1,b:2",
            "streamctl topic --brokers a:1,b:2 list -o json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.brokers.unwrap(), ["a:1", "b:2"], "{line}");
            assert_eq!(cli.global.output, Some(Format::Json), "{line}");
        }
    }

    #[test]
    fn the_lines_that_scripts_rely_on_are_understood() {
        for line in [
            "streamctl topic create flights --partitions 6",
            "streamctl produce flights --key-field tailnum",
            "streamctl topic describe flights",
            "streamctl consume flights --from start --until end",
            "streamctl consume flights --from 2h-ago --follow",
            "streamctl bench produce t --producers 8 --record-bytes 1024 --batch-records 1000 --seconds 10 -o json",
            "streamctl bench produce t --producers 8 --record-bytes 1024 --batch-records 1 --records 100 --rate-mb 10 -o json",
            "streamctl bench consume t --consumers 2 --records 1000000 -o json",
            "streamctl bench consume t --consumers 2 --seconds 5 -o json",
            "streamctl dump ./headwater-data",
            "streamctl cluster status",
            "streamctl cluster status --watch",
            "streamctl cluster status --watch=10s -o jsonl",
            "streamctl topic create orders --partitions 12 --replicas 3",
            "streamctl topic alter orders --replicas 3",
            "streamctl partition list --unhealthy",
            "streamctl partition move orders/3 --to 2,4,5",
            "streamctl partition move orders/3 --cancel",
            "streamctl leader transfer orders/3 --to 2",
            "streamctl leader balance",
            "streamctl node drain 2",
            "streamctl node drain 2 --undo",
            "streamctl node replace 2 --with 4",
            "streamctl node remove 2",
            "streamctl partition recover orders/3 --accept-loss",
            "streamctl partition recover orders/3 orders/4 --accept-loss --yes",
            "streamctl partition list orders/3 payments",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "streamctl bench produce t",
            "streamctl bench produce t --records 1 --seconds 1",
            "streamctl consume t --until end --follow",
            "streamctl consume t --from yesterday",
            "streamctl topic create t --partitions 0",
            "streamctl produce t --key-field a --key-separator :",
            "streamctl --output xml topic list",
            "streamctl partition move orders/3",
            "streamctl partition move orders --to 1",
            "streamctl partition move orders/3 --to 1 --cancel",
            "streamctl node replace 2",
            "streamctl node drain abc",
            "streamctl partition move orders/3 --to 1,x",
            "streamctl partition list orders/x",
            "streamctl partition recover",
            "streamctl",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
