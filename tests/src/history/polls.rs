//! What readers saw while it went on, against what is there in the end.

use std::collections::BTreeMap;

use super::Anomaly;
use super::check::{Report, SentValues, Truth, foreign};
use super::partition::Reader;

pub fn check(readers: &BTreeMap<u32, Reader>, sent: &SentValues, truth: &Truth, report: &mut Report<'_>) {
    for (&number, reader) in readers {
        order(number, reader, truth, report);
        for &(offset, value) in &reader.records {
            content(number, offset, value, sent, truth, report);
        }
    }
}

/// What was read stays, where it was read. Records below the log start may have gone since.
fn content(reader: u32, offset: i64, value: u64, sent: &SentValues, truth: &Truth, report: &mut Report<'_>) {
    match truth.value_at(offset) {
        Some(there) if there == value => {}
        Some(other) => {
            if !foreign(sent, offset, value, report) {
                report.add(Anomaly::InconsistentOffset { offset, values: (value, other) });
            }
        }
        None => {
            if !foreign(sent, offset, value, report) && offset >= truth.log_start {
                report.add(Anomaly::Vanished { offset, value, reader });
            }
        }
    }
}

/// Offsets rise, and leave out nothing that is there.
fn order(number: u32, reader: &Reader, truth: &Truth, report: &mut Report<'_>) {
    let mut last: Option<i64> = None;
    for (_, records) in reader.answers() {
        for (position, &(offset, _)) in records.iter().enumerate() {
            let inside = position > 0;
            if let Some(after) = last {
                if offset <= after {
                    report.add(Anomaly::NonMonotonicPoll { reader: number, inside, after, offset });
                } else if offset > after + 1
                    && let Some((skipped, _)) = truth.first_from(after + 1)
                    && skipped < offset
                {
                    report.add(Anomaly::PollSkip { reader: number, inside, after, skipped });
                }
            }
            last = Some(offset);
        }
    }
}
