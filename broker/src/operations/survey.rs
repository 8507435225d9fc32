//! What each broker holds, asked of all that are alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::Follower;
use headwater_consensus::transport::{NodeRequest, NodeResponse};
use headwater_proto::ErrorCode;
use headwater_proto::types::{BrokerId, GroupId, ReplicaId};
use headwater_proto::v1::{self, SurveyReply, SurveyedReplica};

use crate::cluster::{LocalGroup, group_name, read_group_name};
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;

/// A broker that does not answer within this is shown without what it alone knows.
const WITHIN: Duration = Duration::from_secs(2);
const AT_A_TIME: usize = 16;

/// The answers of the brokers that gave one.
pub type Surveyed = BTreeMap<BrokerId, SurveyReply>;

impl Node {
    /// Asks every live broker what it holds of these groups; of all, when none is named.
    pub async fn survey(self: &Arc<Self>, groups: &[GroupId]) -> Surveyed {
        let own = self.controller().broker_id();
        let brokers: Vec<_> =
            self.controller().with_state(|state| state.brokers().map(|broker| broker.id).collect());
        let ask = |broker: BrokerId| async move {
            if broker == own {
                return Some((broker, survey_here(self, groups)));
            }
            let groups = groups.iter().map(|group| group_name(*group)).collect();
            let request = NodeRequest::Survey(v1::Survey { groups });
            match self.transport().node_call(broker, request, WITHIN).await {
                Ok(NodeResponse::Survey(reply)) => Some((broker, reply)),
                _ => None,
            }
        };
        let live = brokers.into_iter().filter(|broker| self.cluster().alive(*broker));
        stream::iter(live.map(ask)).buffer_unordered(AT_A_TIME).filter_map(std::future::ready).collect().await
    }
}

/// Another broker asks.
///
/// # Errors
/// Words for a request that cannot be read.
pub fn answer_survey(node: &Node, request: &v1::Survey) -> Result<SurveyReply, String> {
    let groups =
        request.groups.iter().map(|name| read_group_name(Some(name))).collect::<Result<Vec<_>, _>>()?;
    Ok(survey_here(node, &groups))
}

fn survey_here(node: &Node, groups: &[GroupId]) -> SurveyReply {
    let own = (node.controller().broker_id(), node.data_dir().incarnation());
    let wanted = |group: GroupId| groups.is_empty() || groups.contains(&group);
    let held: Vec<_> = node.controller().with_state(|state| {
        let here = state.groups().filter(|(group, _)| wanted(*group));
        here.filter_map(|(group, assigned)| {
            let name = state.topic_by_id(group.topic_id).map(|topic| topic.name.clone());
            Some((group, name, assigned.on(own.0, own.1)?.id))
        })
        .collect()
    });
    let replicas = held.into_iter().filter_map(|(group, name, replica)| match name {
        Some(name) => match node.partition(&name, group.partition.get()) {
            Ok(partition) => Some(of_partition(&partition)),
            // Not begun yet, or its broker does not know for sure that it is to be.
            Err(RequestError::NotLeader | RequestError::UnknownTopic { .. }) => None,
            Err(error) => Some(unusable(group, replica, &error)),
        },
        None => Some(of_group(node.controller().group().as_ref())),
    });
    SurveyReply {
        replicas: replicas.collect(),
        quiet: u32::try_from(node.cluster().quiet_count()).unwrap_or(u32::MAX),
        uptime_ms: u64::try_from(node.cluster().uptime().as_millis()).unwrap_or(u64::MAX),
        http_address: node.host().context.advertised.http.to_string(),
    }
}

fn unusable(group: GroupId, replica: ReplicaId, error: &RequestError) -> SurveyedReplica {
    SurveyedReplica {
        group: Some(group_name(group)),
        replica_id: replica.get(),
        high_watermark: -1,
        log_start_offset: -1,
        log_end_offset: -1,
        damage: error.to_string(),
        ..SurveyedReplica::default()
    }
}

fn of_partition(partition: &Partition) -> SurveyedReplica {
    let found = partition.describe();
    SurveyedReplica {
        high_watermark: found.progress.high_watermark.get(),
        log_start_offset: found.progress.log_start.get(),
        log_end_offset: partition.group().log().bounds().next_offset.get(),
        size_bytes: found.size_bytes(),
        damage: found.damage,
        torn: partition.group().torn_for_long(),
        ..of_group(partition.group().as_ref())
    }
}

fn of_group(group: &dyn LocalGroup) -> SurveyedReplica {
    let (last, role) = (group.last(), group.role());
    let lag = |(replica, follower): (ReplicaId, Follower)| v1::FollowerLag {
        replica_id: replica.get(),
        entries: last.index.get().saturating_sub(follower.matched.get()),
        silent_ms: follower
            .last_heard
            .map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX)),
    };
    let members = group.membership();
    let config = |voters: &BTreeSet<ReplicaId>| v1::VoterSet {
        replica_ids: voters.iter().copied().map(ReplicaId::get).collect(),
    };
    SurveyedReplica {
        group: Some(group_name(group.id())),
        replica_id: group.replica_id().get(),
        last_term: last.term.get(),
        last_index: last.index.get(),
        leads_in: role.leads.map_or(0, |term| term.get()),
        voters: members.voters().into_iter().map(ReplicaId::get).collect(),
        configs: members.configs.iter().map(config).collect(),
        followers: group.followers().into_iter().map(lag).collect(),
        ..SurveyedReplica::default()
    }
}

/// Another broker asks this one, which leads the group, to make another replica the leader.
///
/// # Errors
/// Words for a request that cannot be read.
pub async fn answer_hand_over(node: &Node, request: &v1::HandOver) -> Result<v1::HandOverReply, String> {
    let group = read_group_name(request.group.as_ref())?;
    let within = Duration::from_millis(request.within_ms.into());
    Ok(match node.hand_over_here(group, ReplicaId(request.to_replica), within).await {
        Ok(()) => v1::HandOverReply::default(),
        Err(error) => v1::HandOverReply { code: error.code().number().into(), message: error.to_string() },
    })
}

/// An error as another broker worded it.
pub fn elsewhere(code: i32, message: String) -> RequestError {
    let code = ErrorCode::from_number(code).unwrap_or(ErrorCode::UnknownServerError);
    RequestError::Elsewhere { code, message }
}
