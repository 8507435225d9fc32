//! Clock, entropy and network of a simulated host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use headwater_broker::env::{BoxedStream, Clock, Entropy, Listener, Network};
use headwater_client::{BoxedConnection, ConnectFuture, Connector};
use headwater_proto::types::TimestampMs;
use turmoil::net::TcpListener;

/// Wall-clock time at which every simulation begins.
pub const EPOCH_MS: i64 = 1_700_000_000_000;

/// Simulated time since [`EPOCH_MS`], the same on every host but for a clock that is set wrong.
#[derive(Debug, Default)]
pub struct SimClock {
    skew_ms: i64,
}

impl SimClock {
    /// A clock that is off by so much.
    #[must_use]
    pub const fn skewed(skew_ms: i64) -> Self {
        Self { skew_ms }
    }
}

impl Clock for SimClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(now_ms() + self.skew_ms)
    }
}

/// Milliseconds since the epoch, inside a simulated host.
#[must_use]
pub fn now_ms() -> i64 {
    EPOCH_MS + turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_millis() as i64)
}

/// Microseconds since the simulation began, inside a simulated host: the clock of a history.
#[must_use]
pub fn now_micros() -> u64 {
    turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_micros() as u64)
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
///
/// Invariant: different seeds, however they were derived from one another, give unrelated streams. All streams run over
/// one cycle in the same steps, so the seed is mixed before it becomes a place on it: else two seeds that differ by a few
/// steps give one stream, shifted, and two brokers draw the same identities (for topics, say, that a real one draws once).
#[derive(Debug)]
pub struct SimEntropy(AtomicU64);

impl SimEntropy {
    const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(mix(seed)))
    }

    /// A number below `bound`; 0 for a bound of 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}

impl Entropy for SimEntropy {
    fn next_u64(&self) -> u64 {
        mix(self.0.fetch_add(Self::INCREMENT, Ordering::Relaxed).wrapping_add(Self::INCREMENT))
    }
}

/// The output function of SplitMix64: a bijection.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// TCP of turmoil.
#[derive(Debug)]
pub struct SimNetwork;

#[async_trait]
impl Network for SimNetwork {
    async fn bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        // A simulated host listens on its one address, whatever loopback the configuration names.
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr.port());
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Box::new(SimListener { listener, local_addr }))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedStream> {
        Ok(Box::new(turmoil::net::TcpStream::connect(address).await?))
    }
}

struct SimListener {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimListener({})", self.local_addr)
    }
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxedStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

/// How a simulated client reaches `HOST:PORT`.
#[must_use]
pub fn connector() -> Connector {
    Arc::new(|address: String| -> ConnectFuture {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as Box<dyn BoxedConnection>)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_that_are_steps_apart_give_unrelated_streams() {
        const DRAWS: usize = 32;
        for seed in 0..1_000 {
            let steps = (0..8_u64).map(|step| step.wrapping_mul(SimEntropy::INCREMENT));
            let seeds: BTreeSet<_> = steps.flat_map(|step| [seed ^ step, seed.wrapping_add(step)]).collect();
            let streams = seeds.iter().map(|seed| SimEntropy::new(*seed));
            let drawn: BTreeSet<_> =
                streams.flat_map(|stream| (0..DRAWS).map(move |_| stream.next_u64())).collect();
            assert_eq!(drawn.len(), seeds.len() * DRAWS, "seed {seed}");
        }
    }
}
