//! Connections with other brokers: what the peer listener accepts, and what is dialled.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use async_trait::async_trait;
use headwater_consensus::transport::{Dialer, LocalBroker, PeerStream, Transport, TransportSettings};
use headwater_proto::types::BrokerId;

use super::{ConnectionError, Protocol, Stop};
use crate::config::{Config, HostPort};
use crate::env::{BoxedStream, Env, Network};

/// What surrounds a batch between brokers, beyond what a client may send.
const OVERHEAD_BYTES: usize = 1 << 20;

/// The way to other brokers, before anything is known of this one but its configuration.
pub fn transport(config: &Config, env: &Env, advertised: &HostPort) -> Transport {
    let local = LocalBroker {
        broker_id: BrokerId(config.broker.node_id),
        boot_id: env.entropy.next_u64(),
        peer_address: advertised.to_string(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let settings = TransportSettings {
        message_bytes_max: config.requests.message_bytes_max + OVERHEAD_BYTES,
        recovery_bytes_per_second: NonZeroU64::new(config.cluster.recovery_bytes_per_second),
        ..TransportSettings::default()
    };
    let dialer = Arc::new(OverNetwork(Arc::clone(&env.network)));
    Transport::new(settings, local, dialer, Arc::default(), Arc::default(), env.entropy.next_u64())
}

/// Dials by the network of the environment.
struct OverNetwork(Arc<dyn Network>);

#[async_trait]
impl Dialer for OverNetwork {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn PeerStream>> {
        Ok(Box::new(self.0.connect(address).await?))
    }
}

/// Serves the peer protocol on every connection.
pub struct PeerProtocol {
    transport: Transport,
}

impl PeerProtocol {
    pub const fn new(transport: Transport) -> Self {
        Self { transport }
    }
}

#[async_trait]
impl Protocol for PeerProtocol {
    async fn serve(&self, stream: BoxedStream, _: SocketAddr, stop: &Stop) -> Result<(), ConnectionError> {
        tokio::select! {
            served = self.transport.serve(stream, &stop.drain) => {
                served.map_err(|message| ConnectionError::new("peer", message))
            }
            () = stop.cut.cancelled() => Ok(()),
        }
    }
}
