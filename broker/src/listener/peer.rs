//! The listener for other brokers: hands each connection to the peer transport.

use std::net::SocketAddr;

use async_trait::async_trait;
use headwater_consensus::transport::Transport;

use super::{ConnectionError, Protocol, Stop};
use crate::env::BoxedStream;

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
