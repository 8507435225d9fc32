//! What other brokers ask, from the first byte of their connection to the last.
//!
//! Invariants: nothing is read of a lane before its greeting was accepted; memory for a message is charged before
//! any of it is read, and given back once all its requests are answered and the answers written, so that whoever
//! does not read answers is not read from; a caller that breaks the protocol loses its connection, and nobody else
//! notices.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_proto::types::BrokerId;
use headwater_proto::v1;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::info;

use super::Inner;
use super::connection::{CONTENT_TYPE_GRPC, ConnectionExecutor, FRAME_BYTES, GREETING_BYTES_MAX};
use super::convert::{group_request, lane_name, lane_number, refused};
use super::dispatch::{Dispatcher, Key};
use super::frames::{self, Deframer, Field, Item, Items, in_words};
use super::identity::{Greeting, PeerIdentity};
use super::link::LANE_PATH;
use super::metrics::LaneMetrics;
use super::node::PeerStream;
use super::outbox::{MESSAGE_BYTES, MessageBody, Outbox, Ticket, trailers};
use crate::peer::{Body, Refusal, RequestKind};

pub(super) const PROBE_PATH: &str = "/headwater.v1.Peer/Probe";
pub(super) const JOIN_PATH: &str = "/headwater.v1.Peer/Join";
/// A connection must be used for something by then, and a greeting be complete.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// A caller that vanished is noticed after twice that.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The one of a lane, and probes beside it.
const STREAMS_MAX: u32 = 8;
const HEADER_BYTES_MAX: u32 = 8 << 10;
/// Requests under way on one lane, however small.
const REQUESTS_MAX: usize = 32_768;
/// A replica or broker that has not answered by then is given up, or what is stuck would in the end hold all memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Whether a caller is still admitted is asked that often, while it calls.
const ADMISSION_INTERVAL: Duration = Duration::from_secs(1);

type Answer = Response<MessageBody<ReplyTicket>>;

/// Serves one connection to its end.
///
/// # Errors
/// What the other side did wrong.
pub(super) async fn serve<S: PeerStream>(
    inner: &Arc<Inner>,
    stream: S,
    drain: &CancellationToken,
) -> Result<(), String> {
    let end = inner.stop.child_token();
    let _ended = end.clone().drop_guard();
    let executor = ConnectionExecutor { tasks: inner.tasks.clone(), end: end.clone() };
    let requests = Arc::new(AtomicUsize::new(0));
    let (counted, context) = (Arc::clone(&requests), Arc::clone(inner));
    let drained = drain.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let (inner, end, drain) = (Arc::clone(&context), end.clone(), drained.clone());
        async move { Ok::<_, Infallible>(answer(inner, request, end, drain).await) }
    });
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(inner.settings.append.window_bytes)
        .initial_connection_window_size(inner.settings.append.window_bytes)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        // Deterministic answers: no wall clock in them.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let unused = async {
        tokio::time::sleep(GREETING_TIMEOUT).await;
        if requests.load(Ordering::Relaxed) > 0 {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        biased;
        () = inner.stop.cancelled() => return Ok(()),
        ended = connection.as_mut() => ended,
        () = unused => return Err("nothing was asked on the connection".to_owned()),
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                () = inner.stop.cancelled() => return Ok(()),
                ended = connection => ended,
            }
        }
    };
    match ended {
        Ok(()) => Ok(()),
        Err(error) if is_violation(&error) => Err(in_words(&error)),
        Err(_) => Ok(()),
    }
}

/// Whether the other side broke the protocol, rather than closing or losing its connection.
fn is_violation(error: &hyper::Error) -> bool {
    let io = std::iter::successors(std::error::Error::source(error), |cause| cause.source())
        .any(|cause| cause.is::<std::io::Error>());
    !(io || error.is_closed() || error.is_incomplete_message() || error.is_canceled() || error.is_timeout())
}

async fn answer(
    inner: Arc<Inner>,
    request: Request<Incoming>,
    end: CancellationToken,
    drain: CancellationToken,
) -> Answer {
    let (head, body) = request.into_parts();
    let stream = Deframer::new(body);
    let answered = match head.uri.path() {
        LANE_PATH => return open_lane(inner, stream, end, drain).await.unwrap_or_else(|why| refuse(&why)),
        PROBE_PATH => probe(&inner, stream).await,
        JOIN_PATH => join(&inner, stream).await,
        path => Err(Status::unimplemented(format!("there is no {path}"))),
    };
    match answered {
        Ok(message) => response(MessageBody::once(Some(message), trailers(&Status::ok("")))),
        Err(status) => refuse(&status),
    }
}

fn response(body: MessageBody<ReplyTicket>) -> Answer {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, CONTENT_TYPE_GRPC);
    response
}

fn refuse(status: &Status) -> Answer {
    response(MessageBody::once(None, trailers(status)))
}

async fn probe(inner: &Inner, stream: Deframer<Incoming>) -> Result<bytes::Bytes, Status> {
    let request = first(stream).await?;
    let response = inner.handler()?.probe(request).await?;
    Ok(frames::unary(&response))
}

