//! What each replica holds in the end: the same everywhere, or the brain was split.

use std::collections::BTreeMap;

use super::check::{Report, Truth};
use super::{Anomaly, ReadRecord};

/// A replica may still hold what was deleted, so records below the log start are not compared.
pub fn check(replicas: &BTreeMap<String, Vec<ReadRecord>>, truth: &Truth, report: &mut Report<'_>) {
    for (replica, records) in replicas {
        let mut there = records.iter().copied().filter(|(offset, _)| *offset >= truth.log_start).peekable();
        let expected = truth.records().iter().filter(|(offset, _)| *offset >= truth.log_start);
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
