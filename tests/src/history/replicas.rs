//! What each replica holds in the end: the same everywhere, or the brain was split.

use std::collections::BTreeMap;

use super::Anomaly;
use super::check::{Report, Truth};
use super::partition::Replica;

/// A replica may still hold what was deleted, so records below the log start are not compared. Retention goes on after
/// the last read: the log start that counts is the replica's own, if it lies higher by the time that it is looked at.
pub fn check(replicas: &BTreeMap<String, Replica>, truth: &Truth, report: &mut Report<'_>) {
    for (replica, Replica { log_start, records }) in replicas {
        let start = truth.log_start.max(*log_start);
        let mut there = records.iter().copied().filter(|(offset, _)| *offset >= start).peekable();
        let expected = truth.records().iter().filter(|(offset, _)| *offset >= start);
        let mut differs = |offset, there: Option<u64>, expected| {
            let replica = replica.clone();
            report.add(Anomaly::ReplicaDiffers { replica, offset, there, expected });
        };
        for &(offset, value) in expected {
            while let Some((extra, found)) = there.next_if(|(found, _)| *found < offset) {
                differs(extra, Some(found), None);
            }
            match there.next_if(|(found, _)| *found == offset) {
                Some((_, found)) if found == value => {}
                found => differs(offset, found.map(|(_, value)| value), Some(value)),
            }
        }
        there.for_each(|(offset, value)| differs(offset, Some(value), None));
    }
}
