//! The cluster at a glance, put together from what every live broker answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_core::metadata::{Broker, Partition as Assignment, Replica};
use headwater_proto::types::{BrokerId, GroupId, ReplicaId};
use headwater_proto::v1::{SurveyReply, SurveyedReplica};

use super::survey::Surveyed;
use crate::cluster::{DiskSpace, LeaderInfo, read_group_name};
use crate::node::Node;

/// One broker.
#[derive(Debug)]
pub struct BrokerFigures {
    pub broker: Broker,
    pub live: bool,
    pub silent: Option<Duration>,
    pub leaders: usize,
    pub replicas: usize,
    pub out_of_sync: usize,
    pub lag_entries: u64,
    pub damaged: usize,
    pub disk: DiskSpace,
    pub log_bytes: u64,
    pub quiet: u32,
    pub uptime_ms: u64,
    pub http_address: String,
}

/// The whole.
#[derive(Debug)]
pub struct ClusterFigures {
    pub controller: Option<LeaderInfo>,
    pub controller_voters: Vec<BrokerId>,
    pub brokers: Vec<BrokerFigures>,
    pub topics: usize,
    pub partitions: usize,
    pub under_replicated: usize,
    pub leaderless: usize,
    pub moving: usize,
}

/// One replica.
#[derive(Debug)]
pub struct ReplicaFigures {
    pub replica: Replica,
    pub live: bool,
    pub in_sync: bool,
    pub lag_entries: Option<u64>,
    pub joining: bool,
    pub leaving: bool,
    pub damage: String,
}

/// One partition.
#[derive(Debug)]
pub struct PartitionFigures {
    pub topic: String,
    pub group: GroupId,
    pub leader: Option<LeaderInfo>,
    pub replicas: Vec<ReplicaFigures>,
    pub high_watermark: i64,
    pub log_start: i64,
    /// What is wrong or under way, in words.
    pub remarks: Vec<String>,
}

impl PartitionFigures {
    fn is_under_replicated(&self) -> bool {
        self.replicas.iter().any(|replica| !replica.leaving && (!replica.live || !replica.in_sync))
    }

    fn is_moving(&self) -> bool {
        self.replicas.iter().any(|replica| replica.joining || replica.leaving)
    }
}

/// What was answered about each group.
struct Findings {
    by_group: BTreeMap<GroupId, Vec<SurveyedReplica>>,
}

impl Findings {
    fn new(surveyed: &mut Surveyed) -> Self {
        let mut by_group = BTreeMap::<_, Vec<_>>::new();
        for reply in surveyed.values_mut() {
            for found in std::mem::take(&mut reply.replicas) {
                if let Ok(group) = read_group_name(found.group.as_ref()) {
                    by_group.entry(group).or_default().push(found);
                }
            }
        }
        Self { by_group }
    }

    fn of(&self, group: GroupId) -> &[SurveyedReplica] {
        self.by_group.get(&group).map_or(&[], Vec::as_slice)
    }
}

impl Node {
    /// How every partition of these topics is (of all, when none is named).
    pub async fn partition_figures(self: &Arc<Self>, topics: &BTreeSet<String>) -> Vec<PartitionFigures> {
        let wanted: Vec<_> = self.controller().with_state(|state| {
            let topics = state.topics().filter(|topic| topics.is_empty() || topics.contains(&topic.name));
            topics
                .flat_map(|topic| {
                    topic.numbered().map(|(partition, assigned)| {
                        let group = GroupId { topic_id: topic.id, partition };
                        (topic.name.clone(), group, assigned.clone())
                    })
                })
                .collect()
        });
        let groups: Vec<_> = wanted.iter().map(|(_, group, _)| *group).collect();
        if groups.is_empty() {
            return Vec::new();
        }
        let all = topics.is_empty();
        let mut surveyed = self.survey(if all { &[] } else { &groups }).await;
        let findings = Findings::new(&mut surveyed);
        let figures = wanted
            .into_iter()
            .map(|(topic, group, assigned)| self.figures_of(topic, group, &assigned, findings.of(group)));
        figures.collect()
    }

