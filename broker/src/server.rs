//! The broker as a whole: start, addresses, stop.
//!
//! Invariants: every address is bound before the data directory is opened, and nothing is answered to
//! clients until the node is up (connections queue meanwhile; HTTP answers what the start waits for, and other brokers
//! are answered from the first moment: the node may need them to come up); a stop gives leadership away, ends requests
//! of clients before it closes the log, those of other brokers after, and returns with everything durable.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use headwater_consensus::transport::Transport;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, HostPort};
use crate::controller::Identity;
use crate::env::{Env, Listener};
use crate::grpc;
use crate::host::{Beginning, Host};
use crate::http::{HttpProtocol, Subject};
use crate::limits::{ConnectionLimits, MemoryBudget};
use crate::listener::{self, AcceptLoop, GrpcProtocol, PeerProtocol, Protocol, Stop, Unserved};
use crate::metrics::{self, Exposition};
use crate::node::{Node, NodeError};

/// How long requests that were cut off may take to notice.
const CUT_GRACE: Duration = Duration::from_secs(1);
/// Connections of other brokers, three from each: apart from those of clients, so that no client keeps a broker out.
const PEER_CONNECTIONS_MAX: usize = 512;

/// Why a broker does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {address} ({setting}): {source}")]
    Bind { setting: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Bound addresses, with real ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub kafka: SocketAddr,
    pub grpc: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
}

/// What others are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    pub kafka: HostPort,
    pub grpc: HostPort,
    pub peer: HostPort,
    pub http: HostPort,
}

/// What the node is given.
#[derive(Debug, Clone)]
pub struct NodeContext {
    pub config: Arc<Config>,
    pub env: Env,
    pub advertised: Advertised,
    /// To the other brokers. It serves already, and asks the node once the node says who it is.
    pub transport: Transport,
    /// Cancelled when the broker stops: streams that would go on for ever end then, after answering
    /// what they have read.
    pub drain: CancellationToken,
}

