//! A gRPC server stream that sends the same megabyte again and again: the bound on what consuming can reach.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use headwater_proto::v1::data_client::DataClient;
use headwater_proto::v1::data_server::{Data, DataServer};
use headwater_proto::v1::{
    ConsumeRequest, ConsumeResponse, FetchRequest, FetchResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, PartitionRecords, ProduceRequest,
    ProduceResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::disk::Bandwidth;

const MESSAGE_BYTES: usize = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const FRAME_BYTES: u32 = 1 << 20;

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Megabytes(Bytes);

#[tonic::async_trait]
impl Data for Megabytes {
    type ProduceStream = Boxed<ProduceResponse>;
    type ConsumeStream = Boxed<ConsumeResponse>;

    async fn consume(&self, _: Request<ConsumeRequest>) -> Result<Response<Self::ConsumeStream>, Status> {
        let records = PartitionRecords { records: self.0.clone(), ..PartitionRecords::default() };
        let message = ConsumeResponse { records: Some(records) };
        Ok(Response::new(Box::pin(stream::repeat_with(move || Ok(message.clone())))))
    }

    async fn produce(
        &self,
        _: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        Err(Status::unimplemented("only Consume"))
    }

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<FetchResponse>, Status> {
        Err(Status::unimplemented("only Consume"))
    }

    async fn list_offsets(
        &self,
        _: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        Err(Status::unimplemented("only Consume"))
    }

    async fn init_producer_id(
        &self,
        _: Request<InitProducerIdRequest>,
    ) -> Result<Response<InitProducerIdResponse>, Status> {
        Err(Status::unimplemented("only Consume"))
    }
}

/// Serves the stream on a free port of the loopback until the task is dropped.
pub async fn serve() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = DataServer::new(Megabytes(Bytes::from(vec![0x5a; MESSAGE_BYTES])));
    tokio::spawn(
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .tcp_nodelay(true)
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    Ok(address)
}

/// Reads over `connections` connections, one stream each, for `duration`.
pub async fn drain(
    address: SocketAddr,
    connections: usize,
    duration: Duration,
) -> Result<Bandwidth, Box<dyn std::error::Error + Send + Sync>> {
    let started = Instant::now();
    let readers: Vec<_> = (0..connections).map(|_| tokio::spawn(read(address, started, duration))).collect();
    let mut bytes = 0;
    for reader in readers {
        bytes += reader.await??;
    }
    Ok(Bandwidth { bytes, elapsed: started.elapsed() })
}

async fn read(
    address: SocketAddr,
    started: Instant,
    duration: Duration,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut client = DataClient::new(channel).max_decoding_message_size(2 * MESSAGE_BYTES);
    let mut messages = client.consume(ConsumeRequest::default()).await?.into_inner();
    let mut bytes = 0;
    while started.elapsed() < duration {
        let Some(message) = messages.next().await else { break };
        bytes += message?.records.map_or(0, |r| r.records.len() as u64);
    }
    Ok(bytes)
}
