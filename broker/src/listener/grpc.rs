//! gRPC connections: tonic's services over hyper's HTTP/2, with our own limits around them.
//!
//! Not tonic's server: that one shows neither connections nor requests, and stamps the wall clock on
//! every answer. The windows, measured over loopback, decide the throughput of large messages.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::Service;

use super::connection::RequestGuard;
use super::metered::MeteredBody;
use super::preface::{Rewound, expect_preface};
use super::{Activity, ConnectionError, Ended, Graceful, Protocol, Stop, drive};
use crate::config::Config;
use crate::env::BoxedStream;
use crate::limits::{ConnectionMemory, MemoryBudget, MessageMemory, WindowBudget};

/// Serves gRPC on every connection.
pub struct GrpcProtocol {
    routes: Routes,
    config: Arc<Config>,
    memory: MemoryBudget,
    windows: WindowBudget,
    /// Counts the tasks of requests, so that a drain can wait for them.
    tasks: TaskTracker,
}

impl GrpcProtocol {
    pub fn new(routes: Routes, config: Arc<Config>, memory: MemoryBudget, tasks: TaskTracker) -> Self {
        let windows = WindowBudget::new(config.grpc.receive_window_bytes_total);
        Self { routes: routes.prepare(), config, memory, windows, tasks }
    }

    fn builder(&self, connection_window_bytes: u32) -> http2::Builder<TrackedExecutor> {
        let (grpc, connections) = (&self.config.grpc, &self.config.connections);
        let mut builder = http2::Builder::new(TrackedExecutor(self.tasks.clone()));
        builder
            .initial_stream_window_size(grpc.stream_window_bytes.min(connection_window_bytes))
            .initial_connection_window_size(connection_window_bytes)
            .max_frame_size(grpc.frame_bytes_max)
            .max_concurrent_streams(grpc.concurrent_streams_max)
            .max_header_list_size(grpc.header_bytes_max)
            .keep_alive_interval(Duration::from_millis(connections.keepalive_interval_ms))
            .keep_alive_timeout(Duration::from_millis(connections.keepalive_timeout_ms))
            // Deterministic answers: no wall clock in them.
            .auto_date_header(false)
            .timer(TokioTimer::new());
        builder
    }
}

#[async_trait]
impl Protocol for GrpcProtocol {
    async fn serve(
        &self,
        stream: BoxedStream,
        _peer: SocketAddr,
        stop: &Stop,
    ) -> Result<(), ConnectionError> {
        let connections = &self.config.connections;
        let within = Duration::from_millis(connections.handshake_timeout_ms);
        let first = tokio::select! {
            first = expect_preface(stream, within) => first?,
            () = stop.drain.cancelled() => return Ok(()),
        };
        let Some(stream) = first else {
            return Ok(());
        };
        let window = self.windows.lease(self.config.grpc.connection_window_bytes);
        let activity = Activity::new();
        let service = ConnectionService {
            routes: self.routes.clone(),
            memory: self.memory.connection(),
            activity: activity.clone(),
            message_bytes_max: self.config.requests.message_bytes_max,
            message_timeout: Duration::from_millis(self.config.requests.message_timeout_ms),
        };
        let connection = self.builder(window.bytes).serve_connection(TokioIo::new(stream), service);
        let idle_timeout = Duration::from_millis(connections.idle_timeout_ms);
        match drive(connection, &activity, idle_timeout, stop).await {
            Ok(Ended::Closed | Ended::Cut) => Ok(()),
            // A peer that vanishes is everyday; one that breaks the protocol is worth a line.
            Err(error) if is_violation(&error) => Err(ConnectionError::new("http2", in_words(&error))),
            Err(_) => Ok(()),
        }
    }
}

/// Whether the peer broke the protocol, rather than closing or losing its connection.
fn is_violation(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<std::io::Error>().is_some() {
            return false;
        }
        source = inner.source();
    }
    !(error.is_closed() || error.is_incomplete_message() || error.is_canceled() || error.is_timeout())
}

/// An error and what caused it: hyper's own text says no more than "http2 error".
fn in_words(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

impl Graceful for http2::Connection<TokioIo<Rewound>, ConnectionService, TrackedExecutor> {
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http2::Connection::graceful_shutdown(self);
    }
}

/// Runs the tasks of requests where the drain can see them.
#[derive(Debug, Clone)]
pub struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The services as one connection sees them.
pub struct ConnectionService {
    routes: Routes,
    memory: ConnectionMemory,
    activity: Activity,
    message_bytes_max: usize,
    message_timeout: Duration,
}

type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<TrackedBody>, std::convert::Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<TrackedBody>;
    type Error = std::convert::Infallible;
    type Future = ResponseFuture;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let guard = self.activity.request();
        let messages = Arc::new(MessageMemory::default());
        request.extensions_mut().insert(messages.clone());
        let request = request.map(|body| {
            let memory = self.memory.clone();
            MeteredBody::new(body, memory, messages.clone(), self.message_bytes_max, self.message_timeout)
        });
        let mut routes = self.routes.clone();
        Box::pin(async move {
            // The routes are always ready: they clone the service that they dispatch to.
            let response = routes.call(request).await?;
            // A call with one message is charged until here; a stream's handler takes its permits.
            drop(messages);
            Ok(response.map(|inner| TrackedBody { inner, _guard: guard }))
        })
    }
}

/// A response body that keeps its connection from being idle.
pub struct TrackedBody {
    inner: tonic::body::Body,
    _guard: RequestGuard,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
