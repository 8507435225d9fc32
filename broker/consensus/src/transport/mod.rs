//! gRPC between brokers: one HTTP/2 connection and one stream on it for each other broker and lane.
//!
//! Invariants: nothing is exchanged but between data directories of one cluster, each the one that the other
//! means; calls of one lane and group arrive in the order in which they were made; a lane that is stuck delays
//! no other, nor does a group that is slow; every length is checked before memory is taken for it, and every queue
//! is bounded in bytes; a call ends by its deadline, at once while its broker is known to be unreachable. Must not
//! know what the messages of a group mean.

mod address_book;
mod connection;
mod convert;
mod dispatch;
mod frames;
mod identity;
mod inbound;
mod link;
mod metrics;
mod node;
mod outbox;
mod settings;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_proto::types::{BrokerId, ClusterId, GroupId, Incarnation, ReplicaId};
use headwater_proto::v1::{self, JoinRequest, JoinResponse, ProbeRequest, ProbeResponse};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

pub use address_book::AddressBook;
pub use identity::{LocalBroker, PeerIdentity};
pub use node::{Dialer, NodeHandler, NodeRequest, NodeResponse, PeerStream};
pub use settings::{LaneSettings, ProtocolRange, TransportSettings};

use self::connection::Connection;
use self::convert::{Answer, LANES, call_head, lane_number};
use self::frames::Item;
use self::identity::Identity;
use self::link::{Link, Outgoing};
use self::outbox::MessageBody;
use self::throttle::Throttle;
use crate::peer::{CallError, GroupRequest, Lane, Messenger, Refusal, Replicas, RequestKind};
use crate::types::Peer;

/// Calls other brokers, and answers theirs. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    settings: TransportSettings,
    identity: Identity,
    dialer: Arc<dyn Dialer>,
    addresses: Arc<AddressBook>,
    replicas: Arc<Replicas>,
    /// Weak: the handler is the broker, which holds the transport.
    handler: RwLock<Option<Weak<dyn NodeHandler>>>,
    /// To others, by broker and lane.
    links: Mutex<BTreeMap<(BrokerId, u32), Arc<Link>>>,
    /// From others.
    lanes: Mutex<inbound::Lanes>,
    throttle: Throttle,
    seed: u64,
    /// Everything that runs.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("local", &self.0.identity.local).finish_non_exhaustive()
    }
}

