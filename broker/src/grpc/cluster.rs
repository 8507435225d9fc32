//! The `Cluster` service.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::metadata::BrokerState;
use headwater_proto::types::BrokerId;
use headwater_proto::v1;
use headwater_proto::v1::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::convert::{check_partitions, check_topics, error_at, error_of, explain, timeout_ms};
use super::metadata;
use crate::error::RequestError;
use crate::node::Node;
use crate::operations::{BrokerFigures, PartitionFigures, ReplicaFigures, Survivor, Wanted};

pub struct ClusterApi {
    node: Arc<Node>,
}

impl ClusterApi {
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn within(&self, asked_ms: u32) -> Duration {
        Duration::from_millis(timeout_ms(&self.node, asked_ms))
    }

    fn result(
        &self,
        topic: String,
        partition: i32,
        outcome: &Result<(), RequestError>,
    ) -> v1::PartitionResult {
        let error = error_at(&self.node, &topic, partition, outcome);
        v1::PartitionResult { topic, partition, error }
    }

    fn partition_status(&self, figures: PartitionFigures) -> v1::PartitionStatus {
        let partition = figures.group.partition.get();
        let leader = figures.leader;
        let error = match &leader {
            Some(_) => None,
            None => Some(explain(&self.node, &figures.topic, partition, &RequestError::NoLeader)),
        };
        v1::PartitionStatus {
            topic: figures.topic,
            partition,
            error,
            leader_id: leader.as_ref().map_or(-1, |leader| leader.broker.get()),
            leader_epoch: leader.map_or(-1, |leader| epoch(leader.term.get())),
            replicas: figures.replicas.into_iter().map(replica_status).collect(),
            high_watermark: figures.high_watermark,
            log_start_offset: figures.log_start,
            remarks: figures.remarks,
        }
    }
}

