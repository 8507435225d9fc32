//! Listeners: one accept loop for each, the same for every protocol.
//!
//! Invariants: a connection is counted against the limits before a byte of it is read, and until its
//! task ends; no failure of one connection reaches another or the loop; a loop ends only when told to.

mod connection;
mod grpc;
mod limiter;
mod metered;
mod peer;
mod preface;
mod unserved;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub use connection::{Activity, Ended, Graceful, drive};
pub use grpc::GrpcProtocol;
pub use limiter::LogLimiter;
pub use peer::{PeerProtocol, transport};
pub use unserved::Unserved;

use crate::env::{BoxedStream, Listener};
use crate::limits::ConnectionLimits;
use crate::metrics::ListenerMetrics;

/// Between two attempts to accept after a failure, which is most often a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Between two log lines of one kind that strangers can cause.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What a listener speaks.
#[async_trait]
pub trait Protocol: Send + Sync + 'static {
    /// Serves one connection to its end. Must return soon after `stop.drain` and at once after `stop.cut`.
    async fn serve(&self, stream: BoxedStream, peer: SocketAddr, stop: &Stop) -> Result<(), ConnectionError>;
}

/// Why a connection ended that neither side closed in good order: the peer's doing.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConnectionError {
    /// A word for the metric.
    pub reason: &'static str,
    /// A sentence for the log.
    pub message: String,
}

impl ConnectionError {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The two steps of a stop.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No new connections and requests; those under way are finished.
    pub drain: CancellationToken,
    /// Whatever is still open is dropped.
    pub cut: CancellationToken,
}

/// One accept loop and what it needs.
pub struct AcceptLoop {
    pub name: &'static str,
    pub listener: Box<dyn Listener>,
    pub protocol: Arc<dyn Protocol>,
    pub limits: ConnectionLimits,
    pub stop: Stop,
    /// Counts the tasks of connections, so that a drain can wait for them.
    pub tasks: TaskTracker,
}

impl AcceptLoop {
    /// Accepts until the drain begins; the address is free again on return.
    pub async fn run(mut self) {
        let metrics = ListenerMetrics::new(self.name);
        let log = Arc::new(LogLimiter::new(LOG_INTERVAL));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.drain.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &metrics, &log),
                Err(error) => {
                    metrics.accept_errors.increment(1);
                    if let Some(suppressed) = log.allow() {
                        warn!(listener = self.name, %error, suppressed, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn admit(&self, stream: BoxedStream, peer: SocketAddr, metrics: &ListenerMetrics, log: &Arc<LogLimiter>) {
        metrics.accepted.increment(1);
        let permit = match self.limits.admit(peer.ip()) {
            Ok(permit) => permit,
            Err(refused) => {
                metrics.refused(refused.setting());
                if let Some(suppressed) = log.allow() {
                    warn!(listener = self.name, %peer, limit = refused.setting(), suppressed, "connection refused");
                }
                return;
            }
        };
        let (name, protocol, stop) = (self.name, self.protocol.clone(), self.stop.clone());
        let (metrics, log) = (metrics.clone(), log.clone());
        self.tasks.spawn(async move {
            metrics.open.increment(1);
            let ended = protocol.serve(stream, peer, &stop).await;
            metrics.open.decrement(1);
            drop(permit);
            match ended {
                Ok(()) => debug!(listener = name, %peer, "connection closed"),
                Err(error) => {
                    metrics.failed(error.reason);
                    if let Some(suppressed) = log.allow() {
                        warn!(listener = name, %peer, reason = error.reason, suppressed, "connection closed: {error}");
                    }
                }
            }
        });
    }
}
