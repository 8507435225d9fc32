//! A network in memory: messages take their time, get lost, or find a link cut, all from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_proto::types::{BrokerId, GroupId, Incarnation};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::Peer;
use crate::peer::{Body, CallError, GroupRequest, Lane, Messenger, Replicas, RequestKind};

type Queue = Arc<tokio::sync::Mutex<()>>;

/// Joins the brokers of one test.
pub(crate) struct Net(Mutex<State>);

struct State {
    rng: StdRng,
    brokers: BTreeMap<BrokerId, (Incarnation, Arc<Replicas>)>,
    retired: BTreeSet<Incarnation>,
    /// Links that carry nothing, by who sends and who should receive.
    cut: BTreeSet<(BrokerId, BrokerId)>,
    latency_us: Range<u64>,
    loss: f64,
    /// Requests of one lane and group arrive in order.
    queues: BTreeMap<(BrokerId, BrokerId, Lane, GroupId), Queue>,
    delivered: BTreeMap<u8, u64>,
    largest: BTreeMap<u8, usize>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            brokers: BTreeMap::new(),
            retired: BTreeSet::new(),
            cut: BTreeSet::new(),
            latency_us: 100..1_000,
            loss: 0.0,
            queues: BTreeMap::new(),
            delivered: BTreeMap::new(),
            largest: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The way from one broker to all others.
    pub(crate) fn messenger(self: &Arc<Self>, from: BrokerId) -> Arc<dyn Messenger> {
        Arc::new(Wire { net: Arc::clone(self), from })
    }

    /// From now on the broker answers.
    pub(crate) fn attach(&self, broker: BrokerId, incarnation: Incarnation, replicas: Arc<Replicas>) {
        self.state().brokers.insert(broker, (incarnation, replicas));
    }

    /// From now on it cannot be reached.
    pub(crate) fn detach(&self, broker: BrokerId) {
        self.state().brokers.remove(&broker);
    }

    /// From now on everybody knows that it never comes back.
    pub(crate) fn retire(&self, incarnation: Incarnation) {
        self.state().retired.insert(incarnation);
    }

    /// Nothing passes from one to the other any more, in this direction.
    pub(crate) fn cut(&self, from: BrokerId, to: BrokerId) {
        self.state().cut.insert((from, to));
    }

    /// Nothing passes between the one side and everybody else.
    pub(crate) fn isolate(&self, side: &[BrokerId]) {
        let all: Vec<_> = self.state().brokers.keys().copied().collect();
        for one in side {
            for other in all.iter().filter(|other| !side.contains(other)) {
                self.cut(*one, *other);
                self.cut(*other, *one);
            }
        }
    }

    /// Everything passes again.
    pub(crate) fn heal(&self) {
        self.state().cut.clear();
    }

    /// How long a message is under way.
    pub(crate) fn set_latency_us(&self, latency_us: Range<u64>) {
        self.state().latency_us = latency_us;
    }

    /// The share of messages that get lost, each way.
    pub(crate) fn set_loss(&self, loss: f64) {
        self.state().loss = loss;
    }

    /// How many requests of a kind have reached their replica.
    pub(crate) fn delivered(&self, kind: RequestKind) -> u64 {
        self.state().delivered.get(&(kind as u8)).copied().unwrap_or(0)
    }

    /// Bytes of the largest request of a kind.
    pub(crate) fn largest(&self, kind: RequestKind) -> usize {
        self.state().largest.get(&(kind as u8)).copied().unwrap_or(0)
    }

    fn count(&self, request: &GroupRequest) {
        let mut state = self.state();
        *state.delivered.entry(request.kind as u8).or_default() += 1;
        let largest = state.largest.entry(request.kind as u8).or_default();
        *largest = request.body.len().max(*largest);
    }

    fn delay(&self) -> Duration {
        let mut state = self.state();
        let range = state.latency_us.clone();
        Duration::from_micros(state.rng.random_range(range))
    }

    /// Whether a message gets through.
    fn passes(&self, from: BrokerId, to: BrokerId) -> bool {
        let mut state = self.state();
        let loss = state.loss;
        let lost = loss > 0.0 && state.rng.random_bool(loss);
        !lost && !state.cut.contains(&(from, to))
    }

    fn replicas(&self, to: Peer) -> Option<Arc<Replicas>> {
        let state = self.state();
        let (incarnation, replicas) = state.brokers.get(&to.broker_id)?;
        (*incarnation == to.incarnation).then(|| Arc::clone(replicas))
    }
}

/// The network as one broker sees it.
#[derive(Debug)]
struct Wire {
    net: Arc<Net>,
    from: BrokerId,
}

#[async_trait]
impl Messenger for Wire {
    async fn call(
        &self,
        peer: Peer,
        lane: Lane,
        request: GroupRequest,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let answer = timeout(within, self.deliver(peer, lane, request)).await;
        answer.unwrap_or(Err(CallError::TimedOut(within)))
    }

    fn is_retired(&self, peer: Peer) -> bool {
        self.net.state().retired.contains(&peer.incarnation)
    }
}

impl Wire {
    async fn deliver(&self, peer: Peer, lane: Lane, request: GroupRequest) -> Result<Bytes, CallError> {
        let (from, to) = (self.from, peer.broker_id);
        let queue = Arc::clone(self.net.state().queues.entry((from, to, lane, request.group)).or_default());
        let in_turn = queue.lock().await;
        sleep(self.net.delay()).await;
        if !self.net.passes(from, to) {
            drop(in_turn);
            return std::future::pending().await;
        }
        let Some(replicas) = self.net.replicas(peer) else {
            return Err(CallError::Unreachable(to, "it is down".to_owned()));
        };
        self.net.count(&request);
        let (answered, answer) = oneshot::channel();
        let net = Arc::clone(&self.net);
        // What arrived is answered, whether or not the caller still waits.
        tokio::spawn(async move {
            let request = GroupRequest { body: Body::from(request.body.into_bytes()), ..request };
            let answer = replicas.answer(request).await;
            sleep(net.delay()).await;
            if net.passes(to, from) {
                let _ = answered.send(answer);
            }
        });
        drop(in_turn);
        match answer.await {
            Ok(answer) => Ok(answer?.into_bytes()),
            // Lost on its way back.
            Err(_) => std::future::pending().await,
        }
    }
}
