//! When a leader hands over: to the preferred one, or because its own broker should lead nothing.
//!
//! Invariants: a broker is trusted to lead only after it has been alive for a while, and a leader gives way to the
//! preferred one only after it led for a while: leaders do not go back and forth while brokers come and go. Nobody is
//! made the preferred leader again while replicas are still brought to it: its producers would wait behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_core::metadata::{BrokerState, Partition};
use headwater_core::placement::better_leader;
use headwater_proto::types::BrokerId;
use tokio::time::Instant;

/// Since when each broker has been alive, without a break.
#[derive(Debug, Default)]
pub struct Steadiness(BTreeMap<BrokerId, Instant>);

impl Steadiness {
    /// Takes note of who is alive.
    pub fn note(&mut self, brokers: impl Iterator<Item = (BrokerId, bool)>, now: Instant) {
        let before = std::mem::take(&mut self.0);
        let alive = brokers.filter(|(_, alive)| *alive);
        self.0 = alive.map(|(broker, _)| (broker, *before.get(&broker).unwrap_or(&now))).collect();
    }

    fn is_steady(&self, broker: BrokerId, for_at_least: Duration, now: Instant) -> bool {
        self.0.get(&broker).is_some_and(|since| now.saturating_duration_since(*since) >= for_at_least)
    }
}

/// What is known of brokers as leaders.
pub struct Fitness<'a> {
    pub state_of: &'a dyn Fn(BrokerId) -> Option<BrokerState>,
    pub steadiness: &'a Steadiness,
    /// Whether some replica of a broker lacks anything.
    pub is_behind: &'a dyn Fn(BrokerId) -> bool,
    /// After how long the preferred leader leads again; `None`: leaders stay.
    pub balance_after: Option<Duration>,
    pub now: Instant,
}

impl Fitness<'_> {
    fn is_active(&self, broker: BrokerId) -> bool {
        (self.state_of)(broker) == Some(BrokerState::Active)
    }

    /// The broker to which `own`, which has led the partition since `led_since`, hands it over now.
    pub fn successor(
        &self,
        own: BrokerId,
        partition: &Partition,
        led_since: Instant,
        in_sync: impl Fn(BrokerId) -> bool,
    ) -> Option<BrokerId> {
        if (self.state_of)(own).is_some_and(|state| state != BrokerState::Active) {
            // It goes at once, and to anybody who is there.
            let may_lead = |broker| self.is_active(broker) && self.steadiness.0.contains_key(&broker);
            return better_leader(own, partition, |broker| broker != own && may_lead(broker), in_sync);
        }
        let after = self.balance_after?;
        if self.now.saturating_duration_since(led_since) < after {
            return None;
        }
        let is_fit = |broker| {
            self.is_active(broker)
                && self.steadiness.is_steady(broker, after, self.now)
                && !(self.is_behind)(broker)
        };
        better_leader(own, partition, |broker| broker == own || is_fit(broker), in_sync)
    }
}
