//! Pauses between attempts, with jitter from the client's seeded entropy.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::Backoff;

/// A leader is replaced within about a second: who looks for the new one must not oversleep it.
const SEARCH_PAUSE_MAX: Duration = Duration::from_millis(150);

/// Searches in a row after which the usual pauses hold: about 5 s.
const SEARCHES_IN_HASTE: u32 = 40;

/// The client's one source of randomness: a seed gives the same choices in the same order.
pub struct Entropy(Mutex<StdRng>);

impl Entropy {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// A number below `bound`, which must be positive.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..bound.max(1))
    }
}

/// Counts the failures in a row of one thing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Attempts {
    failures: u32,
}

impl Attempts {
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub const fn count(&self) -> u32 {
        self.failures
    }

    /// As [`Attempts::failed`], while a leader is looked for.
    pub fn searched(&mut self, backoff: &Backoff, entropy: &Entropy) -> Duration {
        if self.failures >= SEARCHES_IN_HASTE {
            return self.failed(backoff, entropy);
        }
        let hasty = Backoff { max: backoff.max.min(SEARCH_PAUSE_MAX), ..*backoff };
        self.failed(&hasty, entropy)
    }

    /// How long to wait after one more failure: doubled each time, less a random part of up to half.
    pub fn failed(&mut self, backoff: &Backoff, entropy: &Entropy) -> Duration {
        let factor = 1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let full = backoff.initial.saturating_mul(factor).min(backoff.max);
        let half_us = u64::try_from(full.as_micros() / 2).unwrap_or(u64::MAX);
        full.saturating_sub(Duration::from_micros(entropy.below(half_us.saturating_add(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_keep_at_least_half() {
        let backoff = Backoff { initial: Duration::from_millis(10), max: Duration::from_millis(100) };
        let entropy = Entropy::new(1);
        let mut attempts = Attempts::default();
        for full_ms in [10, 20, 40, 80, 100, 100] {
            let pause = attempts.failed(&backoff, &entropy);
            assert!(pause <= Duration::from_millis(full_ms), "{pause:?} of {full_ms} ms");
            assert!(pause >= Duration::from_millis(full_ms / 2), "{pause:?} of {full_ms} ms");
        }
        for _ in 0..30 {
            assert!(attempts.searched(&Backoff::default(), &entropy) <= SEARCH_PAUSE_MAX);
        }
        for _ in 0..10 {
            attempts.searched(&Backoff::default(), &entropy);
        }
        assert!(attempts.searched(&Backoff::default(), &entropy) >= Duration::from_millis(500));
        attempts.succeeded();
        assert!(attempts.failed(&backoff, &entropy) <= Duration::from_millis(10));
    }
}
