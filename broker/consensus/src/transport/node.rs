//! What the transport needs of the broker around it.

use std::io;

use async_trait::async_trait;
use headwater_proto::types::{BrokerId, Incarnation};
pub use headwater_proto::v1::node_request::Request as NodeRequest;
pub use headwater_proto::v1::node_response::Response as NodeResponse;
use headwater_proto::v1::{JoinRequest, JoinResponse, ProbeRequest, ProbeResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;

use super::identity::PeerIdentity;
use crate::peer::Refusal;

/// A connection, as an ordered stream of bytes each way.
pub trait PeerStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> PeerStream for T {}

/// Opens connections.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `HOST:PORT`, without Nagle's delay.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn PeerStream>>;
}

/// What brokers ask of one another apart from their replicas.
#[async_trait]
pub trait NodeHandler: Send + Sync + 'static {
    /// Whether the broker may call from that data directory: unless the metadata that this broker holds has retired
    /// it. A directory that the metadata does not know is let in; the metadata may be what is behind.
    fn admits(&self, broker: BrokerId, incarnation: Incarnation) -> bool;

    /// Requests of one broker begin in the order in which they were made, and may end in any.
    async fn answer(&self, from: &PeerIdentity, request: NodeRequest) -> Result<NodeResponse, Refusal>;

    async fn probe(&self, request: ProbeRequest) -> Result<ProbeResponse, Status>;

    async fn join(&self, request: JoinRequest) -> Result<JoinResponse, Status>;
}
