//! What a client is told when it is made.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::ClientError;
use crate::ambient;

/// A byte stream to a broker.
pub trait BoxedConnection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> BoxedConnection for T {}

/// What [`Connect::connect`] returns.
pub type ConnectFuture = Pin<Box<dyn Future<Output = io::Result<Box<dyn BoxedConnection>>> + Send>>;

/// Opens connections: the seam for a simulated network.
pub trait Connect: Send + Sync {
    /// Connects to `HOST:PORT`. The caller bounds the wait.
    fn connect(&self, address: String) -> ConnectFuture;
}

/// Every function from an address to a connection is a connector.
impl<F> Connect for F
where
    F: Fn(String) -> ConnectFuture + Send + Sync,
{
    fn connect(&self, address: String) -> ConnectFuture {
        self(address)
    }
}

/// A shared [`Connect`].
pub type Connector = Arc<dyn Connect>;

/// Milliseconds since the Unix epoch, for record timestamps.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How long to wait between attempts: `initial`, then twice as long each time up to `max`, less a
/// random part of up to half, so that clients of one broker don't return in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Default 20 ms.
    pub initial: Duration,
    /// Default 1 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(20), max: Duration::from_secs(1) }
    }
}

/// Settings of a [`Client`](crate::Client).
#[derive(Clone)]
pub struct ClientConfig {
    /// Where to learn of the cluster: gRPC addresses, `HOST:PORT`. Default `127.0.0.1:9093`.
    pub brokers: Vec<String>,
    /// Names this client in the broker's logs. Default `headwater-client`.
    pub client_id: String,
    /// Bound on opening one connection. Default 5 s.
    pub connect_timeout: Duration,
    /// Bound on one request, its retries included; also on the silence of a broker that owes an
    /// answer before its connection counts as lost. Default 30 s.
    pub request_timeout: Duration,
    /// Bound on [`Client::connect`](crate::Client::connect): a broker that is just starting is
    /// waited for. Default 10 s.
    pub bootstrap_timeout: Duration,
    /// Pace of all retries and reconnects. While a partition's leader is looked for, the pauses stay
    /// below 150 ms for the first seconds.
    pub retry: Backoff,
    /// What is known of topics and leaders is looked up again at this age, so that new partitions and
    /// brokers are found. Errors and leader hints of brokers correct it at once. Default 5 min.
    pub metadata_max_age: Duration,
    /// A leader that owes an answer for so long may have been replaced: another broker is asked who
    /// leads. Also the first bound on the wait for an answer that any other broker could give.
    /// Default 500 ms.
    pub leader_check: Duration,
    /// Where this client is. Consumers then read from a replica whose broker has the same rack, if one
    /// is caught up, and from the leader otherwise. Default none: always from the leader.
    pub rack: Option<String>,
    /// Bytes that a broker may send ahead on one stream (HTTP/2 window); half of what it may on one
    /// connection. 64 KiB to 1 GiB. Default 16 MiB.
    pub receive_window_bytes: u32,
    /// How connections are opened; `None` is TCP.
    pub connector: Option<Connector>,
    /// Default timestamps of records.
    pub clock: Clock,
    /// Seed of jitter and of the partitions that records without a key stick to; `None` draws one.
    pub seed: Option<u64>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9093".to_owned()],
            client_id: "headwater-client".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            bootstrap_timeout: Duration::from_secs(10),
            retry: Backoff::default(),
            metadata_max_age: Duration::from_secs(300),
            leader_check: Duration::from_millis(500),
            rack: None,
            receive_window_bytes: 16 << 20,
            connector: None,
            clock: Arc::new(ambient::wall_clock_ms),
            seed: None,
        }
    }
}

impl ClientConfig {
    /// The defaults, for a cluster that is found at `brokers` (`HOST:PORT` each).
    pub fn new<S: Into<String>>(brokers: impl IntoIterator<Item = S>) -> Self {
        Self { brokers: brokers.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |what: String| Err(ClientError::Config { what });
        if self.brokers.is_empty() {
            return refuse("no broker address is given; name at least one HOST:PORT".to_owned());
        }
        for address in &self.brokers {
            let port = address.rsplit_once(':').and_then(|(host, port)| {
                port.parse::<u16>().ok().filter(|port| *port != 0 && !host.is_empty())
            });
            if port.is_none() {
                return refuse(format!("broker address {address:?} is not of the form HOST:PORT"));
            }
        }
        if self.leader_check < Duration::from_millis(10) || self.metadata_max_age < self.leader_check {
            return refuse(
                "leader_check must be at least 10 ms, and metadata_max_age no shorter than it".to_owned(),
            );
        }
        if !((64 << 10)..=(1 << 30)).contains(&self.receive_window_bytes) {
            let bytes = self.receive_window_bytes;
            return refuse(format!("receive_window_bytes is {bytes}; it must be from 64 KiB to 1 GiB"));
        }
        Ok(())
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("rack", &self.rack)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
