//! Which of several brokers to ask: in turn, those that failed a moment ago last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long others are preferred to a broker that could not be reached or did not answer.
const SHUNNED: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Addresses {
    turn: AtomicUsize,
    failed: Mutex<BTreeMap<String, Instant>>,
}

impl Addresses {
    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one; empty when there is none.
    pub fn choose(&self, all: &[String]) -> String {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut candidates = all.to_vec();
        candidates.rotate_left(turn % all.len().max(1));
        self.put_failed_last(&mut candidates);
        candidates.into_iter().next().unwrap_or_default()
    }

    /// Puts those that failed a moment ago behind the others, the one that has rested for the longest first.
    pub fn put_failed_last(&self, all: &mut [String]) {
        let mut failed = self.failures();
        failed.retain(|_, at| at.elapsed() < SHUNNED);
        all.sort_by_key(|address| failed.get(address).copied());
    }

    pub fn failed(&self, address: &str) {
        self.failures().insert(address.to_owned(), Instant::now());
    }

    pub fn answered(&self, address: &str) {
        self.failures().remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn brokers_take_turns_and_those_that_failed_come_last() {
        let addresses = Addresses::default();
        let all = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let mut chosen: Vec<String> = (0..3).map(|_| addresses.choose(&all)).collect();
        chosen.sort();
        assert_eq!(chosen, all);
        addresses.failed("a");
        assert!((0..9).all(|_| addresses.choose(&all) != "a"));
        tokio::time::advance(Duration::from_millis(1)).await;
        addresses.failed("b");
        addresses.failed("c");
        assert_eq!(addresses.choose(&all), "a", "it has rested for the longest");
        addresses.answered("c");
        assert_eq!(addresses.choose(&all), "c");
        tokio::time::advance(SHUNNED).await;
        assert!((0..3).any(|_| addresses.choose(&all) == "a"));
        assert_eq!(addresses.choose(&[]), "");
    }
}
