//! `streamctl node remove`.

use super::{Held, is_gone, must_find, report};
use crate::commands::brokers::parse_broker;
use crate::commands::confirm::confirm;
use crate::commands::follow::until_done;
use crate::connect::connect;
use crate::exit::Failure;
use crate::output::{Output, counted};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The broker may be gone already: its replicas are then made anew from the others. It is refused where too few \
brokers would be left for the replicas that topics have.

Examples:
  streamctl node remove 4
  streamctl node remove 4 --dry-run
  streamctl node remove 4 --yes --no-wait")]
pub struct RemoveArgs {
    /// The broker that goes.
    #[arg(value_name = "ID", value_parser = parse_broker)]
    broker: i32,
    /// Do not wait until it is gone: it goes on by itself.
    #[arg(long)]
    no_wait: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: RemoveArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let id = args.broker;
    let broker = must_find(&admin, id).await?;
    if args.dry_run {
        let result = admin.remove_node(id, true).await?;
        let moved = counted(u64::from(result.partitions), "partition");
        return report(output, id, "valid", &result, &format!("{moved} would move off broker {id}"));
    }
    let held = counted(u64::from(broker.replicas), "replica");
    confirm(&format!("Move {held} off broker {id} and forget it?"), args.yes)?;
    let result = admin.remove_node(id, false).await?;
    if args.no_wait {
        return report(output, id, "leaving", &result, &result.message);
    }
    let held = Held::default();
    until_done(output, || is_gone(&admin, id, &held)).await?;
    report(output, id, "removed", &result, &format!("broker {id} is removed: it can be stopped for good"))
}
