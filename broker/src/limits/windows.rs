//! Shares out HTTP/2 receive windows, so that what peers may send ahead of the broker's reading is
//! bounded over all connections.
//!
//! A connection may fill its window before anything of ours looks at a byte. Large windows make one
//! connection fast; a thousand of them would be 32 GiB.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What every connection gets however short the budget is.
pub const WINDOW_FLOOR_BYTES: u32 = 256 << 10;

/// The windows that are left. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct WindowBudget(Arc<Mutex<usize>>);

impl WindowBudget {
    #[must_use]
    pub fn new(total_bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(total_bytes)))
    }

    /// A window of at most `wanted_bytes` and at most a quarter of what is left, so that many
    /// connections share the budget; never less than the floor (or `wanted_bytes`, where that is less).
    #[must_use]
    pub fn lease(&self, wanted_bytes: u32) -> WindowLease {
        let mut left = lock(&self.0);
        let share = u32::try_from(*left / 4).unwrap_or(u32::MAX).min(wanted_bytes);
        let floor = WINDOW_FLOOR_BYTES.min(wanted_bytes);
        let (bytes, charged) = if share > floor { (share, share as usize) } else { (floor, 0) };
        *left -= charged;
        drop(left);
        WindowLease { bytes, charged, budget: self.0.clone() }
    }
}

/// A window, given back when its connection ends.
#[derive(Debug)]
pub struct WindowLease {
    pub bytes: u32,
    charged: usize,
    budget: Arc<Mutex<usize>>,
}

impl Drop for WindowLease {
    fn drop(&mut self) {
        *lock(&self.budget) += self.charged;
    }
}

fn lock(left: &Mutex<usize>) -> MutexGuard<'_, usize> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_connections_stay_within_the_budget_and_give_it_back() {
        let (total, wanted) = (512 << 20, 32 << 20);
        let budget = WindowBudget::new(total);
        let leases: Vec<_> = (0..1_000).map(|_| budget.lease(wanted)).collect();
        assert_eq!(leases[0].bytes, wanted, "the first ones are not cut");
        let sum: usize = leases.iter().map(|lease| lease.bytes as usize).sum();
        assert!(sum <= total + 1_000 * WINDOW_FLOOR_BYTES as usize, "{sum}");
        assert!(leases.iter().all(|lease| lease.bytes >= WINDOW_FLOOR_BYTES));
        drop(leases);
        assert_eq!(*lock(&budget.0), total);
    }
}
