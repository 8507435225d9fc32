//! `streamctl node replace`.

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
Start the new broker with --join first. The old one may be gone already. A broker that lost its disk and comes \
back empty under its own id needs no replacement: its replicas are made anew by themselves.

Examples:
  streamctl node replace 2 --with 4
  streamctl node replace 2 --with 4 --dry-run
  streamctl node replace 2 --with 4 --yes --no-wait")]
pub struct ReplaceArgs {
    /// The broker that goes.
    #[arg(value_name = "ID", value_parser = parse_broker)]
    broker: i32,
    /// The broker that takes its replicas.
    #[arg(long, value_name = "ID", value_parser = parse_broker)]
    with: i32,
    /// Do not wait until it is done: it goes on by itself.
    #[arg(long)]
    no_wait: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: ReplaceArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let (id, with) = (args.broker, args.with);
    let broker = must_find(&admin, id).await?;
    must_find(&admin, with).await?;
    if args.dry_run {
        let result = admin.replace_node(id, with, true).await?;
        let moved = counted(u64::from(result.partitions), "partition");
        return report(
            output,
            id,
            "valid",
            &result,
            &format!("{moved} would move from broker {id} to {with}"),
        );
    }
    let held = counted(u64::from(broker.replicas), "replica");
    confirm(&format!("Move {held} from broker {id} to broker {with} and forget broker {id}?"), args.yes)?;
    let result = admin.replace_node(id, with, false).await?;
    if args.no_wait {
        return report(output, id, "leaving", &result, &result.message);
    }
    let held = Held::default();
    until_done(output, || is_gone(&admin, id, &held)).await?;
    report(output, id, "replaced", &result, &format!("broker {with} has taken the place of broker {id}"))
}
