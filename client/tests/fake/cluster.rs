//! The cluster service of the fake broker: it shows itself, and changes nothing.

use headwater_proto::v1;
use headwater_proto::v1::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use super::FakeNode;

type Reply<T> = Result<Response<T>, Status>;

fn unknown<T>() -> Reply<T> {
    Err(Status::unimplemented("the fake broker does not do this"))
}

#[tonic::async_trait]
impl Cluster for FakeNode {
    /// The controller is whoever answers.
    async fn cluster_status(&self, _: Request<v1::ClusterStatusRequest>) -> Reply<v1::ClusterStatusResponse> {
        let slow = self.lock().status_takes;
        tokio::time::sleep(slow).await;
        Ok(Response::new(v1::ClusterStatusResponse { controller_id: self.id, ..Default::default() }))
    }

    async fn list_partitions(
        &self,
        _: Request<v1::ListPartitionsRequest>,
    ) -> Reply<v1::ListPartitionsResponse> {
        unknown()
    }

    async fn reassign(&self, _: Request<v1::ReassignRequest>) -> Reply<v1::PartitionResults> {
        unknown()
    }

    async fn alter_replicas(&self, _: Request<v1::AlterReplicasRequest>) -> Reply<v1::TopicResults> {
        unknown()
    }

    async fn transfer_leader(&self, _: Request<v1::TransferLeaderRequest>) -> Reply<v1::PartitionResults> {
        unknown()
    }

    async fn balance_leaders(
        &self,
        _: Request<v1::BalanceLeadersRequest>,
    ) -> Reply<v1::BalanceLeadersResponse> {
        unknown()
    }

    async fn drain_node(&self, _: Request<v1::DrainNodeRequest>) -> Reply<v1::NodeResult> {
        unknown()
    }

    async fn replace_node(&self, _: Request<v1::ReplaceNodeRequest>) -> Reply<v1::NodeResult> {
        unknown()
    }

    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Reply<v1::NodeResult> {
        unknown()
    }

    async fn recover_partition(
        &self,
        _: Request<v1::RecoverPartitionRequest>,
    ) -> Reply<v1::RecoverPartitionResponse> {
        unknown()
    }
}
