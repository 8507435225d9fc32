//! The calls that return records, with response bodies made of mapped slices.
//!
//! Mounted in front of tonic's service for `Data`, whose codec would copy every record once; all other
//! calls pass through. Same wire format, same trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use headwater_proto::v1;
use headwater_proto::v1::data_server::DataServer;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::convert::{bound, check_partitions, explain, positions};
use super::data::DataApi;
use super::frames;
use crate::fetch::{FetchBounds, Fetched, Tail, fetch};
use crate::node::Node;

const CONSUME: &str = "/headwater.v1.Data/Consume";
const FETCH: &str = "/headwater.v1.Data/Fetch";

/// Large enough for the transport to be busy, small enough for several to be under way.
const CONSUME_BYTES_DEFAULT: usize = 1 << 20;

/// `Data` with its reading calls served from the map.
#[derive(Clone)]
pub struct MappedRecords {
    node: Arc<Node>,
    others: DataServer<DataApi>,
}

impl MappedRecords {
    pub const fn new(node: Arc<Node>, others: DataServer<DataApi>) -> Self {
        Self { node, others }
    }
}

impl NamedService for MappedRecords {
    const NAME: &'static str = <DataServer<DataApi> as NamedService>::NAME;
}

impl Service<Request<Body>> for MappedRecords {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let node = Arc::clone(&self.node);
        match request.uri().path() {
            CONSUME => Box::pin(async move { Ok(respond(consume(node, request).await)) }),
            FETCH => Box::pin(async move { Ok(respond(fetch_once(node, request).await)) }),
            _ => Box::pin(self.others.call(request)),
        }
    }
}

async fn consume(node: Arc<Node>, request: Request<Body>) -> Result<Body, Status> {
    let request: v1::ConsumeRequest = read(&node, request).await?;
    check_partitions(&node, request.partitions.len())?;
    let max_bytes =
        bound(request.max_message_bytes, CONSUME_BYTES_DEFAULT, node.config().requests.fetch_bytes_max);
    let tail = Tail::new(Arc::clone(&node), positions(request.partitions, request.allow_follower), max_bytes);
    let messages = stream::unfold((tail, node), |(mut tail, node)| async move {
        let fetched = tail.next().await?;
        let frames = count(&node, vec![fetched]);
        Some((stream::iter(frames), (tail, node)))
    });
    Ok(body(messages.flatten(), end_of_tail()))
}

async fn fetch_once(node: Arc<Node>, request: Request<Body>) -> Result<Body, Status> {
    let request: v1::FetchRequest = read(&node, request).await?;
    check_partitions(&node, request.partitions.len())?;
    let requests = &node.config().requests;
    let bounds = FetchBounds {
        max_bytes: bound(request.max_bytes, requests.fetch_bytes_max, requests.fetch_bytes_max),
        min_bytes: request.min_bytes as usize,
        max_wait: Duration::from_millis(u64::from(request.max_wait_ms).min(requests.fetch_wait_ms_max)),
    };
    let fetched = fetch(&node, positions(request.partitions, request.allow_follower), bounds).await;
    Ok(body(stream::iter(count(&node, fetched)), Status::ok("")))
}

/// A message's frames; what leaves is counted.
fn count(node: &Node, fetched: Vec<Fetched>) -> Vec<Bytes> {
    for one in &fetched {
        match &one.outcome {
            Ok(slice) => node.metrics().fetched_bytes.increment(slice.records.len() as u64),
            Err(error) => node.metrics().refused("fetch", error.code()),
        }
    }
    frames::message(fetched, |topic, partition, error| explain(node, topic, partition, error))
}

/// A tail ends when the broker stops, or when all its partitions have failed.
fn end_of_tail() -> Status {
    Status::unavailable("no partition is read any further: look up their leaders and consume again")
}

/// The one message of a request. Its memory is charged, and bounded, by the listener.
async fn read<M: Message + Default>(node: &Node, request: Request<Body>) -> Result<M, Status> {
    let limit = node.config().requests.message_bytes_max;
    let body = Limited::new(request.into_body(), limit).collect().await;
    let body = body.map_err(|error| match error.downcast::<Status>() {
        Ok(status) => *status,
        Err(error) => Status::invalid_argument(error.to_string()),
    })?;
    frames::decode_request(body.to_bytes()).map_err(Status::invalid_argument)
}

fn body(frames: impl Stream<Item = Bytes> + Send + 'static, end: Status) -> Body {
    let mut trailers = HeaderMap::new();
    // A status that does not fit a header is our own mistake, and INTERNAL says so.
    if end.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    let frames = frames.map(Frame::data).chain(stream::once(async { Frame::trailers(trailers) }));
    Body::new(StreamBody::new(frames.map(Ok::<_, Status>)))
}

fn respond(outcome: Result<Body, Status>) -> Response<Body> {
    match outcome {
        Ok(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
            response
        }
        Err(status) => status.into_http(),
    }
}
