//! Handing leadership over, one partition or all of them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::transport::{NodeRequest, NodeResponse};
use headwater_core::metadata::BrokerState;
use headwater_core::placement::better_leader;
use headwater_proto::types::{BrokerId, GroupId, ReplicaId};
use headwater_proto::v1;

use super::survey::elsewhere;
use super::{known_broker, name_of};
use crate::cluster::group_name;
use crate::error::RequestError;
use crate::node::Node;

/// Transfers under way at the same time.
const AT_A_TIME: usize = 16;
/// The answer travels after the transfer.
const GRACE: Duration = Duration::from_millis(500);

/// A leadership that moves, or would.
#[derive(Debug)]
pub struct Balanced {
    pub topic: String,
    pub partition: i32,
    pub from: BrokerId,
    pub to: BrokerId,
    pub outcome: Result<(), RequestError>,
}

impl Node {
    /// Makes the replica on a broker the leader; the preferred one, where none is named.
    ///
    /// # Errors
    /// The broker has no replica that could lead, or it did not become the leader in time.
    pub async fn transfer_leader(
        self: &Arc<Self>,
        topic: &str,
        partition: i32,
        to: Option<i32>,
        within: Duration,
    ) -> Result<(), RequestError> {
        let (topic, assigned) = super::find(self, topic, partition).await?;
        let to = match to {
            Some(broker) => known_broker(self, broker).await?,
            None => assigned.brokers().next().ok_or(RequestError::NotLeader)?,
        };
        let group = GroupId { topic_id: topic.id, partition: headwater_proto::types::PartitionId(partition) };
        self.make_leader(group, to, within).await
    }

    /// As [`Node::transfer_leader`], of any group.
    ///
    /// # Errors
    /// As there.
    pub async fn make_leader(
        self: &Arc<Self>,
        group: GroupId,
        to: BrokerId,
        within: Duration,
    ) -> Result<(), RequestError> {
        let target = self.controller().with_state(|state| {
            let replicas = &state.group(group)?.replicas;
            replicas.iter().find(|replica| replica.broker == to).map(|replica| replica.id)
        });
        let target =
            target.ok_or_else(|| RequestError::Invalid(format!("broker {to} has no replica of it")))?;
        let leader = self.cluster().leader(group).ok_or(RequestError::NoLeader)?;
        if leader.broker == to {
            return Ok(());
        }
        if !self.cluster().alive(to) {
            return Err(RequestError::Invalid(format!("broker {to} is not alive")));
        }
        if leader.broker == self.controller().broker_id() {
            return self.hand_over_here(group, target, within).await;
        }
        let request = v1::HandOver {
            group: Some(group_name(group)),
            to_replica: target.get(),
            within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
        };
        let request = NodeRequest::HandOver(request);
        match self.transport().node_call(leader.broker, request, within + GRACE).await {
            Ok(NodeResponse::HandOver(reply)) if reply.code == 0 => Ok(()),
            Ok(NodeResponse::HandOver(reply)) => Err(elsewhere(reply.code, reply.message)),
            Ok(_) => Err(RequestError::Internal("the answer is to another question".to_owned())),
            Err(error) => Err(RequestError::Unreachable(error.to_string())),
        }
    }

    /// This broker leads the group, and makes another replica the leader.
    ///
    /// # Errors
    /// It does not lead, or the other did not become the leader in time.
    pub async fn hand_over_here(
        &self,
        group: GroupId,
        to: ReplicaId,
        within: Duration,
    ) -> Result<(), RequestError> {
        let local = self.cluster().local(group).ok_or(RequestError::NotLeader)?;
        local.transfer_leadership(to, within).await?;
        let (topic, partition) = name_of(self, group);
        tracing::info!(topic, partition, %to, "leadership handed over");
        Ok(())
    }

    /// Hands leaderships back to the preferred replicas where those are fit to lead. `only_tell`: says what it would do.
    pub async fn balance_leaders(self: &Arc<Self>, only_tell: bool, within: Duration) -> Vec<Balanced> {
        let led = self.cluster().led();
        let changes: Vec<_> = self.controller().with_state(|state| {
            let may_lead = |broker: BrokerId| {
                let active = state.broker(broker).is_some_and(|b| b.state == BrokerState::Active);
                active && self.cluster().alive(broker)
            };
            let partitions = state.groups().filter(|(group, _)| *group != GroupId::METADATA);
            let better = partitions.filter_map(|(group, assigned)| {
                let leader = led.get(&group)?;
                let in_sync = |broker: BrokerId| leader.in_sync.contains(&broker);
                Some((group, leader.broker, better_leader(leader.broker, assigned, may_lead, in_sync)?))
            });
            better.collect()
        });
        let transfer = |(group, from, to): (GroupId, BrokerId, BrokerId)| async move {
            let (topic, partition) = name_of(self, group);
            let outcome = if only_tell { Ok(()) } else { self.make_leader(group, to, within).await };
            Balanced { topic, partition, from, to, outcome }
        };
        stream::iter(changes.into_iter().map(transfer)).buffered(AT_A_TIME).collect().await
    }
}
