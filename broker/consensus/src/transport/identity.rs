//! Who speaks on a connection, and who may.

use std::sync::OnceLock;

use headwater_proto::types::{BrokerId, ClusterId, Incarnation};

/// This broker, as far as it is known before its data directory is open.
#[derive(Debug, Clone)]
pub struct LocalBroker {
    pub broker_id: BrokerId,
    /// Drawn at each start.
    pub boot_id: u64,
    /// Of the peer listener, as others are to dial it.
    pub peer_address: String,
    pub software_version: String,
}

/// The broker at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub broker_id: BrokerId,
    pub incarnation: Incarnation,
    pub boot_id: u64,
    pub software_version: String,
    /// The protocol version that the connection speaks.
    pub protocol: u32,
}

/// What is learned about this broker as it starts.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) local: LocalBroker,
    pub(super) incarnation: OnceLock<Incarnation>,
    pub(super) cluster: OnceLock<ClusterId>,
}

impl Identity {
    pub(super) const fn new(local: LocalBroker) -> Self {
        Self { local, incarnation: OnceLock::new(), cluster: OnceLock::new() }
    }
}
