//! The `Cluster` service.

use std::sync::Arc;

use headwater_proto::v1;
use headwater_proto::v1::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use crate::node::Node;

pub struct ClusterApi {
    #[expect(dead_code, reason = "every call needs it once it is served")]
    node: Arc<Node>,
}

impl ClusterApi {
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

fn not_served(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not served by this version of the broker"))
}

#[tonic::async_trait]
impl Cluster for ClusterApi {
    async fn cluster_status(
        &self,
        _: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        Err(not_served("ClusterStatus"))
    }

    async fn list_partitions(
        &self,
        _: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        Err(not_served("ListPartitions"))
    }

    async fn reassign(
        &self,
        _: Request<v1::ReassignRequest>,
    ) -> Result<Response<v1::PartitionResults>, Status> {
        Err(not_served("Reassign"))
    }

    async fn alter_replicas(
        &self,
        _: Request<v1::AlterReplicasRequest>,
    ) -> Result<Response<v1::TopicResults>, Status> {
        Err(not_served("AlterReplicas"))
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::PartitionResults>, Status> {
        Err(not_served("TransferLeader"))
    }

    async fn balance_leaders(
        &self,
        _: Request<v1::BalanceLeadersRequest>,
    ) -> Result<Response<v1::BalanceLeadersResponse>, Status> {
        Err(not_served("BalanceLeaders"))
    }

    async fn drain_node(&self, _: Request<v1::DrainNodeRequest>) -> Result<Response<v1::NodeResult>, Status> {
        Err(not_served("DrainNode"))
    }

    async fn replace_node(
        &self,
        _: Request<v1::ReplaceNodeRequest>,
    ) -> Result<Response<v1::NodeResult>, Status> {
        Err(not_served("ReplaceNode"))
    }

    async fn remove_node(
        &self,
        _: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::NodeResult>, Status> {
        Err(not_served("RemoveNode"))
    }

    async fn recover_partition(
        &self,
        _: Request<v1::RecoverPartitionRequest>,
    ) -> Result<Response<v1::RecoverPartitionResponse>, Status> {
        Err(not_served("RecoverPartition"))
    }
}
