//! `streamctl node`: brokers that go, come back, or are replaced.

mod drain;
mod remove;
mod replace;

use headwater_client::Admin;
use headwater_proto::v1;
use serde_json::json;

use crate::commands::follow::Seen;
use crate::exit::{Exit, Failure};
use crate::output::{Output, counted, grouped};
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// Let a broker lead nothing, so that it can be stopped; or let it take part again.
    Drain(drain::DrainArgs),
    /// Move all replicas of a broker to another one, and forget it.
    Replace(replace::ReplaceArgs),
    /// Move all replicas of a broker to the others, and forget it.
    Remove(remove::RemoveArgs),
}

pub async fn run(command: NodeCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        NodeCommand::Drain(args) => drain::run(args, settings, output).await,
        NodeCommand::Replace(args) => replace::run(args, settings, output).await,
        NodeCommand::Remove(args) => remove::run(args, settings, output).await,
    }
}

/// The broker, if the cluster has it.
async fn find(admin: &Admin, id: i32) -> Result<Option<v1::BrokerStatus>, Failure> {
    let status = admin.cluster_status().await?;
    Ok(status.brokers.into_iter().find(|b| b.broker.as_ref().is_some_and(|about| about.id == id)))
}

async fn must_find(admin: &Admin, id: i32) -> Result<v1::BrokerStatus, Failure> {
    find(admin, id).await?.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("the cluster has no broker {id}"))
            .hint("`streamctl cluster status` shows those that it has")
    })
}

/// Whether the cluster has let go of a broker, and what it still holds otherwise.
async fn is_gone(admin: &Admin, id: i32) -> Result<Seen, Failure> {
    Ok(match find(admin, id).await? {
        None => Seen::Done,
        Some(broker) => {
            let held = counted(u64::from(broker.replicas), "replica");
            let lag = match broker.live {
                true => String::new(),
                false => ", silent".to_owned(),
            };
            Seen::Left(format!("broker {id} holds {held} and leads {}{lag}", grouped(broker.leaders)))
        }
    })
}

fn report(output: Output, id: i32, status: &str, result: &v1::NodeResult, end: &str) -> Result<(), Failure> {
    let data = json!({
        "broker": id,
        "status": status,
        "partitions": result.partitions,
        "message": result.message,
    });
    output.report(&data, |page| page.line(end))
}
