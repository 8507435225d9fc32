//! How many connections may be open, in total and from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bound that a refused connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Total,
    PerIp,
}

impl Refused {
    /// The setting to raise.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Total => "connections.total_max",
            Self::PerIp => "connections.per_ip_max",
        }
    }
}

/// Counts open connections. Cheap to clone; clones share the count.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    total_max: usize,
    per_ip_max: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    /// Never holds a zero, so that its size is bounded by `total`.
    per_ip: BTreeMap<IpAddr, usize>,
}

impl ConnectionLimits {
    #[must_use]
    pub fn new(total_max: usize, per_ip_max: usize) -> Self {
        Self { total_max, per_ip_max, open: Arc::default() }
    }

    /// Counts a connection from `ip` until the permit is dropped.
    ///
    /// # Errors
    /// The bound that was met.
    pub fn admit(&self, ip: IpAddr) -> Result<ConnectionPermit, Refused> {
        let ip = ip.to_canonical();
        let mut open = lock(&self.open);
        if open.total >= self.total_max {
            return Err(Refused::Total);
        }
        let from_ip = open.per_ip.get(&ip).copied().unwrap_or(0);
        if from_ip >= self.per_ip_max {
            return Err(Refused::PerIp);
        }
        open.total += 1;
        open.per_ip.insert(ip, from_ip + 1);
        Ok(ConnectionPermit { ip, open: self.open.clone() })
    }
}

/// One counted connection.
#[derive(Debug)]
pub struct ConnectionPermit {
    ip: IpAddr,
    open: Arc<Mutex<Open>>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        match open.per_ip.get_mut(&self.ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.per_ip.remove(&self.ip)),
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_bounds_hold_and_permits_come_back() {
        let limits = ConnectionLimits::new(3, 2);
        let [a, b, c]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap());
        let first = limits.admit(a).unwrap();
        let _second = limits.admit(a).unwrap();
        assert_eq!(limits.admit(a).unwrap_err(), Refused::PerIp);
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(limits.admit(mapped).unwrap_err(), Refused::PerIp, "the same host through IPv6");
        let third = limits.admit(b).unwrap();
        assert_eq!(limits.admit(c).unwrap_err(), Refused::Total);
        drop(third);
        drop(first);
        let _again = limits.admit(a).unwrap();
        assert_eq!(limits.admit(a).unwrap_err(), Refused::PerIp);
        assert_eq!(lock(&limits.open).per_ip.len(), 1, "an address without connections is forgotten");
    }
}
