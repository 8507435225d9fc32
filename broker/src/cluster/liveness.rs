//! Which brokers are alive: those that were heard from lately.
//!
//! Invariants: only what a broker says itself counts, never that a call to it went through or failed; a new
//! boot is told apart from the one before it. Time is passed in.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_proto::types::BrokerId;
use tokio::time::Instant;

/// What one broker was last heard of.
#[derive(Debug, Clone, Copy)]
struct Contact {
    last: Instant,
    alive: bool,
}

/// The brokers that were ever heard from.
#[derive(Debug)]
pub struct Liveness {
    own: BrokerId,
    /// Silence that is taken for death.
    timeout: Duration,
    contacts: BTreeMap<BrokerId, Contact>,
}

impl Liveness {
    pub const fn new(own: BrokerId, timeout: Duration) -> Self {
        Self { own, timeout, contacts: BTreeMap::new() }
    }

    /// The broker said something. Whether it was taken for dead, or is new.
    pub fn heard(&mut self, broker: BrokerId, now: Instant) -> bool {
        let before = self.contacts.insert(broker, Contact { last: now, alive: true });
        !before.is_some_and(|contact| contact.alive)
    }

    /// Those that have fallen silent since the last call.
    pub fn fallen_silent(&mut self, now: Instant) -> Vec<BrokerId> {
        let timeout = self.timeout;
        let dead = self
            .contacts
            .iter_mut()
            .filter(|(_, contact)| contact.alive && now.saturating_duration_since(contact.last) > timeout);
        dead.map(|(broker, contact)| {
            contact.alive = false;
            *broker
        })
        .collect()
    }

    /// This broker itself is.
    pub fn alive(&self, broker: BrokerId) -> bool {
        broker == self.own || self.contacts.get(&broker).is_some_and(|contact| contact.alive)
    }

    /// Since it was heard from; `None`: it never was.
    pub fn silent_for(&self, broker: BrokerId, now: Instant) -> Option<Duration> {
        if broker == self.own {
            return Some(Duration::ZERO);
        }
        self.contacts.get(&broker).map(|contact| now.saturating_duration_since(contact.last))
    }

    /// Forgets brokers that do not belong to the cluster any more.
    pub fn retain(&mut self, belongs: impl Fn(BrokerId) -> bool) {
        self.contacts.retain(|broker, _| belongs(*broker));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_death_once_and_a_word_is_life() {
        let (own, other) = (BrokerId(1), BrokerId(2));
        let mut liveness = Liveness::new(own, Duration::from_millis(600));
        assert!(liveness.alive(own) && !liveness.alive(other));
        let start = Instant::now();
        assert!(liveness.heard(other, start));
        assert!(!liveness.heard(other, start + Duration::from_millis(100)));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(liveness.fallen_silent(at(700)), []);
        assert_eq!(liveness.fallen_silent(at(701)), [other]);
        assert_eq!(liveness.fallen_silent(at(900)), []);
        assert!(!liveness.alive(other));
        assert_eq!(liveness.silent_for(other, at(900)), Some(Duration::from_millis(800)));
        assert!(liveness.heard(other, at(1_000)));
        assert!(liveness.alive(other));
    }
}
