//! CPU time of this process, all its threads, user and system.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point to count from.
#[derive(Debug, Clone, Copy)]
pub struct CpuClock(Duration);

impl CpuClock {
    #[must_use]
    pub fn start() -> Self {
        Self(used())
    }

    /// Seconds used since.
    #[must_use]
    pub fn seconds(self) -> f64 {
        used().saturating_sub(self.0).as_secs_f64()
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
        let clock = CpuClock::start();
        let mut sum = 0_u64;
        while clock.seconds() == 0.0 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(clock.seconds() > 0.0);
    }
}
