//! The links of the simulated network, under any number of faults at once.
//!
//! Turmoil keeps one state for each link; here each fault holds its own view of the links that it breaks, and the
//! link gets the worst of them. Turmoil's TCP does not send again what a link dropped: a connection across it hangs
//! until one side gives it up. A link that holds delivers everything once it is released, as a short outage does.

use std::collections::BTreeMap;
use std::time::Duration;

use turmoil::Sim;

/// What a fault does to one direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Delivered when the fault is over.
    Hold,
    /// Lost.
    Drop,
}

/// One direction of a link, by host names.
pub type Direction = (String, String);

/// Names one fault.
pub type FaultId = u64;

/// Latencies of a healthy link.
pub const LATENCY_MIN: Duration = Duration::from_micros(200);
pub const LATENCY_MAX: Duration = Duration::from_millis(3);

#[derive(Debug, Default)]
pub struct Net {
    faults: BTreeMap<FaultId, BTreeMap<Direction, Mode>>,
    applied: BTreeMap<(String, String), Link>,
    next: FaultId,
}

/// Both directions of one link, named in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Link {
    there: Option<Mode>,
    back: Option<Mode>,
}

impl Net {
    /// Breaks directions until [`Net::end`].
    pub fn begin(
        &mut self,
        sim: &Sim<'_>,
        directions: impl IntoIterator<Item = Direction>,
        mode: Mode,
    ) -> FaultId {
        self.next += 1;
        self.faults.insert(self.next, directions.into_iter().map(|direction| (direction, mode)).collect());
        self.apply(sim);
        self.next
    }

    pub fn end(&mut self, sim: &Sim<'_>, fault: FaultId) {
        if self.faults.remove(&fault).is_some() {
            self.apply(sim);
        }
    }

    fn apply(&mut self, sim: &Sim<'_>) {
        let mut wanted: BTreeMap<(String, String), Link> = BTreeMap::new();
        for ((from, to), mode) in self.faults.values().flatten() {
            let (low, high) = if from < to { (from, to) } else { (to, from) };
            let link = wanted.entry((low.clone(), high.clone())).or_default();
            let state = if from < to { &mut link.there } else { &mut link.back };
            *state = (*state).max(Some(*mode));
        }
        let links: Vec<_> = self.applied.keys().chain(wanted.keys()).cloned().collect();
        for pair in links {
            let new = wanted.get(&pair).copied().unwrap_or_default().whole();
            let old = self.applied.get(&pair).copied().unwrap_or_default();
            if new != old {
                change(sim, &pair, old, new);
                self.applied.insert(pair, new);
            }
        }
        self.applied.retain(|_, link| *link != Link::default());
    }
}

impl Link {
    /// Turmoil cannot hold one direction and drop the other: dropping wins, and only both are held.
    fn whole(self) -> Self {
        let drop = |mode: Option<Mode>| mode.filter(|mode| *mode == Mode::Drop);
        if self.there == Some(Mode::Drop) || self.back == Some(Mode::Drop) {
            return Self { there: drop(self.there), back: drop(self.back) };
        }
        let held = self.there.or(self.back);
        Self { there: held, back: held }
    }
}

fn change(sim: &Sim<'_>, (low, high): &(String, String), old: Link, new: Link) {
    let (low, high) = (low.as_str(), high.as_str());
    if old.there == Some(Mode::Hold) {
        sim.release(low, high);
    } else {
        sim.repair(low, high);
    }
    match (new.there, new.back) {
        (Some(Mode::Hold), _) | (_, Some(Mode::Hold)) => sim.hold(low, high),
        (there, back) => {
            if there.is_some() {
                sim.partition_oneway(low, high);
            }
            if back.is_some() {
                sim.partition_oneway(high, low);
            }
        }
    }
}