impl Transport {
    /// Nothing is sent before the first call. `seed` decides what is left to chance. Must be called, as all
    /// else here, in a tokio runtime.
    #[must_use]
    pub fn new(
        settings: TransportSettings,
        local: LocalBroker,
        dialer: Arc<dyn Dialer>,
        addresses: Arc<AddressBook>,
        replicas: Arc<Replicas>,
        seed: u64,
    ) -> Self {
        let identity = Identity::new(local, settings.protocol);
        let throttle = Throttle::new(settings.recovery_bytes_per_second);
        Self(Arc::new(Inner {
            settings,
            identity,
            dialer,
            addresses,
            replicas,
            handler: RwLock::default(),
            links: Mutex::default(),
            lanes: Mutex::default(),
            throttle,
            seed,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The data directory is open. Only the first call counts.
    pub fn identify(&self, incarnation: Incarnation) {
        self.0.identity.set_incarnation(incarnation);
    }

    /// The cluster is known: lanes are opened and accepted from now on, if the data directory is known too. Only
    /// the first call counts.
    pub fn enter(&self, cluster: ClusterId) {
        self.0.identity.set_cluster(cluster);
    }

    /// Who answers what concerns the broker as a whole; until then callers are told to come again.
    pub fn set_handler(&self, handler: Weak<dyn NodeHandler>) {
        *self.0.handler.write().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    #[must_use]
    pub fn local(&self) -> &LocalBroker {
        &self.0.identity.local
    }

    #[must_use]
    pub fn addresses(&self) -> &Arc<AddressBook> {
        &self.0.addresses
    }

    #[must_use]
    pub fn replicas(&self) -> &Arc<Replicas> {
        &self.0.replicas
    }

    /// The broker at the other end of the control lane that this one opened, while it is open.
    #[must_use]
    pub fn peer(&self, broker: BrokerId) -> Option<PeerIdentity> {
        let key = (broker, lane_number(Lane::Control));
        let link = self.0.links.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        link?.remote()
    }

    /// Asks a broker something that concerns it as a whole, on the control lane. What this broker asks of
    /// another begins there in the order in which it was asked.
    ///
    /// # Errors
    /// No answer, and whether it was asked is not known; or it refused.
    pub async fn node_call(
        &self,
        broker: BrokerId,
        request: NodeRequest,
        within: Duration,
    ) -> Result<NodeResponse, CallError> {
        let request = v1::NodeRequest { request: Some(request) };
        let call = Outgoing {
            len: prost::Message::encoded_len(&request),
            urgent: true,
            expected: None,
            encode: Box::new(move |correlation| {
                let request = Some(v1::call::Request::Node(request));
                Item::small(&v1::Call { correlation, request })
            }),
        };
        match self.0.call(broker, Lane::Control, call, within).await? {
            Answer::Node(response) => Ok(response),
            Answer::Group(_) => Err(Refusal::Malformed("the answer is of a group".to_owned()).into()),
        }
    }

    /// Asks who listens at an address, on a connection of its own.
    ///
    /// # Errors
    /// `Unavailable`: nobody was reached, or who was is not ready; else what was answered.
    pub async fn probe(
        &self,
        address: &str,
        request: ProbeRequest,
        within: Duration,
    ) -> Result<ProbeResponse, Status> {
        self.0.unary(address, inbound::PROBE_PATH, &request, within).await
    }

    /// Asks whoever listens at an address to let this broker join its cluster.
    ///
    /// # Errors
    /// As [`Transport::probe`].
    pub async fn join(
        &self,
        address: &str,
        request: JoinRequest,
        within: Duration,
    ) -> Result<JoinResponse, Status> {
        self.0.unary(address, inbound::JOIN_PATH, &request, within).await
    }

    /// Whether appends to that replica of another broker are recovery traffic, and share its rate; snapshots
    /// always do.
    pub fn throttle(&self, group: GroupId, replica: ReplicaId, catching_up: bool) {
        self.0.throttle.mark(group, replica, catching_up);
    }

    /// Serves a connection that another broker opened. After `drain` its requests are answered, and no more are
    /// read.
    ///
    /// # Errors
    /// What the other side did wrong, in words.
    pub async fn serve<S: PeerStream>(&self, stream: S, drain: &CancellationToken) -> Result<(), String> {
        inbound::serve(&self.0, stream, drain).await
    }

    /// Ends every connection and whatever is under way; calls fail from now on.
    pub async fn close(&self) {
        self.0.stop.cancel();
        let links = std::mem::take(&mut *self.0.links.lock().unwrap_or_else(PoisonError::into_inner));
        links.values().for_each(|link| link.close());
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn handler(&self) -> Result<Arc<dyn NodeHandler>, Status> {
        let handler = self.handler.read().unwrap_or_else(PoisonError::into_inner);
        let handler = handler.as_ref().and_then(Weak::upgrade);
        handler.ok_or_else(|| Status::unavailable("this broker is starting or stopping"))
    }

    async fn call(
        self: &Arc<Self>,
        broker: BrokerId,
        lane: Lane,
        call: Outgoing,
        within: Duration,
    ) -> Result<Answer, CallError> {
        let unreachable = |why: &str| CallError::Unreachable(broker, why.to_owned());
        call.check(self.settings.message_bytes_max)?;
        if broker == self.identity.local.broker_id {
            return Err(unreachable("it is this broker"));
        }
        if self.identity.member().is_none() {
            return Err(unreachable("this broker is in no cluster yet"));
        }
        let link = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            if self.stop.is_cancelled() {
                return Err(unreachable("this broker stops"));
            }
            let link = links.entry((broker, lane_number(lane)));
            Arc::clone(link.or_insert_with(|| Arc::new(Link::new(broker, lane, self))))
        };
        link.call(self, call, within).await
    }

    async fn unary<Q, R>(
        self: &Arc<Self>,
        address: &str,
        path: &'static str,
        request: &Q,
        within: Duration,
    ) -> Result<R, Status>
    where
        Q: prost::Message,
        R: prost::Message + Default,
    {
        let lane = &self.settings.control;
        let exchange = async {
            let opened =
                Connection::open(&self.dialer, address, lane, &self.tasks, self.settings.connect_timeout)
                    .await;
            let body = MessageBody::once(Some(frames::unary(request)), None);
            opened.map_err(Status::unavailable)?.run(address, path, body, connection::single).await
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::unavailable(format!("{address}: no answer within {within:?}"))),
        }
    }

    /// A broker has called from there.
    fn heard_from(&self, broker: BrokerId, address: &str) {
        self.addresses.heard(broker, address);
        self.links_to(broker).iter().for_each(|link| link.alive());
    }

    /// A broker answers no more on the control lane: its other lanes are as dead.
    fn silent(&self, broker: BrokerId) {
        self.links_to(broker).iter().for_each(|link| link.cut());
    }

    fn links_to(&self, broker: BrokerId) -> Vec<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        LANES.iter().filter_map(|lane| links.get(&(broker, lane_number(*lane))).cloned()).collect()
    }
}

#[async_trait]
impl Messenger for Transport {
    async fn call(
        &self,
        peer: Peer,
        lane: Lane,
        request: GroupRequest,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let started = tokio::time::Instant::now();
        let turn = self.0.throttle.wait(peer.broker_id, lane, &request);
        let Ok(_turn) = tokio::time::timeout(within, turn).await else {
            return Err(CallError::TimedOut(within));
        };
        let call = Outgoing {
            len: request.body.len(),
            urgent: request.kind != RequestKind::Heartbeat,
            expected: Some(peer.incarnation),
            encode: Box::new(move |correlation| {
                Item::group_call(correlation, &call_head(&request), request.body)
            }),
        };
        let left = within.saturating_sub(started.elapsed());
        match self.0.call(peer.broker_id, lane, call, left).await? {
            Answer::Group(body) => Ok(body),
            Answer::Node(_) => Err(Refusal::Malformed("the answer is of a broker".to_owned()).into()),
        }
    }

    fn is_retired(&self, peer: Peer) -> bool {
        self.0.handler().is_ok_and(|handler| !handler.admits(peer.broker_id, peer.incarnation))
    }
}
