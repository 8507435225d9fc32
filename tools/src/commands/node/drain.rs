//! `streamctl node drain`.

use super::{must_find, report};
use crate::commands::follow::{Seen, until_done};
use crate::connect::connect;
use crate::exit::Failure;
use crate::output::{Output, counted};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a rolling restart: drain, restart the broker, --undo, and on to the next one when `streamctl cluster status`
says that all is well. Replicas stay where they are.

Examples:
  streamctl node drain 2
  streamctl node drain 2 --undo")]
pub struct DrainArgs {
    #[arg(value_name = "ID")]
    broker: i32,
    /// Let the broker lead and take replicas again.
    #[arg(long)]
    undo: bool,
    /// Do not wait until it leads nothing: it goes on by itself.
    #[arg(long)]
    no_wait: bool,
}

pub async fn run(args: DrainArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let id = args.broker;
    must_find(&admin, id).await?;
    let result = admin.drain_node(id, args.undo).await?;
    if args.undo {
        return report(output, id, "active", &result, &format!("broker {id} takes part again"));
    }
    if args.no_wait {
        return report(output, id, "draining", &result, &result.message);
    }
    until_done(output, || async {
        Ok(match must_find(&admin, id).await?.leaders {
            0 => Seen::Done,
            left => Seen::Left(format!("broker {id} leads {} more", counted(u64::from(left), "partition"))),
        })
    })
    .await?;
    report(output, id, "drained", &result, &format!("broker {id} leads nothing: it can be stopped"))
}
