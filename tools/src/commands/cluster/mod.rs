//! `streamctl cluster`: who is there, and how it is.

mod info;
mod status;

use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum ClusterCommand {
    /// Show the cluster's id, its controller and its brokers.
    #[command(after_help = "\
Examples:
  streamctl cluster info
  streamctl cluster info -o json | jq -r '.brokers[].grpc_address'")]
    Info,
    /// Show at a glance whether all is well: brokers, leaders, replicas, disks, lag.
    Status(status::StatusArgs),
}

pub async fn run(command: ClusterCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        ClusterCommand::Info => info::run(settings, output).await,
        ClusterCommand::Status(args) => status::run(args, settings, output).await,
    }
}
