//! The world as the broker sees it: disk, clock, entropy and network, all injected.
//!
//! Invariants: nothing in the product reads a wall clock, draws randomness or opens a socket except
//! through an [`Env`]; only `main` builds the real one. Time-outs and intervals use `tokio::time`,
//! which a simulation pauses and drives. Hence a whole broker runs in one thread from one seed.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use headwater_proto::types::TimestampMs;
use headwater_storage::disk::Disk;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;

/// Everything outside the process that the broker may touch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Env {
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub network: Arc<dyn Network>,
}

/// Wall-clock time, for timestamps and retention only: it may jump, so nothing waits by it.
pub trait Clock: Send + Sync + Debug + 'static {
    fn now(&self) -> TimestampMs;
}

/// A source of identities and seeds.
pub trait Entropy: Send + Sync + Debug + 'static {
    fn next_u64(&self) -> u64;
}

/// Where listeners come from, and connections to other brokers.
#[async_trait]
pub trait Network: Send + Sync + Debug + 'static {
    /// Listens on `addr`; port 0 takes a free one, which [`Listener::local_addr`] tells.
    async fn bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>>;

    /// Connects to `HOST:PORT`. The caller bounds the wait.
    async fn connect(&self, address: &str) -> io::Result<BoxedStream>;
}

/// A bound address that yields connections.
#[async_trait]
pub trait Listener: Send + Debug + 'static {
    /// The next connection and its peer. Must be cancellation safe. An error concerns one connection
    /// or a passing shortage (of file descriptors, say): the caller waits a little and calls again.
    async fn accept(&mut self) -> io::Result<(BoxedStream, SocketAddr)>;

    /// The address in use, with the real port.
    fn local_addr(&self) -> SocketAddr;
}

/// A connection, as an ordered stream of bytes each way.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection of any transport.
pub type BoxedStream = Box<dyn Stream>;

/// The computer's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TimestampMs {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A generator seeded once by the operating system, so that drawing from it cannot fail.
#[derive(Debug)]
pub struct OsEntropy(Mutex<StdRng>);

impl OsEntropy {
    /// # Errors
    /// The operating system gave no randomness.
    pub fn new() -> io::Result<Self> {
        let rng = StdRng::try_from_rng(&mut SysRng).map_err(io::Error::other)?;
        Ok(Self(Mutex::new(rng)))
    }
}

impl Entropy for OsEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

/// TCP of the operating system, without Nagle's delay.
#[derive(Debug, Default)]
pub struct TcpNetwork {
    /// Where outgoing connections come from; `None`: as the routes say.
    pub source: Option<IpAddr>,
}

impl TcpNetwork {
    /// Connections to other brokers come from the address of the own peer listener, where that is one address:
    /// a firewall between brokers then knows them by it.
    #[must_use]
    pub fn from_listener(peer_addr: SocketAddr) -> Self {
        let ip = peer_addr.ip();
        Self { source: (!ip.is_unspecified()).then_some(ip) }
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await
    }
}

#[async_trait]
impl Network for TcpNetwork {
    async fn bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let listener = tokio::net::TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Box::new(TcpListener { listener, local_addr }))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
        for address in tokio::net::lookup_host(address).await? {
            match self.dial(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Box::new(stream));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

#[derive(Debug)]
struct TcpListener {
    listener: tokio::net::TcpListener,
    local_addr: SocketAddr,
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxedStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}
