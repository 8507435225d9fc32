//! gRPC between brokers: one HTTP/2 connection and one stream on it for each other broker and lane.
//!
//! Invariants: nothing is exchanged but between data directories of one cluster, each the one that the other
//! means; calls of one lane and group arrive in the order in which they were made; a lane that is stuck delays
//! no other, nor does a group that is slow; every length is checked before memory is taken for it, and every queue
//! is bounded in bytes; a call ends by its deadline, at once while its broker is known to be unreachable. Must not
//! know what the messages of a group mean.

mod address_book;
mod identity;
mod node;
mod settings;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_proto::types::{BrokerId, ClusterId, GroupId, Incarnation, ReplicaId};
use headwater_proto::v1::{JoinRequest, JoinResponse, ProbeRequest, ProbeResponse};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use address_book::AddressBook;
pub use identity::{LocalBroker, PeerIdentity};
pub use node::{Dialer, NodeHandler, NodeRequest, NodeResponse, PeerStream};
pub use settings::{LaneSettings, ProtocolRange, TransportSettings};

use self::identity::Identity;
use crate::peer::{CallError, GroupRequest, Lane, Messenger, Replicas};
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
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("local", &self.0.identity.local).finish_non_exhaustive()
    }
}

impl Transport {
    /// Nothing is sent before the first call. `seed` decides what is left to chance.
    #[must_use]
    pub fn new(
        settings: TransportSettings,
        local: LocalBroker,
        dialer: Arc<dyn Dialer>,
        addresses: Arc<AddressBook>,
        replicas: Arc<Replicas>,
        _seed: u64,
    ) -> Self {
        let identity = Identity::new(local);
        Self(Arc::new(Inner { settings, identity, dialer, addresses, replicas, handler: RwLock::default() }))
    }

    /// The data directory is open: probes are answered from now on. Only the first call counts.
    pub fn identify(&self, incarnation: Incarnation) {
        let _ = self.0.identity.incarnation.set(incarnation);
    }

    /// The cluster is known: lanes are opened and accepted from now on. Only the first call counts.
    pub fn enter(&self, cluster: ClusterId) {
        let _ = self.0.identity.cluster.set(cluster);
    }

    /// Who answers what concerns the broker as a whole; until then it is refused as not ready.
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
    pub fn peer(&self, _broker: BrokerId) -> Option<PeerIdentity> {
        None
    }

    /// Asks a broker something that concerns it as a whole, on the control lane.
    ///
    /// # Errors
    /// No answer, and whether it was asked is not known; or it refused.
    pub async fn node_call(
        &self,
        broker: BrokerId,
        _request: NodeRequest,
        _within: Duration,
    ) -> Result<NodeResponse, CallError> {
        Err(CallError::Unreachable(broker, "no connection".to_owned()))
    }

    /// Asks who listens at an address, on a connection of its own.
    ///
    /// # Errors
    /// `Unavailable`: nobody was reached; else what was answered.
    pub async fn probe(
        &self,
        _address: &str,
        _request: ProbeRequest,
        _within: Duration,
    ) -> Result<ProbeResponse, Status> {
        Err(Status::unavailable("no connection"))
    }

    /// Asks whoever listens at an address to let this broker join its cluster.
    ///
    /// # Errors
    /// As [`Transport::probe`].
    pub async fn join(
        &self,
        _address: &str,
        _request: JoinRequest,
        _within: Duration,
    ) -> Result<JoinResponse, Status> {
        Err(Status::unavailable("no connection"))
    }

    /// Whether appends to that replica of another broker are recovery traffic, and share its rate; snapshots
    /// always do.
    pub fn throttle(&self, _group: GroupId, _replica: ReplicaId, _catching_up: bool) {}

    /// Serves a connection that another broker opened, to its end or the end of the drain.
    ///
    /// # Errors
    /// What the other side did wrong, in words.
    pub async fn serve<S: PeerStream>(&self, _stream: S, _drain: &CancellationToken) -> Result<(), String> {
        Err(format!("not served (frames of at most {} bytes)", self.0.settings.message_bytes_max))
    }

    /// Ends every connection; calls fail from now on.
    pub async fn close(&self) {}
}

#[async_trait]
impl Messenger for Transport {
    async fn call(
        &self,
        peer: Peer,
        _lane: Lane,
        _request: GroupRequest,
        _within: Duration,
    ) -> Result<Bytes, CallError> {
        Err(CallError::Unreachable(peer.broker_id, "no connection".to_owned()))
    }
}
