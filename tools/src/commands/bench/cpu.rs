//! CPU time of this process, all its threads, user and system; and wall time beside it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A point to count from.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    began: Instant,
    cpu_used: Duration,
}

impl Stopwatch {
    #[must_use]
    pub fn start() -> Self {
        Self { began: Instant::now(), cpu_used: used() }
    }

    /// Seconds since, and CPU seconds used in them.
    #[must_use]
    pub fn read(self) -> (f64, f64) {
        (self.began.elapsed().as_secs_f64(), used().saturating_sub(self.cpu_used).as_secs_f64())
    }
}

fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        let watch = Stopwatch::start();
        let mut sum = 0_u64;
        while watch.read().1 == 0.0 {
            sum = std::hint::black_box(sum + 1);
        }
        let (elapsed, cpu_seconds) = watch.read();
        assert!(elapsed > 0.0 && cpu_seconds > 0.0);
    }
}
