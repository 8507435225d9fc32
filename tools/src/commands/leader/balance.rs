//! `streamctl leader balance`.

use headwater_proto::v1;
use serde_json::{Value, json};

use crate::connect::connect;
use crate::exit::{Failure, Tally};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The cluster does this by itself now and then; this does it at once, as after a rolling restart.

Examples:
  streamctl leader balance
  streamctl leader balance --dry-run")]
pub struct BalanceArgs {
    /// Show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: BalanceArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let all = admin.balance_leaders(args.dry_run).await?;
    let mut tally = Tally::default();
    let mut moved = Vec::new();
    for one in all {
        match &one.error {
            Some(error) => {
                let code = headwater_proto::ErrorCode::from_number(error.code)
                    .unwrap_or(headwater_proto::ErrorCode::UnknownServerError);
                let subject = format!("transfer the leader of {}/{}", one.topic, one.partition);
                tally.failed(Failure::from_code(subject, code, &error.message));
            }
            None => {
                moved.push(one);
                tally.done();
            }
        }
    }
    let status = if args.dry_run { "planned" } else { "transferred" };
    let row = |one: &v1::BalancedLeader| -> Value {
        json!({
            "topic": one.topic, "partition": one.partition, "from": one.from, "to": one.to, "status": status
        })
    };
    output.report(&moved.iter().map(row).collect::<Vec<_>>(), |page| {
        if moved.is_empty() {
            page.line("every leader is where it should be");
            return;
        }
        let rows = moved.iter().map(|one| {
            let partition = format!("{}/{}", one.topic, one.partition);
            vec![partition, one.from.to_string(), one.to.to_string(), status.to_owned()]
        });
        page.table(&["PARTITION", ">FROM", ">TO", "STATUS"], rows);
    })?;
    tally.finish()
}