    /// The cluster as a whole.
    pub async fn cluster_figures(self: &Arc<Self>) -> ClusterFigures {
        let mut surveyed = self.survey(&[]).await;
        let findings = Findings::new(&mut surveyed);
        let (brokers, topics, wanted): (Vec<_>, _, Vec<_>) = self.controller().with_state(|state| {
            let assigned = state.groups().map(|(group, assigned)| (group, assigned.clone()));
            (state.brokers().cloned().collect(), state.topics().count(), assigned.collect())
        });
        let partitions: Vec<_> = wanted
            .iter()
            .filter(|(group, _)| *group != GroupId::METADATA)
            .map(|(group, assigned)| self.figures_of(String::new(), *group, assigned, findings.of(*group)))
            .collect();
        let count = |matches: fn(&PartitionFigures) -> bool| partitions.iter().filter(|p| matches(p)).count();
        let controller_voters = self.metadata_voters();
        ClusterFigures {
            controller: self
                .cluster()
                .leader(GroupId::METADATA)
                .filter(|_| self.has_majority(controller_voters.iter().copied())),
            controller_voters,
            brokers: brokers
                .into_iter()
                .map(|broker| {
                    let reply = surveyed.get(&broker.id);
                    self.broker_figures(broker, reply, &partitions, &findings)
                })
                .collect(),
            topics,
            partitions: partitions.len(),
            under_replicated: count(PartitionFigures::is_under_replicated),
            leaderless: count(|partition| partition.leader.is_none()),
            moving: count(PartitionFigures::is_moving),
        }
    }

    /// Whether most of these brokers are heard from. At rest, a leader without them goes on believing that it leads
    /// until somebody writes.
    pub(super) fn has_majority(&self, brokers: impl Iterator<Item = BrokerId>) -> bool {
        let (alive, silent): (Vec<_>, Vec<_>) = brokers.partition(|broker| self.cluster().alive(*broker));
        alive.len() > silent.len()
    }

    fn metadata_voters(&self) -> Vec<BrokerId> {
        let members = self.controller().group().membership();
        let voters = members.voters();
        let mut brokers: Vec<_> = members
            .peers
            .iter()
            .filter(|(replica, _)| voters.contains(replica))
            .map(|(_, peer)| peer.broker_id)
            .collect();
        brokers.sort_unstable();
        brokers
    }

    fn broker_figures(
        &self,
        broker: Broker,
        reply: Option<&SurveyReply>,
        partitions: &[PartitionFigures],
        findings: &Findings,
    ) -> BrokerFigures {
        let id = broker.id;
        let own: Vec<_> = partitions
            .iter()
            .flat_map(|partition| &partition.replicas)
            .filter(|replica| replica.replica.broker == id)
            .collect();
        let held: BTreeSet<_> = own.iter().map(|replica| replica.replica.id.get()).collect();
        let on_disk = findings.by_group.values().flatten().filter(|found| held.contains(&found.replica_id));
        // While one is replaced by another on the same broker, it has two of a partition.
        let has_replica = |partition: &&PartitionFigures| {
            partition.replicas.iter().any(|replica| replica.replica.broker == id)
        };
        let leads = |partition: &&PartitionFigures| {
            partition.leader.as_ref().is_some_and(|leader| leader.broker == id)
        };
        BrokerFigures {
            live: self.cluster().alive(id),
            silent: self.cluster().silent_for(id),
            leaders: partitions.iter().filter(leads).count(),
            replicas: partitions.iter().filter(has_replica).count(),
            out_of_sync: own.iter().filter(|replica| !replica.in_sync && !replica.leaving).count(),
            lag_entries: own.iter().filter_map(|replica| replica.lag_entries).sum(),
            damaged: own.iter().filter(|replica| !replica.damage.is_empty()).count(),
            disk: self.cluster().disk(id),
            log_bytes: on_disk.map(|found| found.size_bytes).sum(),
            quiet: reply.map_or(0, |reply| reply.quiet),
            uptime_ms: reply.map_or(0, |reply| reply.uptime_ms),
            http_address: reply.map(|reply| reply.http_address.clone()).unwrap_or_default(),
            broker,
        }
    }

