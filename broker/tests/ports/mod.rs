//! Addresses for brokers that must be known before they are bound, or again after a restart.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// A free address on the loopback. Below the ports that the kernel gives to outgoing connections, one of which would
/// otherwise take it while its broker is away; not given out twice by a process, nor soon by two side by side.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(7_919);
    let ports = (0..COUNT).map(|_| begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT);
    let mut addresses = ports.map(|n| SocketAddr::from(([127, 0, 0, 1], (FIRST + n) as u16)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a port is free")
}
