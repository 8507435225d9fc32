//! `streamctl records`: what becomes of records that are stored.

mod accept_loss;
mod delete;

use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum RecordsCommand {
    /// Delete the oldest records of a topic's partitions, up to a place.
    Delete(delete::DeleteArgs),
    /// Accept that damaged records are lost, so that their partitions can be written again.
    AcceptLoss(accept_loss::AcceptLossArgs),
}

pub async fn run(command: RecordsCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        RecordsCommand::Delete(args) => delete::run(args, settings, output).await,
        RecordsCommand::AcceptLoss(args) => accept_loss::run(args, settings, output).await,
    }
}
