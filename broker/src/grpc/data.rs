//! The `Data` service, but for the calls that return records: those are in [`super::records`].

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use headwater_proto::v1;
use headwater_proto::v1::data_server::Data;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{check_partitions, error_at, error_of};
use super::produce::{self, Answers};
use crate::error::RequestError;
use crate::limits::MessageMemory;
use crate::node::Node;
use crate::partition::{Found, Partition, Readers};

/// Partitions whose followers are asked at the same time whether the leader leads.
const AT_A_TIME: usize = 64;

pub struct DataApi {
    node: Arc<Node>,
}

impl DataApi {
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn list_offset(&self, wanted: v1::ListOffsetsPartition) -> v1::ListOffsetsResult {
        let (leader_epoch, found) = match self.node.replica(&wanted.topic, wanted.partition, false) {
            Ok((partition, readers)) => {
                let found = self.current_offset(&partition, readers, wanted.timestamp).await;
                (partition.leader_epoch(), found)
            }
            Err(error) => (-1, Err(error)),
        };
        let Found { offset, timestamp } = *found.as_ref().unwrap_or(&Found { offset: -1, timestamp: -1 });
        v1::ListOffsetsResult {
            error: error_at(&self.node, &wanted.topic, wanted.partition, &found),
            topic: wanted.topic,
            partition: wanted.partition,
            offset,
            timestamp,
            leader_epoch,
        }
    }

    async fn current_offset(
        &self,
        partition: &Partition,
        readers: Readers,
        timestamp: i64,
    ) -> Result<Found, RequestError> {
        partition.catch_up(readers).await?;
        partition.list_offset(timestamp, &self.node.read_limits())
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
        let listed = stream::iter(wanted.into_iter().map(|one| self.list_offset(one)));
        let partitions = listed.buffered(AT_A_TIME).collect().await;
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
