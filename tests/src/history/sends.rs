//! What producers were told, against what is there.

use std::collections::{BTreeMap, HashMap};

use super::check::{Report, Truth};
use super::{Anomaly, Micros, Outcome, Place, Sent};

pub fn check(sends: &[Sent], truth: &Truth, report: &mut Report<'_>) {
    acknowledged_offsets(sends, truth, report);
    losses(sends, truth, report);
    producer_order(sends, truth, report);
    real_time_order(sends, truth, report);
}

/// An acknowledgement names the offset where the record is, and no other record's.
fn acknowledged_offsets(sends: &[Sent], truth: &Truth, report: &mut Report<'_>) {
    let mut by_offset: HashMap<i64, u64> = HashMap::new();
    for sent in sends {
        let Outcome::Acked(offset) = sent.outcome else { continue };
        let first = *by_offset.entry(offset).or_insert(sent.value);
        if first != sent.value {
            report.add(Anomaly::InconsistentOffset { offset, values: (first, sent.value) });
        }
        match truth.offset_of(sent.value) {
            Some(found) if found != offset => {
                report.add(Anomaly::Moved { value: sent.value, acked: offset, found });
            }
            Some(_) => {}
            None => {
                if let Some(other) = truth.value_at(offset) {
                    report.add(Anomaly::InconsistentOffset { offset, values: (sent.value, other) });
                }
            }
        }
    }
}

/// What was acknowledged is there. Below the log start nothing needs to be.
fn losses(sends: &[Sent], truth: &Truth, report: &mut Report<'_>) {
    // Per producer: its acknowledged records' numbers, and the first and last of those that were found.
    let mut found: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    let acked = || {
        sends.iter().enumerate().filter_map(|(number, sent)| match sent.outcome {
            Outcome::Acked(offset) if offset >= truth.log_start => Some((number, sent, offset)),
            _ => None,
        })
    };
    for (number, sent, _) in acked().filter(|(_, sent, _)| truth.offset_of(sent.value).is_some()) {
        found.entry(sent.producer).and_modify(|(_, last)| *last = number).or_insert((number, number));
    }
    for (number, sent, offset) in acked().filter(|(_, sent, _)| truth.offset_of(sent.value).is_none()) {
        let place = match found.get(&sent.producer) {
            None => Place::All,
            Some((first, _)) if number < *first => Place::Prefix,
            Some((_, last)) if number > *last => Place::Postfix,
            Some(_) => Place::Middle,
        };
        let (value, producer) = (sent.value, sent.producer);
        report.add(if offset < truth.end() {
            Anomaly::LostWrite { offset, value, producer, place }
        } else {
            Anomaly::Unseen { offset, value, producer, place }
        });
    }
}

/// The records of one producer lie, and were acknowledged, in the order in which it sent them.
fn producer_order(sends: &[Sent], truth: &Truth, report: &mut Report<'_>) {
    let mut last_acked: BTreeMap<u32, (u64, i64)> = BTreeMap::new();
    let mut last_found: BTreeMap<u32, (u64, i64)> = BTreeMap::new();
    for sent in sends {
        let producer = sent.producer;
        if let Outcome::Acked(offset) = sent.outcome {
            let later = (sent.value, offset);
            if let Some(earlier) = last_acked.insert(producer, later)
                && earlier.1 >= offset
            {
                report.add(Anomaly::NonMonotonicSend { producer, earlier, later });
            }
        }
        if let Some(offset) = truth.offset_of(sent.value) {
            let later = (sent.value, offset);
            if let Some(earlier) = last_found.insert(producer, later)
                && earlier.1 > offset
            {
                report.add(Anomaly::Reordered { producer, earlier, later });
            }
        }
    }
}

/// A record that was sent after another one's acknowledgement lies behind it: offsets are one order of all sends
/// (linearizability of append; cheap here, since the offsets give the order).
fn real_time_order(sends: &[Sent], truth: &Truth, report: &mut Report<'_>) {
    let mut placed: Vec<(i64, &Sent)> =
        sends.iter().filter_map(|sent| Some((truth.offset_of(sent.value)?, sent))).collect();
    placed.sort_unstable_by_key(|(offset, _)| *offset);
    // Of the records below: the one that was begun last.
    let mut latest: Option<(Micros, u64, i64)> = None;
    for (offset, sent) in placed {
        if let Some((begun, value, below)) = latest
            && matches!(sent.outcome, Outcome::Acked(_))
            && sent.ended < begun
        {
            report
                .add(Anomaly::RealTimeReordered { acked: (sent.value, offset), sent_later: (value, below) });
        }
        if latest.is_none_or(|(begun, ..)| begun < sent.begun) {
            latest = Some((sent.begun, sent.value, offset));
        }
    }
}
