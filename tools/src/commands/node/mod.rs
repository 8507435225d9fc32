//! `streamctl node`: brokers that go, come back, or are replaced.

mod drain;
mod remove;
mod replace;

use std::cell::RefCell;

use headwater_client::Admin;
use headwater_proto::v1;
use serde_json::json;

use crate::commands::brokers::no_broker;
use crate::commands::follow::{Seen, names};
use crate::exit::Failure;
use crate::output::{Output, counted};
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
    Ok(status.brokers.into_iter().find(|broker| id_of(broker) == Some(id)))
}

fn id_of(broker: &v1::BrokerStatus) -> Option<i32> {
    broker.broker.as_ref().map(|about| about.id)
}

async fn must_find(admin: &Admin, id: i32) -> Result<v1::BrokerStatus, Failure> {
    find(admin, id).await?.ok_or_else(|| no_broker(id))
}

/// The names of what a broker held when it was last looked at, with their number: they are asked for only when
/// that has changed.
#[derive(Debug, Default)]
struct Held(RefCell<Option<(u32, String)>>);

impl Held {
    async fn names(&self, admin: &Admin, broker: &v1::BrokerStatus, id: i32) -> Result<String, Failure> {
        let known = self.0.borrow().clone().filter(|(replicas, _)| *replicas == broker.replicas);
        if let Some((_, names)) = known {
            return Ok(names);
        }
        let mut held = admin.list_partitions(Vec::new(), false).await?;
        held.retain(|one| one.replicas.iter().any(|replica| replica.broker_id == id));
        let names = names(&held);
        *self.0.borrow_mut() = Some((broker.replicas, names.clone()));
        Ok(names)
    }
}

/// Whether the cluster has let go of a broker, and what it still holds otherwise.
async fn is_gone(admin: &Admin, id: i32, held: &Held) -> Result<Seen, Failure> {
    let Some(broker) = find(admin, id).await? else { return Ok(Seen::Done) };
    let silent = if broker.live { "" } else { ", which is silent" };
    let mut what = match broker.replicas {
        0 => format!("broker {id} holds nothing any more and is about to be forgotten"),
        count => format!("{} still to leave broker {id}{silent}", counted(u64::from(count), "partition")),
    };
    if broker.replicas > 0 {
        let names = held.names(admin, &broker, id).await?;
        if !names.is_empty() {
            what += &format!(": {names}");
        }
    }
    Ok(Seen::Left { what, detail: String::new() })
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
