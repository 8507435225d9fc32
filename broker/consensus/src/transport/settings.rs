//! What the transport may take, and how long it waits.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::peer::Lane;

const MIB: usize = 1 << 20;

/// Versions of the peer protocol that a broker speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolRange {
    pub min: u32,
    pub max: u32,
}

impl ProtocolRange {
    /// What this build speaks.
    pub const CURRENT: Self = Self { min: 1, max: 1 };

    /// The highest version in both ranges.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

/// Bounds on one lane to or from one broker.
#[derive(Debug, Clone, Copy)]
pub struct LaneSettings {
    /// Requests waiting to be sent; callers wait for room. One request is always admitted.
    pub queue_bytes: usize,
    /// Requests received and not answered yet; the sender is stopped by flow control.
    pub receive_bytes: usize,
    /// Of HTTP/2.
    pub window_bytes: u32,
    /// Silence for this long is questioned by a ping.
    pub keepalive_interval: Duration,
    /// An unanswered ping closes the connection.
    pub keepalive_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct TransportSettings {
    pub protocol: ProtocolRange,
    /// One message, either way; a longer one is refused by its length.
    pub message_bytes_max: usize,
    pub control: LaneSettings,
    pub append: LaneSettings,
    pub snapshot: LaneSettings,
    /// To open a connection, and again to be greeted on it.
    pub connect_timeout: Duration,
    /// How long a heartbeat, or the reply to one, waits for company.
    pub gather: Duration,
    /// Between attempts to reach a broker, doubling, each shortened by up to a half at random.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Nobody has called a broker that cannot be reached for so long: attempts end.
    pub give_up_after: Duration,
    /// What goes to replicas that are being built; `None`: no limit.
    pub recovery_bytes_per_second: Option<NonZeroU64>,
}

impl TransportSettings {
    #[must_use]
    pub const fn lane(&self, lane: Lane) -> &LaneSettings {
        match lane {
            Lane::Control => &self.control,
            Lane::Append => &self.append,
            Lane::Snapshot => &self.snapshot,
        }
    }
}

impl Default for TransportSettings {
    fn default() -> Self {
        let control = LaneSettings {
            queue_bytes: 8 * MIB,
            receive_bytes: 16 * MIB,
            window_bytes: 1 << 20,
            // A peer gone without a word is noticed within a second.
            keepalive_interval: Duration::from_millis(400),
            keepalive_timeout: Duration::from_millis(500),
        };
        // A ping queues behind what is being sent, on a slow network for seconds.
        let append = LaneSettings {
            queue_bytes: 32 * MIB,
            receive_bytes: 64 * MIB,
            window_bytes: 16 << 20,
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(5),
        };
        let snapshot = LaneSettings { queue_bytes: 16 * MIB, receive_bytes: 32 * MIB, ..append };
        Self {
            protocol: ProtocolRange::CURRENT,
            message_bytes_max: 65 * MIB,
            control,
            append,
            snapshot,
            connect_timeout: Duration::from_secs(1),
            gather: Duration::from_millis(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            give_up_after: Duration::from_secs(10),
            recovery_bytes_per_second: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        let range = |min, max| ProtocolRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
        assert_eq!(range(1, 9).common(range(4, 4)), Some(4));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
    }
}
