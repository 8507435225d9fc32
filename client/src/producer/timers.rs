//! When the driver must look at something again.
//!
//! Each subject has one timer, its earliest; who fires it finds out what else is due and sets it
//! again.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::accumulator::QueueId;

/// What a timer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    Lane(QueueId),
    /// A broker's link, by broker id.
    Link(i32),
    Refresh,
}

#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    by_subject: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Fires at `at`, or earlier if that was asked for before.
    pub fn set(&mut self, timer: Timer, at: Instant) {
        match self.by_subject.get_mut(&timer) {
            Some(before) if *before <= at => {}
            Some(before) => {
                self.by_time.remove(&(*before, timer));
                *before = at;
                self.by_time.insert((at, timer));
            }
            None => {
                self.by_subject.insert(timer, at);
                self.by_time.insert((at, timer));
            }
        }
    }

    pub fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// One that is due, taken out.
    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.first()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_subject.remove(&timer);
        Some(timer)
    }
}
