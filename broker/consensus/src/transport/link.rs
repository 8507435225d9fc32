//! One lane to one broker, across its connections.
//!
//! Invariants: a connection is opened when the lane is first used and kept; once it is lost, or cannot be opened,
//! calls fail at once until it is back, and attempts go on while anybody calls; calls are written in the order in
//! which they were made, and only to the data directory that they name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_proto::types::{BrokerId, Incarnation};
use headwater_proto::v1;
use hyper::body::Incoming;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::Inner;
use super::connection::{Connection, GREETING_BYTES_MAX, ended};
use super::convert::{Answer, lane_name, outcome};
use super::frames::{self, Deframer, Field, FrameError, Item, Items};
use super::identity::PeerIdentity;
use super::metrics::LaneMetrics;
use super::outbox::{MESSAGE_BYTES, Outbox, Ticket};
use super::settings::LaneSettings;
use crate::peer::{CallError, Lane, Refusal};

pub(super) const LANE_PATH: &str = "/headwater.v1.Peer/Lane";
/// Charged on top of a call's length, so that empty calls are bounded too.
const CALL_OVERHEAD_BYTES: usize = 256;

type Outcome = Result<Answer, CallError>;

/// Calls to one broker on one lane.
pub(super) struct Link {
    broker: BrokerId,
    lane: Lane,
    settings: LaneSettings,
    outbox: Arc<Outbox<CallTicket>>,
    exchange: Arc<Exchange>,
    /// Bytes that may be queued.
    room: Arc<Semaphore>,
    correlation: AtomicU64,
    usage: Mutex<Usage>,
    /// The broker was heard from: the next attempt need not wait.
    alive: Notify,
    /// The connection is to be given up.
    cut: Notify,
    metrics: LaneMetrics,
}

#[derive(Debug)]
struct Usage {
    running: bool,
    last_call: Instant,
}

/// What a link and the calls that it carries share.
#[derive(Debug)]
struct Exchange {
    broker: BrokerId,
    state: Mutex<Conversation>,
}

#[derive(Debug, Default)]
struct Conversation {
    remote: Option<PeerIdentity>,
    /// Written and unanswered, by correlation.
    waiting: BTreeMap<u64, oneshot::Sender<Outcome>>,
}

impl Exchange {
    fn conversation(&self) -> MutexGuard<'_, Conversation> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that was written is answered any more.
    fn abandon(&self) {
        let dropped = std::mem::take(&mut *self.conversation());
        drop(dropped);
    }

    fn answer(&self, reply: v1::Reply) {
        // A call that timed out is not waited for.
        if let Some(caller) = self.conversation().waiting.remove(&reply.correlation) {
            let _ = caller.send(outcome(reply).map_err(CallError::Refused));
        }
    }
}

/// A call in the queue.
pub(super) struct CallTicket {
    exchange: Arc<Exchange>,
    correlation: u64,
    expected: Option<Incarnation>,
    caller: oneshot::Sender<Outcome>,
    _room: OwnedSemaphorePermit,
}

impl Ticket for CallTicket {
    fn admit(self) -> bool {
        if self.caller.is_closed() {
            return false;
        }
        let mut conversation = self.exchange.conversation();
        let remote = conversation.remote.as_ref().map(|remote| remote.incarnation);
        if self.expected.is_some() && remote.is_some() && self.expected != remote {
            let other = "another data directory answers at its address".to_owned();
            let _ = self.caller.send(Err(CallError::Unreachable(self.exchange.broker, other)));
            return false;
        }
        conversation.waiting.insert(self.correlation, self.caller);
        true
    }
}

/// Forgets a call whose caller has left.
struct Caller<'a>(&'a Exchange, u64);

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let dropped = self.0.conversation().waiting.remove(&self.1);
        drop(dropped);
    }
}

impl Link {
    pub(super) fn new(broker: BrokerId, lane: Lane, inner: &Inner) -> Self {
        let settings = *inner.settings.lane(lane);
        Self {
            broker,
            lane,
            settings,
            outbox: Arc::new(Outbox::new(inner.settings.gather)),
            exchange: Arc::new(Exchange { broker, state: Mutex::default() }),
            room: Arc::new(Semaphore::new(settings.queue_bytes)),
            correlation: AtomicU64::new(1),
            usage: Mutex::new(Usage { running: false, last_call: Instant::now() }),
            alive: Notify::new(),
            cut: Notify::new(),
            metrics: LaneMetrics::new(lane),
        }
    }

    /// The broker at the other end, while the lane is open.
    pub(super) fn remote(&self) -> Option<PeerIdentity> {
        self.exchange.conversation().remote.clone()
    }

