//! A history that many clients write to, by one clock.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::{History, Micros};

/// A history behind a lock.
pub type SharedHistory = Arc<Mutex<History>>;

/// The history of a run and the clock of its clients.
#[derive(Clone)]
pub struct Recorder {
    history: SharedHistory,
    clock: Arc<dyn Fn() -> Micros + Send + Sync>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    /// `clock` never goes back, and is the same for all clients.
    pub fn new(clock: impl Fn() -> Micros + Send + Sync + 'static) -> Self {
        Self { history: SharedHistory::default(), clock: Arc::new(clock) }
    }

    /// By the machine's clock, from now on.
    #[must_use]
    pub fn real_time() -> Self {
        let begin = std::time::Instant::now();
        Self::new(move || Micros::try_from(begin.elapsed().as_micros()).unwrap_or(Micros::MAX))
    }

    #[must_use]
    pub fn now(&self) -> Micros {
        (self.clock)()
    }

    /// Runs `note` on the history.
    pub fn note<T>(&self, note: impl FnOnce(&mut History) -> T) -> T {
        note(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
