//! `streamctl node drain`.

use headwater_client::Admin;
use headwater_proto::v1;

use super::{id_of, must_find, report};
use crate::commands::brokers::{no_broker, parse_broker};
use crate::commands::follow::{Seen, assigned, names, until_done};
use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::output::{Output, counted};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a rolling restart: drain, restart the broker, --undo, and on to the next one when `streamctl cluster status` \
says that all is well. Replicas stay where they are.

Examples:
  streamctl node drain 2
  streamctl node drain 2 --undo")]
pub struct DrainArgs {
    /// The broker that is to lead nothing.
    #[arg(value_name = "ID", value_parser = parse_broker)]
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
    until_done(output, || leads_nothing(&admin, id)).await?;
    report(output, id, "drained", &result, &format!("broker {id} leads nothing: it can be stopped"))
}

/// Whether the broker leads nothing any more, and what it still leads otherwise.
async fn leads_nothing(admin: &Admin, id: i32) -> Result<Seen, Failure> {
    let brokers = admin.cluster_status().await?.brokers;
    let broker = brokers.iter().find(|broker| id_of(broker) == Some(id)).ok_or_else(|| no_broker(id))?;
    let count = broker.leaders;
    if count == 0 {
        return Ok(Seen::Done);
    }
    let mut led = admin.list_partitions(Vec::new(), false).await?;
    led.retain(|one| one.leader_id == id);
    let (alone, shared): (Vec<_>, Vec<_>) = led.iter().cloned().partition(|one| is_alone(one, id));
    if shared.is_empty() && !alone.is_empty() && led.len() == count as usize {
        return Err(nowhere_else(id, &alone));
    }
    let mut left = format!("broker {id} still leads {}", counted(u64::from(count), "partition"));
    if !led.is_empty() {
        left += &format!(": {}", names(&led));
    }
    if !alone.is_empty() {
        left += &format!("; nobody else has a replica of {}", names(&alone));
    }
    let stuck: Vec<_> = shared.into_iter().filter(|one| !may_pass_on(one, id, &brokers)).collect();
    if !stuck.is_empty() {
        left +=
            &format!("; the other brokers that have {} are draining, being removed or silent", names(&stuck));
    }
    Ok(Seen::Left { what: left, detail: String::new() })
}

/// Whether another broker that has a replica of the partition may lead it.
fn may_pass_on(partition: &v1::PartitionStatus, id: i32, brokers: &[v1::BrokerStatus]) -> bool {
    let may_lead = |replica: &v1::ReplicaStatus| {
        let holds = |b: &v1::BrokerStatus| id_of(b) == Some(replica.broker_id);
        !replica.leaving && brokers.iter().any(|b| holds(b) && b.live && b.state() == v1::BrokerState::Active)
    };
    partition.replicas.iter().any(|replica| replica.broker_id != id && may_lead(replica))
}

/// Whether no other broker has a replica of the partition, or is about to.
fn is_alone(partition: &v1::PartitionStatus, id: i32) -> bool {
    assigned(partition) == [id] && partition.replicas.iter().all(|replica| replica.broker_id == id)
}

fn nowhere_else(id: i32, alone: &[v1::PartitionStatus]) -> Failure {
    let message = format!(
        "broker {id} drains, but it has the only replica of {}: nobody else can lead {}",
        names(alone),
        if alone.len() == 1 { "it" } else { "them" }
    );
    let topic = alone.first().map_or("TOPIC", |one| one.topic.as_str());
    Failure::new(Exit::Conflict, message).hint(format!(
        "make replicas elsewhere with `streamctl topic alter {topic} --replicas 3` and drain again, \
         or end the drain with `streamctl node drain {id} --undo`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(brokers: &[i32]) -> v1::PartitionStatus {
        let replica = |id: &i32| v1::ReplicaStatus { broker_id: *id, ..Default::default() };
        let replicas = brokers.iter().map(replica).collect();
        v1::PartitionStatus { topic: "orders".into(), partition: 3, replicas, ..Default::default() }
    }

    #[test]
    fn nobody_takes_a_partition_who_drains_or_is_silent() {
        let broker = |id: i32, live: bool, state: v1::BrokerState| v1::BrokerStatus {
            broker: Some(v1::Broker { id, ..Default::default() }),
            live,
            state: state.into(),
            ..Default::default()
        };
        let (active, draining) = (v1::BrokerState::Active, v1::BrokerState::Draining);
        let brokers = [
            broker(1, true, active),
            broker(2, true, draining),
            broker(3, true, draining),
            broker(4, false, active),
        ];
        for (holders, expected) in [(&[2, 3, 4][..], false), (&[2, 1], true), (&[2], false), (&[1], true)] {
            assert_eq!(may_pass_on(&partition(holders), 2, &brokers), expected, "{holders:?}");
        }
    }

    #[test]
    fn a_partition_that_nobody_else_can_lead_is_named_with_the_way_out() {
        assert!(is_alone(&partition(&[2]), 2));
        assert!(!is_alone(&partition(&[2, 1]), 2));
        assert!(!is_alone(&partition(&[1]), 2));
        let failure = nowhere_else(2, &[partition(&[2])]);
        assert_eq!(failure.exit, Exit::Conflict);
        assert!(failure.message.contains("orders/3"), "{}", failure.message);
        assert!(failure.hint.is_some_and(|hint| hint.contains("topic alter orders --replicas")));
    }
}
