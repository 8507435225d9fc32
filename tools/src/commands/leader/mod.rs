//! `streamctl leader`: who leads.

mod balance;
mod transfer;

use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum LeaderCommand {
    /// Hand the leadership of partitions over.
    Transfer(transfer::TransferArgs),
    /// Give leaderships back to the preferred replicas, so that every broker leads its share.
    Balance(balance::BalanceArgs),
}

pub async fn run(command: LeaderCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        LeaderCommand::Transfer(args) => transfer::run(args, settings, output).await,
        LeaderCommand::Balance(args) => balance::run(args, settings, output).await,
    }
}
