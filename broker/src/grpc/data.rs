//! The `Data` service, but for the calls that return records: those are in [`super::records`].

use std::sync::Arc;

use headwater_proto::v1;
use headwater_proto::v1::data_server::Data;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{check_partitions, error_of};
use super::produce::{self, Answers};
use crate::error::RequestError;
use crate::limits::MessageMemory;
use crate::node::Node;
use crate::partition::Found;

pub struct DataApi {
    node: Arc<Node>,
}

impl DataApi {
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn list_offset(&self, wanted: v1::ListOffsetsPartition) -> v1::ListOffsetsResult {
        let partition = self.node.partition(&wanted.topic, wanted.partition);
        let leader_epoch = partition.as_ref().map_or(-1, |partition| partition.leader_epoch());
        let found =
            partition.and_then(|partition| partition.list_offset(wanted.timestamp, &self.node.read_limits()));
        let Found { offset, timestamp } = *found.as_ref().unwrap_or(&Found { offset: -1, timestamp: -1 });
        v1::ListOffsetsResult {
            topic: wanted.topic,
            partition: wanted.partition,
            error: error_of(&found),
            offset,
            timestamp,
            leader_epoch,
        }
    }
}

/// Served by [`super::records::MappedRecords`], which is in front of this service.
fn served_from_the_map() -> Status {
    Status::internal("records are served from the map")
}

#[tonic::async_trait]
impl Data for DataApi {
    type ProduceStream = Answers;
    type ConsumeStream = tokio_stream::Empty<Result<v1::ConsumeResponse, Status>>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let memory = request.extensions().get::<Arc<MessageMemory>>().cloned();
        Ok(Response::new(produce::answers(Arc::clone(&self.node), request.into_inner(), memory)))
    }

    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(served_from_the_map())
    }

    async fn consume(&self, _: Request<v1::ConsumeRequest>) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(served_from_the_map())
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let wanted = request.into_inner().partitions;
        check_partitions(&self.node, wanted.len())?;
        let partitions = wanted.into_iter().map(|one| self.list_offset(one)).collect();
        Ok(Response::new(v1::ListOffsetsResponse { partitions }))
    }

    async fn init_producer_id(
        &self,
        _: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        let producer: Result<_, RequestError> = self.node.controller().new_producer().await;
        let error = error_of(&producer);
        let (id, epoch) = producer.map_or((-1, -1), |(id, epoch)| (id.get(), epoch.get()));
        Ok(Response::new(v1::InitProducerIdResponse { error, producer_id: id, producer_epoch: epoch.into() }))
    }
}