    /// The broker has called: it can be reached.
    pub(super) fn alive(&self) {
        if self.usage().running && self.remote().is_none() {
            self.alive.notify_one();
        }
    }

    /// Gives up the connection, if there is one: the broker has fallen silent on another lane.
    pub(super) fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// Makes a call of about `len` bytes.
    pub(super) async fn call(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        call: Outgoing,
        within: Duration,
    ) -> Outcome {
        self.metrics.calls.increment(1);
        self.keep_running(inner);
        let result = match tokio::time::timeout(within, self.exchange_call(call)).await {
            Ok(result) => result,
            Err(_) => Err(CallError::TimedOut(within)),
        };
        match &result {
            Ok(_) => {}
            Err(CallError::Unreachable(..)) => self.metrics.failed("unreachable"),
            Err(CallError::TimedOut(_)) => self.metrics.failed("timed_out"),
            Err(CallError::Refused(_)) => self.metrics.failed("refused"),
        }
        result
    }

    async fn exchange_call(&self, call: Outgoing) -> Outcome {
        let Outgoing { len, urgent, expected, encode } = call;
        let unreachable = |why| CallError::Unreachable(self.broker, why);
        if let Some(why) = self.outbox.refusal() {
            return Err(unreachable(why));
        }
        let cost = (len + CALL_OVERHEAD_BYTES).min(self.settings.queue_bytes);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        // Tried first: a task that has used up its budget would be made to wait here while later calls pass.
        let room = match Arc::clone(&self.room).try_acquire_many_owned(cost) {
            Ok(room) => room,
            Err(_) => {
                let room = Arc::clone(&self.room).acquire_many_owned(cost).await;
                room.map_err(|_| unreachable("this broker stops".to_owned()))?
            }
        };
        let correlation = self.correlation.fetch_add(1, Ordering::Relaxed);
        let item = encode(correlation);
        self.metrics.sent_bytes.increment(item.len() as u64);
        let (caller, answer) = oneshot::channel();
        let exchange = Arc::clone(&self.exchange);
        let ticket = CallTicket { exchange, correlation, expected, caller, _room: room };
        let _caller = Caller(&self.exchange, correlation);
        self.outbox.push(item, ticket, urgent).map_err(unreachable)?;
        match answer.await {
            Ok(outcome) => outcome,
            Err(_) => {
                let why = self.outbox.refusal().unwrap_or_else(|| "the connection broke".to_owned());
                Err(unreachable(why))
            }
        }
    }

    /// Starts the link's task unless it runs.
    fn keep_running(self: &Arc<Self>, inner: &Arc<Inner>) {
        let mut usage = self.usage();
        usage.last_call = Instant::now();
        if !usage.running && !inner.stop.is_cancelled() {
            usage.running = true;
            let (link, inner) = (Arc::clone(self), Arc::clone(inner));
            let stop = inner.stop.clone();
            inner.tasks.clone().spawn(async move { stop.run_until_cancelled(link.run(inner)).await });
        }
    }

    /// Connects, again and again, until nobody has called for a while.
    async fn run(self: Arc<Self>, inner: Arc<Inner>) {
        let seed =
            inner.seed ^ (self.broker.get() as u64) << 8 ^ u64::from(super::convert::lane_number(self.lane));
        let mut rng = StdRng::seed_from_u64(seed);
        let mut failures = 0_u32;
        let mut told = String::new();
        loop {
            let up = self.connect(&inner, failures, &mut told).await;
            failures = if up { 0 } else { failures.saturating_add(1) };
            let longest = inner.settings.backoff_min.saturating_mul(1 << failures.min(16));
            let pause = longest.min(inner.settings.backoff_max).mul_f64(1.0 - rng.random_range(0.0..0.5));
            let heard = tokio::time::timeout(pause, self.alive.notified()).await.is_ok();
            if heard {
                failures = 0;
            }
            let mut usage = self.usage();
            if usage.last_call.elapsed() > inner.settings.give_up_after && !heard {
                usage.running = false;
                // The next call makes an attempt, and waits for it.
                self.outbox.reset(None);
                return;
            }
        }
    }

