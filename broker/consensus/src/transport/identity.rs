//! Who speaks on a connection, and who may.
//!
//! Invariant: both sides of a connection name their data directory, and each refuses any but the one that it means:
//! an emptied disk, a copied one or a broker of another cluster is no peer.

use std::sync::OnceLock;

use bytes::Bytes;
use headwater_proto::types::{BrokerId, ClusterId, Incarnation};
use headwater_proto::v1;
use tonic::Status;

use super::convert::{LANES, lane_number};
use super::settings::ProtocolRange;
use crate::peer::Lane;

/// Of addresses and versions that a peer tells.
const TEXT_BYTES_MAX: usize = 512;

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

/// A greeting that was accepted.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) peer: PeerIdentity,
    pub(super) lane: Lane,
    pub(super) peer_address: String,
}

/// What is learned about this broker as it starts.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) local: LocalBroker,
    pub(super) protocol: ProtocolRange,
    incarnation: OnceLock<Incarnation>,
    cluster: OnceLock<ClusterId>,
}

impl Identity {
    pub(super) const fn new(local: LocalBroker, protocol: ProtocolRange) -> Self {
        Self { local, protocol, incarnation: OnceLock::new(), cluster: OnceLock::new() }
    }

    pub(super) fn set_incarnation(&self, incarnation: Incarnation) {
        let _ = self.incarnation.set(incarnation);
    }

    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        let _ = self.cluster.set(cluster);
    }

    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation.get().copied()
    }

    /// Data directory and cluster, once both are known.
    pub(super) fn member(&self) -> Option<(Incarnation, ClusterId)> {
        self.incarnation().zip(self.cluster.get().copied())
    }

    /// What this broker says first; `None` while it is in no cluster.
    pub(super) fn hello(&self, to: BrokerId, expected: Option<Incarnation>, lane: Lane) -> Option<v1::Hello> {
        let (incarnation, cluster) = self.member()?;
        Some(v1::Hello {
            cluster_id: Bytes::copy_from_slice(&cluster.0),
            broker_id: self.local.broker_id.get(),
            incarnation: Bytes::copy_from_slice(&incarnation.0),
            boot_id: self.local.boot_id,
            peer_address: self.local.peer_address.clone(),
            software_version: self.local.software_version.clone(),
            protocol_min: self.protocol.min,
            protocol_max: self.protocol.max,
            target_broker_id: to.get(),
            target_incarnation: expected.map_or_else(Bytes::new, |one| Bytes::copy_from_slice(&one.0)),
            lane: lane_number(lane),
        })
    }

    /// Looks at the first words of a caller; whether the metadata admits it is the handler's to say.
    ///
    /// # Errors
    /// `Unavailable`: this broker is not ready yet; else why the caller is refused, by name.
    pub(super) fn check_hello(&self, hello: &v1::Hello) -> Result<Greeting, Status> {
        let refuse = |why: String| Err(Status::failed_precondition(why));
        let Some((incarnation, cluster)) = self.member() else {
            return Err(Status::unavailable("this broker is in no cluster yet"));
        };
        let (own, caller) = (self.local.broker_id, BrokerId(hello.broker_id));
        let theirs = Incarnation(id(&hello.incarnation, "incarnation")?);
        let their_cluster = ClusterId(id(&hello.cluster_id, "cluster id")?);
        if their_cluster != cluster {
            return refuse(format!("this broker is of cluster {cluster}, and the caller of {their_cluster}"));
        }
        if hello.target_broker_id != own.get() {
            return refuse(format!("this is broker {own}, and broker {} was called", hello.target_broker_id));
        }
        if caller == own {
            return refuse(format!("the caller claims to be broker {own}, which is this one"));
        }
        if !hello.target_incarnation.is_empty() {
            let meant = Incarnation(id(&hello.target_incarnation, "incarnation")?);
            if meant != incarnation {
                return refuse(format!("this is data directory {incarnation}, and {meant} was called"));
            }
        }
        let range = ProtocolRange { min: hello.protocol_min, max: hello.protocol_max };
        let Some(protocol) = self.protocol.common(range) else {
            let (ours, theirs) = (self.protocol, range);
            return refuse(format!(
                "this broker speaks versions {} to {} of the peer protocol, and the caller {} to {}",
                ours.min, ours.max, theirs.min, theirs.max
            ));
        };
        let Some(lane) = LANES.into_iter().find(|lane| lane_number(*lane) == hello.lane) else {
            return refuse(format!("there is no lane {}", hello.lane));
        };
        if hello.peer_address.len() > TEXT_BYTES_MAX || hello.software_version.len() > TEXT_BYTES_MAX {
            return refuse("an address or version longer than any".to_owned());
        }
        let peer = PeerIdentity {
            broker_id: caller,
            incarnation: theirs,
            boot_id: hello.boot_id,
            software_version: hello.software_version.clone(),
            protocol,
        };
        Ok(Greeting { peer, lane, peer_address: hello.peer_address.clone() })
    }

    /// The answer to a greeting.
    pub(super) fn hello_reply(&self, protocol: u32) -> v1::HelloReply {
        let incarnation = self.incarnation().unwrap_or_default();
        v1::HelloReply {
            broker_id: self.local.broker_id.get(),
            incarnation: Bytes::copy_from_slice(&incarnation.0),
            boot_id: self.local.boot_id,
            software_version: self.local.software_version.clone(),
            protocol,
        }
    }

    /// Looks at the answer to a greeting.
    pub(super) fn check_reply(
        &self,
        to: BrokerId,
        expected: Option<Incarnation>,
        reply: v1::HelloReply,
    ) -> Result<PeerIdentity, String> {
        let incarnation =
            Incarnation(id(&reply.incarnation, "incarnation").map_err(|status| status.message().to_owned())?);
        if reply.broker_id != to.get() {
            return Err(format!("broker {} answers at its address", reply.broker_id));
        }
        if expected.is_some_and(|expected| expected != incarnation) {
            return Err(format!("it answers from another data directory, {incarnation}"));
        }
        if !(self.protocol.min..=self.protocol.max).contains(&reply.protocol) {
            return Err(format!("it speaks version {} of the peer protocol", reply.protocol));
        }
        Ok(PeerIdentity {
            broker_id: to,
            incarnation,
            boot_id: reply.boot_id,
            software_version: reply.software_version,
            protocol: reply.protocol,
        })
    }
}

fn id(bytes: &[u8], what: &str) -> Result<[u8; 16], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument(format!("an {what} of {} bytes", bytes.len())))
}
