//! A listener whose protocol this build does not speak: it says so and closes.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ConnectionError, Protocol, Stop};
use crate::env::BoxedStream;

/// How long a peer may take to close after us.
const LINGER: Duration = Duration::from_secs(1);
/// What is read meanwhile, so that the peer sees an end of stream and not a reset.
const LINGER_BYTES: u64 = 64 << 10;

/// Closes every connection in good order.
pub struct Unserved {
    /// The protocol, for the log.
    pub protocol: &'static str,
}

#[async_trait]
impl Protocol for Unserved {
    async fn serve(
        &self,
        mut stream: BoxedStream,
        _peer: SocketAddr,
        stop: &Stop,
    ) -> Result<(), ConnectionError> {
        let close = async {
            // The peer may be gone already: then there is nobody left to be polite to.
            if stream.shutdown().await.is_ok() {
                let mut rest = stream.take(LINGER_BYTES);
                let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(LINGER, close) => {}
            () = stop.drain.cancelled() => {}
        }
        Err(ConnectionError::new("not_served", format!("this build does not serve {}", self.protocol)))
    }
}