    /// One connection, from the attempt to its end; whether it came to be.
    async fn connect(&self, inner: &Arc<Inner>, attempt: u32, told: &mut String) -> bool {
        let ended = self.converse(inner, attempt).await;
        let up = self.exchange.conversation().remote.is_some();
        let why = ended.message().to_owned();
        self.outbox.reset(Some(why.clone()));
        self.exchange.abandon();
        let (broker, lane) = (self.broker, lane_name(self.lane));
        if ended.code() == Code::DeadlineExceeded && self.lane == Lane::Control {
            inner.silent(broker);
        }
        let refused = !matches!(ended.code(), Code::Unavailable | Code::DeadlineExceeded);
        self.metrics.disconnected(match (refused, up) {
            (true, _) => "refused",
            (false, true) => "lost",
            (false, false) => "unreachable",
        });
        if *told == why {
            return up;
        }
        if refused {
            warn!(%broker, lane, "another broker refuses to talk: {why}");
        } else if up {
            info!(%broker, lane, "connection lost: {why}");
        } else {
            debug!(%broker, lane, "cannot connect: {why}");
        }
        *told = why;
        up
    }

    async fn converse(&self, inner: &Arc<Inner>, attempt: u32) -> Status {
        let addresses = inner.addresses.addresses(self.broker);
        let Some(address) = addresses.get(attempt as usize % addresses.len().max(1)) else {
            return Status::unavailable("its address is not known");
        };
        let expected = inner.addresses.incarnation(self.broker);
        let Some(hello) = inner.identity.hello(self.broker, expected, self.lane) else {
            return Status::unavailable("this broker is in no cluster yet");
        };
        let within = inner.settings.connect_timeout;
        let opened = Connection::open(&inner.dialer, address, &self.settings, &inner.tasks, within).await;
        let connection = match opened {
            Ok(connection) => connection,
            Err(why) => return Status::unavailable(why),
        };
        let greeted = Notify::new();
        let body = self.outbox.body(frames::hello(&hello));
        let conversation = connection.run(address, LANE_PATH, body, |mut stream| async {
            let remote = self.greet(inner, &mut stream, expected).await?;
            self.metrics.connects.increment(1);
            debug!(broker = %self.broker, lane = lane_name(self.lane), protocol = remote.protocol, "connected");
            self.exchange.conversation().remote = Some(remote);
            self.outbox.start();
            greeted.notify_one();
            self.read(inner.settings.message_bytes_max, stream).await
        });
        let late = async {
            if tokio::time::timeout(within, greeted.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            ended = conversation => ended.err().unwrap_or_else(|| Status::unavailable("it was closed")),
            () = late => Status::unavailable(format!("{address}: no greeting within {within:?}")),
            () = self.cut.notified() => Status::unavailable("the broker fell silent"),
        }
    }

    async fn greet(
        &self,
        inner: &Inner,
        stream: &mut Deframer<Incoming>,
        expected: Option<Incarnation>,
    ) -> Result<PeerIdentity, Status> {
        let Some(len) = stream.next_len(GREETING_BYTES_MAX).await? else { return Err(ended(stream)) };
        let message = stream.message(len).await?;
        match Items::of(message).next::<v1::HelloReply, v1::Reply>()? {
            Some(Field::Hello(reply)) => {
                inner.identity.check_reply(self.broker, expected, reply).map_err(Status::failed_precondition)
            }
            _ => Err(Status::invalid_argument("it does not greet")),
        }
    }

    /// Hands replies to their callers, to the end of the stream.
    async fn read(&self, message_bytes_max: usize, mut stream: Deframer<Incoming>) -> Result<(), Status> {
        while let Some(len) = stream.next_len(message_bytes_max).await? {
            let mut items = Items::of(stream.message(len).await?);
            while let Some(field) = items.next::<v1::HelloReply, v1::Reply>()? {
                match field {
                    Field::Item(reply) => self.exchange.answer(reply),
                    Field::Hello(_) => return Err(Status::invalid_argument("it greets twice")),
                }
            }
        }
        Err(ended(&stream))
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call, not encoded yet.
pub(super) struct Outgoing {
    /// Of its body.
    pub(super) len: usize,
    /// It does not wait for company.
    pub(super) urgent: bool,
    /// The data directory that it is for.
    pub(super) expected: Option<Incarnation>,
    pub(super) encode: Box<dyn FnOnce(u64) -> Item + Send>,
}

impl Outgoing {
    /// # Errors
    /// It is longer than a message may be.
    pub(super) fn check(&self, message_bytes_max: usize) -> Result<(), CallError> {
        // It may share a message with what else is ready.
        let (bytes, max) = (self.len, message_bytes_max.saturating_sub(MESSAGE_BYTES + CALL_OVERHEAD_BYTES));
        if bytes <= max {
            return Ok(());
        }
        Err(CallError::Refused(Refusal::Malformed(FrameError::TooLong { bytes, max }.to_string())))
    }
}

impl Link {
    /// Ends what is under way; the link's task has ended already, or is ended with all others.
    pub(super) fn close(&self) {
        self.outbox.reset(Some("this broker stops".to_owned()));
        self.exchange.abandon();
    }
}