    fn figures_of(
        &self,
        topic: String,
        group: GroupId,
        assigned: &Assignment,
        found: &[SurveyedReplica],
    ) -> PartitionFigures {
        let in_sync = self.cluster().in_sync(group);
        let told = found.iter().filter(|found| found.leads_in > 0).max_by_key(|found| found.leads_in);
        let voters: Option<BTreeSet<_>> =
            told.map(|told| told.voters.iter().copied().map(ReplicaId).collect());
        let has_vote = |replica: &Replica| {
            voters.as_ref().map_or(!assigned.leaving.contains(replica), |voters| voters.contains(&replica.id))
        };
        let electorate =
            assigned.replicas.iter().chain(&assigned.leaving).filter(|replica| has_vote(replica));
        let has_majority = self.has_majority(electorate.map(|replica| replica.broker));
        let leader = self.cluster().leader(group).filter(|_| has_majority);
        let lag = |replica: &Replica| {
            let told = told?;
            if told.replica_id == replica.id.get() {
                return Some(0);
            }
            told.followers.iter().find(|lag| lag.replica_id == replica.id.get()).map(|lag| lag.entries)
        };
        let figures = |replica: &Replica, leaving: bool| {
            let own = found.iter().find(|found| found.replica_id == replica.id.get());
            let alive = self.cluster().alive(replica.broker);
            let joining = !leaving && !has_vote(replica);
            // Until it has joined, what is said of its broker may be of the replica that it replaces.
            let told_in_sync = !joining && in_sync.contains(&replica.broker);
            ReplicaFigures {
                replica: *replica,
                live: alive,
                in_sync: !leaving && alive && (told_in_sync || lag(replica) == Some(0)),
                lag_entries: lag(replica),
                joining,
                leaving,
                damage: own.map_or_else(String::new, |own| own.damage.clone()),
            }
        };
        let assigned_to = assigned.replicas.iter().map(|replica| figures(replica, false));
        let replicas: Vec<_> =
            assigned_to.chain(assigned.leaving.iter().map(|replica| figures(replica, true))).collect();
        PartitionFigures {
            topic,
            group,
            remarks: remarks(leader.as_ref(), has_majority, &replicas),
            leader,
            replicas,
            high_watermark: told.map_or(-1, |told| told.high_watermark),
            log_start: told.map_or(-1, |told| told.log_start_offset),
        }
    }
}

fn remarks(leader: Option<&LeaderInfo>, has_majority: bool, replicas: &[ReplicaFigures]) -> Vec<String> {
    let mut remarks = Vec::new();
    if !has_majority {
        remarks.push("no majority of its replicas is up: nothing can be written".to_owned());
    } else if leader.is_none() {
        remarks.push("no leader".to_owned());
    }
    for replica in replicas {
        let broker = replica.replica.broker;
        if replica.leaving {
            remarks.push(format!("leaves broker {broker}"));
        } else if replica.joining {
            let lag = replica.lag_entries.map_or_else(String::new, |lag| format!(", {lag} entries behind"));
            remarks.push(format!("moves to broker {broker}{lag}"));
        } else if !replica.live {
            remarks.push(format!("broker {broker} is down"));
        } else if !replica.in_sync && leader.is_some() {
            let lag = replica.lag_entries.map_or_else(String::new, |lag| format!(" by {lag} entries"));
            remarks.push(format!("broker {broker} lags{lag}"));
        }
        if !replica.damage.is_empty() {
            remarks.push(format!("broker {broker}: {}", replica.damage));
        }
    }
    remarks
}
