//! The links between brokers, as proxies that can break them.
//!
//! Each broker advertises its proxy to its peers; a proxy knows who connects by the source address, for each broker
//! connects from the address of its own peer listener. A link has a state for each direction, so that partitions can be
//! one-sided. Bytes are never lost or reordered, as TCP's are not: a loss is a pause, a dark link holds bytes back.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::sim::world::SimEntropy;
use headwater_broker::env::Entropy;

/// Bytes taken in one step.
const CHUNK_BYTES: usize = 64 << 10;
/// Steps that are under way on a slow link.
const UNDER_WAY: usize = 256;

/// What one direction of a link does to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Nothing passes, nobody is told; what was sent arrives when the link is up again.
    Dark,
    /// Each step arrives so much later.
    Slow(Duration),
    /// One step in `one_in` is late, as after a lost packet and its repetition.
    Lossy {
        one_in: u64,
        late: Duration,
    },
    /// Connections are reset, and refused.
    Cut,
}

/// From one broker to another.
type Direction = (usize, usize);

/// The links of all pairs of brokers.
#[derive(Debug, Clone)]
pub struct Links {
    directions: Arc<Mutex<BTreeMap<Direction, watch::Sender<Link>>>>,
    entropy: Arc<SimEntropy>,
}

/// The loopback address from which broker `id` connects to others, and on which its peer listener is.
#[must_use]
pub fn own_ip(id: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, id as u8))
}

impl Links {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { directions: Arc::default(), entropy: Arc::new(SimEntropy::new(seed)) }
    }

    /// Opens the way to broker `id`, whose peer listener is at `target`; the address to advertise for it.
    pub async fn open(&self, id: usize, target: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let links = self.clone();
        tokio::spawn(async move {
            while let Ok((inbound, from)) = listener.accept().await {
                let from = match from.ip() {
                    IpAddr::V4(ip) => usize::from(ip.octets()[3]),
                    IpAddr::V6(_) => continue,
                };
                tokio::spawn(links.clone().carry(inbound, target, (from, id)));
            }
        });
        Ok(address)
    }

    /// Sets the state of the way from one broker to another.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.direction((from, to)).send_replace(link);
    }

    /// Sets all directions between two groups of brokers.
    pub fn between(&self, some: &[usize], others: &[usize], link: Link) {
        for &one in some {
            for &other in others {
                self.set(one, other, link);
                self.set(other, one, link);
            }
        }
    }

    pub fn heal(&self) {
        for direction in self.lock().values() {
            direction.send_replace(Link::Up);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Direction, watch::Sender<Link>>> {
        self.directions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn direction(&self, direction: Direction) -> watch::Sender<Link> {
        self.lock().entry(direction).or_insert_with(|| watch::Sender::new(Link::Up)).clone()
    }

    /// One connection, until either side ends it or its link is cut.
    async fn carry(self, inbound: TcpStream, target: SocketAddr, (from, to): Direction) {
        let (there, back) = (self.direction((from, to)), self.direction((to, from)));
        let mut cut = there.subscribe();
        if *cut.borrow_and_update() == Link::Cut {
            return;
        }
        let Ok(outbound) = TcpStream::connect(target).await else { return };
        // A connection that only delays its bytes is none.
        let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (inbound.into_split(), outbound.into_split());
        tokio::select! {
            () = pump(near_in, far_out, there.subscribe(), self.entropy.clone()) => {}
            () = pump(far_in, near_out, back.subscribe(), self.entropy.clone()) => {}
            _ = cut.wait_for(|link| *link == Link::Cut) => {}
        }
    }
}

/// Carries bytes one way, in order, each step when its link lets it.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    link: watch::Receiver<Link>,
    entropy: Arc<SimEntropy>,
) {
    let (queue, queued) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let state = link.clone();
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let Ok(count @ 1..) = from.read(&mut chunk).await else { return };
            chunk.truncate(count);
            let late = match *state.borrow() {
                Link::Slow(late) => late,
                Link::Lossy { one_in, late } if entropy.next_u64().is_multiple_of(one_in.max(1)) => late,
                _ => Duration::ZERO,
            };
            if queue.send((Instant::now() + late, chunk)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, deliver(queued, to, link));
}

async fn deliver(
    mut queued: tokio::sync::mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: impl AsyncWrite + Unpin,
    mut link: watch::Receiver<Link>,
) {
    while let Some((due, chunk)) = queued.recv().await {
        tokio::time::sleep_until(due).await;
        let lit = link.wait_for(|link| *link != Link::Dark).await.is_ok();
        if !lit || to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A server that sends back what it gets, and a connection to it through the links.
    async fn echo(links: &Links) -> TcpStream {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = links.open(2, target).await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(own_ip(1), 0)).unwrap();
        socket.connect(proxy).await.unwrap()
    }

    async fn round_trip(stream: &mut TcpStream, within: Duration) -> io::Result<[u8; 4]> {
        stream.write_all(b"ping").await?;
        let mut back = [0; 4];
        let read = tokio::time::timeout(within, stream.read_exact(&mut back)).await;
        read.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(back)
    }

    #[tokio::test]
    async fn a_dark_link_holds_bytes_back_until_it_is_up() {
        const SOON: Duration = Duration::from_millis(100);
        const PATIENT: Duration = Duration::from_secs(10);
        let links = Links::new(1);
        let mut stream = echo(&links).await;
        assert_eq!(&round_trip(&mut stream, PATIENT).await.unwrap(), b"ping");
        // One direction suffices to hold the answer back.
        links.set(2, 1, Link::Dark);
        assert!(round_trip(&mut stream, SOON).await.is_err());
        links.heal();
        let mut late = [0; 4];
        stream.read_exact(&mut late).await.unwrap();
        links.set(1, 2, Link::Slow(SOON));
        let begun = Instant::now();
        assert_eq!(&round_trip(&mut stream, PATIENT).await.unwrap(), b"ping");
        assert!(begun.elapsed() >= SOON);
    }

    #[tokio::test]
    async fn a_cut_link_ends_its_connections_and_takes_no_more() {
        let links = Links::new(1);
        let mut stream = echo(&links).await;
        links.between(&[1], &[2], Link::Cut);
        assert_eq!(stream.read(&mut [0; 4]).await.unwrap_or(0), 0);
    }
}
