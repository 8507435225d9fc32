//! Bounds of the log as clients were told them: they never go back where they must not.

use std::collections::BTreeMap;

use super::check::{Report, Truth};
use super::partition::{PartitionHistory, Reader};
use super::{Anomaly, Listing, Micros, Outcome};

pub fn check(history: &PartitionHistory, truth: &Truth, report: &mut Report<'_>) {
    for (&number, reader) in &history.readers {
        answers(number, reader, report);
    }
    listings(history, truth, report);
}

/// Within one leader epoch, what one reader is told only rises; a new leader may know less for a while.
fn answers(number: u32, reader: &Reader, report: &mut Report<'_>) {
    let mut told: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for (answer, records) in reader.answers() {
        let (epoch, log_start, high_watermark) =
            (answer.leader_epoch, answer.log_start, answer.high_watermark);
        if let Some((offset, _)) = records.iter().find(|(offset, _)| *offset >= high_watermark) {
            report.add(Anomaly::ReadAboveWatermark { reader: number, offset: *offset, high_watermark });
        }
        if log_start > high_watermark {
            report.add(Anomaly::StartAboveWatermark { reader: number, log_start, high_watermark });
        }
        let (start, end) = told.entry(epoch).or_insert((log_start, high_watermark));
        if high_watermark < *end {
            let (from, to) = (*end, high_watermark);
            report.add(Anomaly::WatermarkRegression { reader: number, epoch, from, to });
        }
        if log_start < *start {
            let (from, to) = (*start, log_start);
            report.add(Anomaly::LogStartRegression { reader: number, epoch, from, to });
        }
        (*start, *end) = ((*start).max(log_start), (*end).max(high_watermark));
    }
}

/// Bounds that were asked for are those of the moment: a stale leader's are an anomaly.
fn listings(history: &PartitionHistory, truth: &Truth, report: &mut Report<'_>) {
    let acks = history.sends.iter().filter_map(|sent| match sent.outcome {
        Outcome::Acked(offset) => Some((sent.ended, offset + 1)),
        Outcome::Refused | Outcome::Unknown => None,
    });
    let bound = |of: fn(&Listing) -> Option<i64>| {
        history.listings.iter().filter_map(move |listing| Some((listing.ended, of(listing)?)))
    };
    let ends = Rising::new(acks.chain(bound(|listing| listing.end)).collect());
    let starts = Rising::new(bound(|listing| listing.log_start).collect());
    for listing in &history.listings {
        if let (Some(end), Some(known)) = (listing.end, ends.before(listing.begun))
            && end < known
        {
            report.add(Anomaly::StaleEnd { end, known });
        }
        if let (Some(log_start), Some(known)) = (listing.log_start, starts.before(listing.begun))
            && log_start < known
        {
            report.add(Anomaly::StaleStart { log_start, known });
        }
        if let Some(end) = listing.end.filter(|end| *end > truth.end()) {
            report.add(Anomaly::EndBeyondLog { end, last: truth.end() });
        }
    }
}

/// What was known when: the largest value up to each moment.
struct Rising(Vec<(Micros, i64)>);

impl Rising {
    fn new(mut known: Vec<(Micros, i64)>) -> Self {
        known.sort_unstable();
        let mut largest = i64::MIN;
        for (_, value) in &mut known {
            largest = largest.max(*value);
            *value = largest;
        }
        Self(known)
    }

    /// The largest value known strictly before `moment`.
    fn before(&self, moment: Micros) -> Option<i64> {
        let count = self.0.partition_point(|(at, _)| *at < moment);
        count.checked_sub(1).map(|last| self.0[last].1)
    }
}
