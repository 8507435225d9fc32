//! The command line of `headwater`.
//!
//! A flag that sets something is kept as text: its type and range are checked where those of the file
//! and the environment are, by one table.

use std::path::PathBuf;

use clap::Parser;

/// Paragraphs are one line each: clap breaks them to the width of the terminal.
const AFTER_HELP: &str = "\
Precedence: flags, then the environment, then the file, then --dev, then the defaults. A setting `section.key` \
of the file is HEADWATER_SECTION_KEY in the environment; --print-config lists them all, and what it prints is a \
valid file.

--dev, for a developer's machine: logs for a reader and at debug level for the broker, retention every 5 s, \
a drain of at most 2 s, 64 MiB of receive windows and 128 MiB of requests in flight. Ports, data and durability \
stay as they are.

Exit codes:
  0  stopped by SIGTERM or SIGINT after a drain (a second signal: 128 + its number, at once)
  1  failed while running, or for any reason not listed
  2  a flag, variable or file is wrong
  3  an address cannot be listened on
  4  the data directory is in use by another broker
  5  the data directory was written by another version
  6  the data directory cannot be read or written
  7  the cluster does not take this broker, or the data directory belongs to another cluster";

/// An event streaming broker and event store.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "headwater", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Configuration file (TOML) [environment: HEADWATER_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where everything durable lies [default: ./headwater-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,

    /// Number of this broker in its cluster [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub node_id: Option<String>,

    /// Brokers with which a new cluster begins, this one among them; 3 or 5 survive the loss of 1 or 2
    #[arg(long, value_name = "ID@HOST:PORT,...")]
    pub cluster: Option<String>,

    /// Peer listeners of a running cluster to join
    #[arg(long, value_name = "HOST:PORT,...")]
    pub join: Option<String>,

    /// Listener of the Kafka protocol; port 0 takes a free one [default: 127.0.0.1:9092]
    #[arg(long, value_name = "A")]
    pub kafka_addr: Option<String>,

    /// Listener of the gRPC protocol [default: 127.0.0.1:9093]
    #[arg(long, value_name = "A")]
    pub grpc_addr: Option<String>,

    /// Listener for other brokers [default: 127.0.0.1:9094]
    #[arg(long, value_name = "A")]
    pub peer_addr: Option<String>,

    /// Listener of /metrics and /health [default: 127.0.0.1:9095]
    #[arg(long, value_name = "A")]
    pub http_addr: Option<String>,

    /// Defaults for a developer's machine, see below
    #[arg(long)]
    pub dev: bool,

    /// Print each effective setting and where it came from, and exit
    #[arg(long)]
    pub print_config: bool,

    /// With a majority of the metadata's voters gone for good: show what this stopped broker holds, and exit
    #[arg(long)]
    pub recover_metadata: bool,

    /// With --recover-metadata: go on with what it holds, and give up what only the others had
    #[arg(long, requires = "recover_metadata")]
    pub accept_loss: bool,
}

impl Cli {
    /// The settings given as flags: name of the setting, text, and the flag.
    pub fn settings(&self) -> Vec<(&'static str, String, &'static str)> {
        let given = [
            ("data_dir", &self.data_dir, "--data-dir"),
            ("node_id", &self.node_id, "--node-id"),
            ("cluster.nodes", &self.cluster, "--cluster"),
            ("cluster.join", &self.join, "--join"),
            ("kafka_addr", &self.kafka_addr, "--kafka-addr"),
            ("grpc_addr", &self.grpc_addr, "--grpc-addr"),
            ("peer_addr", &self.peer_addr, "--peer-addr"),
            ("http_addr", &self.http_addr, "--http-addr"),
        ];
        let mut settings: Vec<_> = given
            .into_iter()
            .filter_map(|(name, text, flag)| text.clone().map(|text| (name, text, flag)))
            .collect();
        if self.dev {
            settings.push(("dev", "true".to_owned(), "--dev"));
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn the_command_is_well_formed_and_its_flags_set_what_exists() {
        Cli::command().debug_assert();
        let all = [
            "--data-dir=d",
            "--node-id=1",
            "--cluster=c",
            "--join=j",
            "--kafka-addr=a",
            "--grpc-addr=a",
            "--peer-addr=a",
            "--http-addr=a",
        ];
        let cli = Cli::parse_from([&["headwater", "--dev"], &all[..]].concat());
        assert_eq!(cli.settings().len(), all.len() + 1);
        for (name, ..) in cli.settings() {
            assert!(SETTINGS.iter().any(|s| s.name == name), "{name}");
        }
    }
}