async fn join(inner: &Inner, stream: Deframer<Incoming>) -> Result<bytes::Bytes, Status> {
    let request = first(stream).await?;
    let response = inner.handler()?.join(request).await?;
    Ok(frames::unary(&response))
}

/// The one message of a unary call.
async fn first<M: prost::Message + Default>(mut stream: Deframer<Incoming>) -> Result<M, Status> {
    let message = async {
        match stream.next_len(GREETING_BYTES_MAX).await? {
            Some(len) => Ok(stream.message(len).await?),
            None => Err(Status::invalid_argument("the request has no message")),
        }
    };
    let message = tokio::time::timeout(GREETING_TIMEOUT, message)
        .await
        .map_err(|_| Status::deadline_exceeded("the request did not come in time"))??;
    M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn open_lane(
    inner: Arc<Inner>,
    mut stream: Deframer<Incoming>,
    end: CancellationToken,
    drain: CancellationToken,
) -> Result<Answer, Status> {
    let hello = tokio::time::timeout(GREETING_TIMEOUT, hello(&mut stream))
        .await
        .map_err(|_| Status::deadline_exceeded("the greeting did not come in time"))??;
    let Greeting { peer, lane, peer_address } = inner.identity.check_hello(&hello)?;
    admit(&inner, &peer)?;
    inner.heard_from(peer.broker_id, &peer_address);
    let outbox = Arc::new(Outbox::new(inner.settings.gather));
    let body = outbox.body(frames::hello(&inner.identity.hello_reply(peer.protocol)));
    outbox.start();
    let receive_bytes = inner.settings.lane(lane).receive_bytes;
    let caller = Caller {
        // An earlier connection of the same broker and lane ends: it opens a new one when the old is lost.
        replaced: inner.take_over(peer.broker_id, lane),
        dispatcher: Dispatcher::new(inner.tasks.clone(), inner.stop.clone()),
        metrics: LaneMetrics::new(lane),
        room: Arc::new(Semaphore::new(receive_bytes)),
        receive_bytes,
        requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        heartbeats: Arc::default(),
        outbox,
        peer: Arc::new(peer),
        inner,
    };
    let lane = lane_name(lane);
    info!(broker = %caller.peer.broker_id, lane, protocol = caller.peer.protocol, "another broker has connected");
    let tasks = caller.inner.tasks.clone();
    tasks.spawn(async move { end.run_until_cancelled(caller.run(stream, drain)).await });
    Ok(response(body))
}

async fn hello(stream: &mut Deframer<Incoming>) -> Result<v1::Hello, Status> {
    let nothing = || Status::invalid_argument("the stream does not begin with a greeting");
    let len = stream.next_len(GREETING_BYTES_MAX).await?.ok_or_else(nothing)?;
    match Items::of(stream.message(len).await?).next::<v1::Hello, v1::Call>()? {
        Some(Field::Hello(hello)) => Ok(hello),
        _ => Err(nothing()),
    }
}

fn admit(inner: &Inner, peer: &PeerIdentity) -> Result<(), Status> {
    if inner.handler()?.admits(peer.broker_id, peer.incarnation) {
        return Ok(());
    }
    let (broker, directory) = (peer.broker_id, peer.incarnation);
    Err(Status::permission_denied(format!(
        "data directory {directory} of broker {broker} was replaced, and is admitted no more"
    )))
}

/// One lane that another broker has opened.
struct Caller {
    inner: Arc<Inner>,
    peer: Arc<PeerIdentity>,
    replaced: CancellationToken,
    dispatcher: Dispatcher,
    outbox: Arc<Outbox<ReplyTicket>>,
    metrics: LaneMetrics,
    /// Bytes received and not answered, at most.
    room: Arc<Semaphore>,
    receive_bytes: usize,
    /// Requests under way, at most.
    requests: Arc<Semaphore>,
    /// Unanswered ones: the answer to the last takes all others along.
    heartbeats: Arc<AtomicUsize>,
}

/// What an answer gives back once it is written.
pub(super) struct ReplyTicket {
    _room: Arc<OwnedSemaphorePermit>,
    _request: OwnedSemaphorePermit,
}

impl Ticket for ReplyTicket {
    fn admit(self) -> bool {
        true
    }
}

impl Caller {
    async fn run(self, mut stream: Deframer<Incoming>, drain: CancellationToken) {
        let read = tokio::select! {
            biased;
            () = self.replaced.cancelled() => Err(Status::aborted("the lane was opened again")),
            () = drain.cancelled() => Ok(()),
            read = self.read(&mut stream) => read,
        };
        let status = match read {
            Ok(()) => {
                // Every request has its answer written.
                let all = u32::try_from(REQUESTS_MAX).unwrap_or(u32::MAX);
                let _ = self.requests.acquire_many(all).await;
                Status::ok("")
            }
            Err(status) => status,
        };
        self.outbox.finish(status);
    }

    async fn read(&self, stream: &mut Deframer<Incoming>) -> Result<(), Status> {
        let mut admitted_at = Instant::now();
        while let Some(len) = stream.next_len(self.inner.settings.message_bytes_max).await? {
            if admitted_at.elapsed() >= ADMISSION_INTERVAL {
                admit(&self.inner, &self.peer)?;
                admitted_at = Instant::now();
            }
            let cost = u32::try_from(len.min(self.receive_bytes)).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room).acquire_many_owned(cost).await;
            let room = Arc::new(room.map_err(|_| Status::unavailable("this broker stops"))?);
            let message = stream.message(len).await?;
            self.metrics.received_bytes.increment(len as u64);
            let mut items = Items::of(message);
            while let Some(field) = items.next::<v1::Hello, v1::Call>()? {
                match field {
                    Field::Item(call) => self.begin(call, &room).await?,
                    Field::Hello(_) => return Err(Status::invalid_argument("it greets twice")),
                }
            }
        }
        Ok(())
    }

    async fn begin(&self, call: v1::Call, room: &Arc<OwnedSemaphorePermit>) -> Result<(), Status> {
        let request = Arc::clone(&self.requests).acquire_owned().await;
        let request = request.map_err(|_| Status::unavailable("this broker stops"))?;
        self.metrics.received.increment(1);
        let ticket = ReplyTicket { _room: Arc::clone(room), _request: request };
        let correlation = call.correlation;
        let outbox = Arc::clone(&self.outbox);
        let reply = move |item: Item, urgent| {
            // Refused only when the lane is gone, and the caller with it.
            let _ = outbox.push(item, ticket, urgent);
        };
        let inner = Arc::clone(&self.inner);
        match call.request {
            Some(v1::call::Request::Group(call)) => match group_request(call) {
                Ok(request) => {
                    let heartbeats =
                        (request.kind == RequestKind::Heartbeat).then(|| Arc::clone(&self.heartbeats));
                    if let Some(unanswered) = &heartbeats {
                        unanswered.fetch_add(1, Ordering::Relaxed);
                    }
                    let key: Key = Some(request.group);
                    let max = inner.settings.message_bytes_max.saturating_sub(MESSAGE_BYTES);
                    let work = async move {
                        let answer = in_time(inner.replicas.answer(request)).await;
                        let last = heartbeats
                            .is_none_or(|unanswered| unanswered.fetch_sub(1, Ordering::Relaxed) == 1);
                        reply(group_reply(correlation, answer, max), last);
                    };
                    self.dispatcher.dispatch(key, Box::pin(work));
                }
                Err(refusal) => reply(refusal_reply(correlation, refusal), true),
            },
            Some(v1::call::Request::Node(v1::NodeRequest { request: Some(request) })) => {
                let peer = Arc::clone(&self.peer);
                let work = async move {
                    let answer = match inner.handler() {
                        Ok(handler) => in_time(handler.answer(&peer, request)).await,
                        Err(status) => Err(Refusal::Stopped(status.message().to_owned())),
                    };
                    let item = match answer {
                        Ok(response) => {
                            let response = v1::NodeResponse { response: Some(response) };
                            let outcome = Some(v1::reply::Outcome::Node(response));
                            Item::small(&v1::Reply { correlation, outcome })
                        }
                        Err(refusal) => refusal_reply(correlation, refusal),
                    };
                    reply(item, true);
                };
                self.dispatcher.dispatch(None, Box::pin(work));
            }
            Some(v1::call::Request::Node(_)) | None => {
                let unknown = Refusal::Malformed("a request of a kind that is not known here".to_owned());
                reply(refusal_reply(correlation, unknown), true);
            }
        }
        Ok(())
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let late = |_| Err(Refusal::Stopped(format!("it has not answered within {ANSWER_TIMEOUT:?}")));
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(late)
}

fn group_reply(correlation: u64, answer: Result<Body, Refusal>, bytes_max: usize) -> Item {
    match answer {
        Ok(body) if body.len() <= bytes_max => Item::group_reply(correlation, body),
        Ok(body) => {
            let why = format!("the answer is {} bytes long, and no message may be", body.len());
            refusal_reply(correlation, Refusal::Stopped(why))
        }
        Err(refusal) => refusal_reply(correlation, refusal),
    }
}

fn refusal_reply(correlation: u64, refusal: Refusal) -> Item {
    let outcome = Some(v1::reply::Outcome::Refused(refused(refusal)));
    Item::small(&v1::Reply { correlation, outcome })
}

/// The lanes that others have opened, by broker and lane: one of each.
pub(super) type Lanes = std::collections::BTreeMap<(BrokerId, u32), CancellationToken>;

impl Inner {
    /// Ends the lane that the broker opened before, and gives the token by which the next one ends this.
    fn take_over(&self, broker: BrokerId, lane: crate::peer::Lane) -> CancellationToken {
        let token = self.stop.child_token();
        let key = (broker, lane_number(lane));
        let earlier =
            self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, token.clone());
        earlier.into_iter().for_each(|earlier| earlier.cancel());
        token
    }
}
