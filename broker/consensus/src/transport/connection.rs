//! HTTP/2 connections to other brokers, as this one opens them.
//!
//! Invariant: everything that belongs to a connection, its socket included, is gone once its [`Connection`] is
//! dropped.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use super::frames::{Deframer, FrameError, in_words};
use super::link::CallTicket;
use super::node::{Dialer, PeerStream};
use super::outbox::MessageBody;
use super::settings::LaneSettings;

/// Large frames cost less per byte; the default of 16 KiB halves the throughput.
pub(super) const FRAME_BYTES: u32 = 1 << 20;
/// A greeting, or the message of a unary call.
pub(super) const GREETING_BYTES_MAX: usize = 64 << 10;
pub(super) const CONTENT_TYPE_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Runs tasks that end with their connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionExecutor {
    pub(super) tasks: TaskTracker,
    pub(super) end: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for ConnectionExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let end = self.end.clone();
        self.tasks.spawn(async move { end.run_until_cancelled(task).await });
    }
}

type Body = MessageBody<CallTicket>;
type Driver = http2::Connection<TokioIo<Box<dyn PeerStream>>, Body, ConnectionExecutor>;

/// One connection, with one request on it.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    driver: Driver,
    _end: DropGuard,
}

impl Connection {
    /// Dials.
    pub(super) async fn open(
        dialer: &Arc<dyn Dialer>,
        address: &str,
        lane: &LaneSettings,
        tasks: &TaskTracker,
        within: Duration,
    ) -> Result<Self, String> {
        let end = CancellationToken::new();
        let executor = ConnectionExecutor { tasks: tasks.clone(), end: end.clone() };
        let end = end.drop_guard();
        let open = async {
            let stream = dialer.connect(address).await.map_err(|error| error.to_string())?;
            let handshake = http2::Builder::new(executor)
                .timer(TokioTimer::new())
                .initial_stream_window_size(lane.window_bytes)
                .initial_connection_window_size(lane.window_bytes)
                .max_frame_size(FRAME_BYTES)
                .keep_alive_interval(lane.keepalive_interval)
                .keep_alive_timeout(lane.keepalive_timeout)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(stream));
            handshake.await.map_err(|error| in_words(&error))
        };
        match tokio::time::timeout(within, open).await {
            Ok(Ok((sender, driver))) => Ok(Self { sender, driver, _end: end }),
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: no connection within {within:?}")),
        }
    }

    /// Sends the request, and hands the answer to `exchange`, which ends with the connection.
    pub(super) async fn run<F, T>(
        self,
        address: &str,
        path: &'static str,
        body: Body,
        exchange: impl FnOnce(Deframer<Incoming>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let Self { mut sender, driver, _end } = self;
        let request = request(address, path, body)?;
        let converse = async {
            let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
            exchange(Deframer::new(accepted(response)?)).await
        };
        let mut driver = std::pin::pin!(driver);
        tokio::select! {
            biased;
            result = converse => match result {
                // The stream does not know why its connection is gone.
                Err(status) if status.code() == Code::Unavailable => match driver.now_or_never() {
                    Some(Err(error)) if error.is_timeout() => Err(lost(&error)),
                    _ => Err(status),
                },
                result => result,
            },
            ended = driver.as_mut() => Err(match ended {
                Ok(()) => Status::unavailable("the connection was closed"),
                Err(error) => lost(&error),
            }),
        }
    }
}

fn request(address: &str, path: &'static str, body: Body) -> Result<Request<Body>, Status> {
    Request::post(format!("http://{address}{path}"))
        .header(CONTENT_TYPE, CONTENT_TYPE_GRPC)
        .header(TE, HeaderValue::from_static("trailers"))
        .body(body)
        .map_err(|error| Status::invalid_argument(format!("{address}: {error}")))
}

/// The body of an answer that is not a refusal.
fn accepted(response: Response<Incoming>) -> Result<Incoming, Status> {
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
    {
        return Err(status);
    }
    if !response.status().is_success() {
        return Err(Status::unknown(format!("HTTP status {}", response.status())));
    }
    Ok(response.into_body())
}

/// The connection failed; `DeadlineExceeded`: the other side fell silent.
fn lost(error: &hyper::Error) -> Status {
    if error.is_timeout() {
        return Status::deadline_exceeded("the connection fell silent");
    }
    Status::unavailable(in_words(error))
}

/// The status with which the other side ended the stream, if it named one.
pub(super) fn ended(stream: &Deframer<Incoming>) -> Status {
    let status = stream.trailers().and_then(Status::from_header_map);
    match status {
        Some(status) if status.code() != Code::Ok => status,
        _ => Status::unavailable("the other side ended the stream"),
    }
}

impl From<FrameError> for Status {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Broken(_) | FrameError::Truncated => Self::unavailable(error.to_string()),
            FrameError::Compressed | FrameError::TooLong { .. } | FrameError::Malformed(_) => {
                Self::invalid_argument(error.to_string())
            }
        }
    }
}

/// The one message of the answer to a unary call.
pub(super) async fn single<M: prost::Message + Default>(mut stream: Deframer<Incoming>) -> Result<M, Status> {
    match stream.next_len(GREETING_BYTES_MAX).await? {
        Some(len) => {
            let message: Bytes = stream.message(len).await?;
            M::decode(message).map_err(|error| FrameError::from(error).into())
        }
        None => Err(ended(&stream)),
    }
}