fn epoch(term: u64) -> i32 {
    i32::try_from(term).unwrap_or(i32::MAX)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn replica_status(figures: ReplicaFigures) -> v1::ReplicaStatus {
    v1::ReplicaStatus {
        broker_id: figures.replica.broker.get(),
        replica_id: figures.replica.id.get(),
        live: figures.live,
        in_sync: figures.in_sync,
        lag_entries: figures.lag_entries,
        joining: figures.joining,
        leaving: figures.leaving,
        damage: figures.damage,
    }
}

fn broker_status(figures: BrokerFigures) -> v1::BrokerStatus {
    let state = match figures.broker.state {
        BrokerState::Active => v1::BrokerState::Active,
        BrokerState::Draining => v1::BrokerState::Draining,
        BrokerState::Leaving => v1::BrokerState::Leaving,
    };
    let silent = figures.silent.map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
    v1::BrokerStatus {
        broker: Some(metadata::broker(&figures.broker)),
        state: state.into(),
        live: figures.live,
        silent_ms: silent,
        peer_address: figures.broker.peer_address,
        leaders: count(figures.leaders),
        replicas: count(figures.replicas),
        out_of_sync: count(figures.out_of_sync),
        lag_entries: figures.lag_entries,
        disk_total_bytes: figures.disk.total_bytes,
        disk_free_bytes: figures.disk.free_bytes,
        log_bytes: figures.log_bytes,
        damaged: count(figures.damaged),
        quiet: figures.quiet,
        uptime_ms: figures.uptime_ms,
        http_address: figures.http_address,
    }
}

fn survivor(survivor: Survivor) -> v1::Survivor {
    let Survivor { broker, found } = survivor;
    v1::Survivor {
        broker_id: broker.get(),
        replica_id: found.replica_id,
        last_log_term: found.last_term,
        last_log_index: found.last_index,
        high_watermark: found.high_watermark,
        log_end_offset: found.log_end_offset,
        damage: found.damage,
    }
}

fn node_result(outcome: Result<(usize, String), RequestError>) -> v1::NodeResult {
    let error = error_of(&outcome);
    let (partitions, message) = outcome.unwrap_or_default();
    v1::NodeResult { error, partitions: count(partitions), message }
}

#[tonic::async_trait]
impl Cluster for ClusterApi {
    async fn cluster_status(
        &self,
        _: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        let figures = self.node.cluster_figures().await;
        let controller = figures.controller;
        Ok(Response::new(v1::ClusterStatusResponse {
            cluster_id: self.node.controller().cluster_id().to_string(),
            controller_id: controller.as_ref().map_or(-1, |leader| leader.broker.get()),
            controller_epoch: controller.map_or(-1, |leader| epoch(leader.term.get())),
            controller_voters: figures.controller_voters.into_iter().map(BrokerId::get).collect(),
            brokers: figures.brokers.into_iter().map(broker_status).collect(),
            topics: count(figures.topics),
            partitions: count(figures.partitions),
            under_replicated: count(figures.under_replicated),
            leaderless: count(figures.leaderless),
            moving: count(figures.moving),
        }))
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        let request = request.into_inner();
        check_topics(&self.node, request.topics.len())?;
        for topic in &request.topics {
            self.node.controller().find_topic(topic).await.map_err(|error| error.to_status())?;
        }
        let figures = self.node.partition_figures(&request.topics.into_iter().collect()).await;
        let wanted = figures.into_iter().filter(|one| !request.unhealthy_only || !one.remarks.is_empty());
        let partitions = wanted.map(|one| self.partition_status(one)).collect();
        Ok(Response::new(v1::ListPartitionsResponse { partitions }))
    }

    async fn reassign(
        &self,
        request: Request<v1::ReassignRequest>,
    ) -> Result<Response<v1::PartitionResults>, Status> {
        let request = request.into_inner();
        check_partitions(&self.node, request.partitions.len())?;
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for v1::Reassignment { topic, partition, brokers } in request.partitions {
            let wanted = Wanted { topic: topic.clone(), partition, brokers };
            let outcome = self.node.reassign(wanted, request.validate_only).await;
            partitions.push(self.result(topic, partition, &outcome));
        }
        Ok(Response::new(v1::PartitionResults { partitions }))
    }

    async fn alter_replicas(
        &self,
        request: Request<v1::AlterReplicasRequest>,
    ) -> Result<Response<v1::TopicResults>, Status> {
        let request = request.into_inner();
        check_topics(&self.node, request.topics.len())?;
        let mut topics = Vec::with_capacity(request.topics.len());
        for v1::AlterTopicReplicas { topic: name, replicas } in request.topics {
            let outcome = self.node.alter_replicas(&name, replicas, request.validate_only).await;
            let topic = self.node.controller().topic(&name).ok();
            topics.push(v1::TopicResult {
                error: error_of(&outcome),
                topic_id: topic.as_ref().map_or_else(Default::default, |topic| topic.id.0.to_vec().into()),
                partitions: topic
                    .map_or(0, |topic| i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)),
                replicas,
                name,
            });
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::PartitionResults>, Status> {
        let request = request.into_inner();
        check_partitions(&self.node, request.partitions.len())?;
        let within = self.within(request.timeout_ms);
        let mut partitions = Vec::with_capacity(request.partitions.len());
        for v1::LeaderTransfer { topic, partition, to } in request.partitions {
            let outcome = self.node.transfer_leader(&topic, partition, to, within).await;
            partitions.push(self.result(topic, partition, &outcome));
        }
        Ok(Response::new(v1::PartitionResults { partitions }))
    }

    async fn balance_leaders(
        &self,
        request: Request<v1::BalanceLeadersRequest>,
    ) -> Result<Response<v1::BalanceLeadersResponse>, Status> {
        let only_tell = request.into_inner().validate_only;
        let balanced = self.node.balance_leaders(only_tell, self.within(0)).await;
        let partitions = balanced.into_iter().map(|one| v1::BalancedLeader {
            error: error_at(&self.node, &one.topic, one.partition, &one.outcome),
            topic: one.topic,
            partition: one.partition,
            from: one.from.get(),
            to: one.to.get(),
        });
        Ok(Response::new(v1::BalanceLeadersResponse { partitions: partitions.collect() }))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::NodeResult>, Status> {
        let v1::DrainNodeRequest { broker_id, undo } = request.into_inner();
        let outcome = self.node.drain_broker(broker_id, undo).await.map(|drained| {
            let message = match (undo, drained.leads) {
                (true, _) => format!("broker {broker_id} takes part again"),
                (false, 0) => format!("broker {broker_id} leads nothing: it can be stopped"),
                (false, _) => {
                    format!("broker {broker_id} hands over what it leads; wait until it leads nothing")
                }
            };
            (drained.leads, message)
        });
        Ok(Response::new(node_result(outcome)))
    }

    async fn replace_node(
        &self,
        request: Request<v1::ReplaceNodeRequest>,
    ) -> Result<Response<v1::NodeResult>, Status> {
        let v1::ReplaceNodeRequest { broker_id, with_broker_id, validate_only } = request.into_inner();
        let outcome = self.node.replace_broker(broker_id, with_broker_id, validate_only).await.map(|moved| {
            let message = format!(
                "the replicas of broker {broker_id} move to broker {with_broker_id}, and it is then removed"
            );
            (moved.partitions, message)
        });
        Ok(Response::new(node_result(outcome)))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::NodeResult>, Status> {
        let v1::RemoveNodeRequest { broker_id, validate_only } = request.into_inner();
        let outcome = self.node.remove_broker(broker_id, validate_only).await.map(|moved| {
            let message = format!(
                "the replicas of broker {broker_id} move to the others; it is forgotten once it holds none"
            );
            (moved.partitions, message)
        });
        Ok(Response::new(node_result(outcome)))
    }

    async fn recover_partition(
        &self,
        request: Request<v1::RecoverPartitionRequest>,
    ) -> Result<Response<v1::RecoverPartitionResponse>, Status> {
        let v1::RecoverPartitionRequest { topic, partition, accept_loss, survivor: named } =
            request.into_inner();
        let outcome = self.node.recover_partition(&topic, partition, named, accept_loss).await;
        let error = error_at(&self.node, &topic, partition, &outcome);
        let response = match outcome {
            Ok(outlook) => v1::RecoverPartitionResponse {
                error,
                survivors: outlook.survivors.into_iter().map(survivor).collect(),
                chosen: outlook.chosen.map_or(-1, BrokerId::get),
                given_up: outlook.given_up.into_iter().map(BrokerId::get).collect(),
                loss: outlook.loss,
                highest_term: outlook.above.get(),
            },
            Err(_) => v1::RecoverPartitionResponse { error, chosen: -1, ..Default::default() },
        };
        Ok(Response::new(response))
    }
}