/// A running broker.
pub struct Broker {
    host: Arc<Host>,
    status: Arc<Status>,
    addresses: Addresses,
    config: Arc<Config>,
    clients: Served,
    /// Other brokers are answered until the log is closed.
    peers: Served,
    /// HTTP outlives the others, to tell of the drain.
    http: Served,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Broker {
    /// Binds, recovers, serves. Must be called in a tokio runtime; every task runs there. A broker that must ask others
    /// before it belongs to a cluster does so in the background: see [`Broker::failed`].
    ///
    /// # Errors
    /// An address that cannot be bound, or a data directory that cannot be used. Nothing is left
    /// running then.
    pub async fn start(config: Config, env: Env) -> Result<Self, StartError> {
        let started = Instant::now();
        let config = Arc::new(config);
        let bound = Bound::bind(&config, &env).await?;
        let addresses = bound.addresses();
        let status = Arc::new(Status::new(MemoryBudget::new(
            config.requests.in_flight_bytes_total,
            config.requests.in_flight_bytes_per_connection,
        )));

        let (clients, peers, http) = (Served::default(), Served::default(), Served::default());
        let limits = ConnectionLimits::new(config.http.connections_max, config.connections.per_ip_max);
        http.accept("http", bound.http, Arc::new(HttpProtocol::new(status.clone(), &config)), limits);
        http.tasks.spawn(upkeep(http.stop.drain.clone()));

        let advertised = addresses.advertised(&config);
        let transport = listener::transport(&config, &env, &advertised.peer);
        let limits = ConnectionLimits::new(PEER_CONNECTIONS_MAX, PEER_CONNECTIONS_MAX);
        peers.accept("peer", bound.peer, Arc::new(PeerProtocol::new(transport.clone())), limits);

        let drain = clients.stop.drain.clone();
        let context =
            NodeContext { config: config.clone(), env, advertised, transport: transport.clone(), drain };
        let doors = Doors {
            grpc: bound.grpc,
            kafka: bound.kafka,
            addresses,
            config: config.clone(),
            status: status.clone(),
            clients: clients.clone(),
            started,
        };
        match Self::begin(context, doors).await {
            Ok(host) => Ok(Self { host, status, addresses, config, clients, peers, http }),
            Err(error) => {
                transport.close().await;
                peers.finish(Duration::ZERO).await;
                http.finish(Duration::ZERO).await;
                Err(error.into())
            }
        }
    }

    /// Starts the node, or has it started once the broker has entered a cluster.
    async fn begin(context: NodeContext, doors: Doors) -> Result<Arc<Host>, NodeError> {
        let host = Host::open(context).await?;
        doors.status.opened(host.clone());
        let begun = match host.begin().await {
            Ok(Beginning::Member(identity)) => {
                match Box::pin(Node::start(host.clone(), identity.clone())).await {
                    Ok(node) => {
                        doors.open(&node);
                        Ok(())
                    }
                    Err(NodeError::MetadataDamaged { .. }) if host.has_others(&identity) => {
                        doors.enter(&host, Some(identity));
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Ok(Beginning::Stranger) => {
                doors.enter(&host, None);
                Ok(())
            }
            Ok(Beginning::Returning(identity)) => {
                doors.enter(&host, Some(identity));
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            host.close().await;
            return Err(error);
        }
        Ok(host)
    }

    /// The addresses in use.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The broker behind the listeners, once it belongs to a cluster.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.status.node.get().cloned()
    }

    /// Resolves when the broker cannot go on, and says why: no cluster takes it, say. It is to be shut down then.
    pub async fn failed(&self) -> Arc<NodeError> {
        self.host.failed().await
    }

    /// Gives leadership away, stops taking requests, finishes those under way, closes the log cleanly and frees the
    /// addresses. Leadership and requests have `drain_timeout_ms` together.
    pub async fn shutdown(self) {
        let started = Instant::now();
        self.status.draining.cancel();
        let timeout = Duration::from_millis(self.config.broker.drain_timeout_ms);
        if let Some(node) = self.node() {
            node.hand_over(timeout / 2).await;
        }
        if !self.clients.finish(timeout.saturating_sub(started.elapsed())).await {
            warn!(
                drain_timeout_ms = self.config.broker.drain_timeout_ms,
                "connections were cut at the end of the drain"
            );
        }
        match self.node() {
            Some(node) => node.shutdown().await,
            None => self.host.close().await,
        }
        self.peers.finish(Duration::ZERO).await;
        self.http.finish(Duration::ZERO).await;
        info!(took_ms = millis(started), "stopped");
    }
}

/// Starts the node of a broker that has to enter a cluster first, or again, unless it is stopped before.
async fn enter(host: Arc<Host>, doors: Doors, before: Option<Identity>) {
    let drain = doors.clients.stop.drain.clone();
    let entered = async {
        match &before {
            None => host.enter().await,
            Some(before) => host.rejoin(before).await,
        }
    };
    let identity = tokio::select! {
        identity = entered => identity,
        () = drain.cancelled() => return,
    };
    let started = match identity {
        Ok(identity) => Box::pin(Node::start(host.clone(), identity)).await,
        Err(error) => Err(error),
    };
    match started {
        Ok(node) => doors.open(&node),
        Err(error) => host.fail(error),
    }
}

/// The listeners for clients, shut until there is a node behind them.
struct Doors {
    grpc: Box<dyn Listener>,
    kafka: Box<dyn Listener>,
    addresses: Addresses,
    config: Arc<Config>,
    status: Arc<Status>,
    clients: Served,
    started: Instant,
}

impl Doors {
    /// Opens them in the background, once the broker has entered a cluster.
    fn enter(self, host: &Arc<Host>, before: Option<Identity>) {
        let tasks = self.clients.tasks.clone();
        tasks.spawn(enter(Arc::clone(host), self, before));
    }

    fn open(self, node: &Arc<Node>) {
        let Self { config, status, clients, .. } = self;
        let (memory, tasks) = (status.memory.clone(), clients.tasks.clone());
        let grpc = GrpcProtocol::new(grpc::routes(node), config.clone(), memory, tasks);
        let limits = ConnectionLimits::new(config.connections.total_max, config.connections.per_ip_max);
        clients.accept("grpc", self.grpc, Arc::new(grpc), limits.clone());
        clients.accept("kafka", self.kafka, Arc::new(Unserved { protocol: "the Kafka protocol" }), limits);
        status.serving(node.clone());
        announce(&config, &self.addresses, self.started);
    }
}

/// What serves one kind of caller, and ends as one.
#[derive(Clone, Default)]
struct Served {
    stop: Stop,
    tasks: TaskTracker,
}

impl Served {
    fn accept(
        &self,
        name: &'static str,
        listener: Box<dyn Listener>,
        protocol: Arc<dyn Protocol>,
        limits: ConnectionLimits,
    ) {
        let (stop, tasks) = (self.stop.clone(), self.tasks.clone());
        self.tasks.spawn(AcceptLoop { name, listener, protocol, limits, stop, tasks }.run());
    }

    /// Drains, then cuts; whether the drain sufficed.
    async fn finish(&self, timeout: Duration) -> bool {
        self.tasks.close();
        self.stop.drain.cancel();
        let drained = tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok();
        if !drained {
            self.stop.cut.cancel();
            // A handler that does not notice is left behind; the log refuses it once it is closed.
            let _ = tokio::time::timeout(CUT_GRACE, self.tasks.wait()).await;
        }
        drained
    }
}

async fn upkeep(stop: CancellationToken) {
    let recorder = metrics::recorder();
    while tokio::time::timeout(metrics::UPKEEP_INTERVAL, stop.cancelled()).await.is_err() {
        recorder.run_upkeep();
    }
}

fn announce(config: &Config, addresses: &Addresses, started: Instant) {
    let named = [("grpc", addresses.grpc), ("kafka", addresses.kafka), ("peer", addresses.peer)];
    for (listener, address) in named {
        if !address.ip().is_loopback() {
            warn!(listener, %address, "reachable from other hosts, and this build has no authentication");
        }
    }
    info!(
        node_id = config.broker.node_id,
        data_dir = %config.broker.data_dir.display(),
        kafka = %addresses.kafka,
        grpc = %addresses.grpc,
        peer = %addresses.peer,
        http = %addresses.http,
        took_ms = millis(started),
        "ready"
    );
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The four listeners, bound but not yet accepting.
struct Bound {
    kafka: Box<dyn Listener>,
    grpc: Box<dyn Listener>,
    peer: Box<dyn Listener>,
    http: Box<dyn Listener>,
}

impl Bound {
    async fn bind(config: &Config, env: &Env) -> Result<Self, StartError> {
        let broker = &config.broker;
        Ok(Self {
            kafka: bind(env, "kafka_addr", broker.kafka_addr).await?,
            grpc: bind(env, "grpc_addr", broker.grpc_addr).await?,
            peer: bind(env, "peer_addr", broker.peer_addr).await?,
            http: bind(env, "http_addr", broker.http_addr).await?,
        })
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            kafka: self.kafka.local_addr(),
            grpc: self.grpc.local_addr(),
            peer: self.peer.local_addr(),
            http: self.http.local_addr(),
        }
    }
}

async fn bind(
    env: &Env,
    setting: &'static str,
    address: SocketAddr,
) -> Result<Box<dyn Listener>, StartError> {
    env.network.bind(address).await.map_err(|source| StartError::Bind { setting, address, source })
}

impl Addresses {
    fn advertised(&self, config: &Config) -> Advertised {
        let broker = &config.broker;
        Advertised {
            kafka: advertised(self.kafka, broker.kafka_advertised_addr.as_ref()),
            grpc: advertised(self.grpc, broker.grpc_advertised_addr.as_ref()),
            peer: advertised(self.peer, broker.peer_advertised_addr.as_ref()),
            http: advertised(self.http, broker.http_advertised_addr.as_ref()),
        }
    }
}

fn advertised(bound: SocketAddr, configured: Option<&HostPort>) -> HostPort {
    match configured {
        Some(HostPort { host, port: 0 }) => HostPort { host: host.clone(), port: bound.port() },
        Some(configured) => configured.clone(),
        None => HostPort { host: bound.ip().to_string(), port: bound.port() },
    }
}

/// What HTTP shows: the broker from its first to its last moment.
struct Status {
    host: OnceLock<Arc<Host>>,
    node: OnceLock<Arc<Node>>,
    draining: CancellationToken,
    memory: MemoryBudget,
}

impl Status {
    fn new(memory: MemoryBudget) -> Self {
        // Installed before anything records.
        metrics::recorder();
        Self { host: OnceLock::new(), node: OnceLock::new(), draining: CancellationToken::new(), memory }
    }

    fn opened(&self, host: Arc<Host>) {
        let _ = self.host.set(host);
    }

    fn serving(&self, node: Arc<Node>) {
        // Called once, by the start.
        let _ = self.node.set(node);
    }
}

impl Subject for Status {
    fn unready(&self) -> Option<String> {
        match self.node.get() {
            None => {
                let waiting = self.host.get().map(|host| host.waiting());
                Some(waiting.filter(|waiting| !waiting.is_empty()).unwrap_or_else(|| "starting".to_owned()))
            }
            Some(_) if self.draining.is_cancelled() => Some("draining".to_owned()),
            Some(node) => node.unready(),
        }
    }

    fn metrics(&self) -> String {
        let mut out = Exposition::default();
        out.gauge("headwater_build_info", "Always 1; the version is its label.");
        out.sample("headwater_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
        out.gauge("headwater_ready", "1 while the broker serves, else 0.");
        out.sample("headwater_ready", &[], u8::from(self.unready().is_none()));
        out.gauge("headwater_requests_in_flight_bytes", "Memory charged to unanswered messages.");
        out.sample("headwater_requests_in_flight_bytes", &[], self.memory.used_bytes());
        if let Some(node) = self.node.get() {
            node.scrape(&mut out);
        }
        metrics::recorder().render() + &out.into_text()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_advertised() {
        let bound = "127.0.0.1:4242".parse().unwrap();
        let cases =
            [(None, "127.0.0.1:4242"), (Some("broker-1:0"), "broker-1:4242"), (Some("b:9093"), "b:9093")];
        for (configured, expected) in cases {
            let configured: Option<HostPort> = configured.map(|text| text.parse().unwrap());
            assert_eq!(advertised(bound, configured.as_ref()).to_string(), expected);
        }
    }
}
