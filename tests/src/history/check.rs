//! One partition's history against its last read.

use std::collections::HashMap;

use super::partition::PartitionHistory;
use super::{Anomaly, Findings, Outcome, Partition, ReadRecord, Sent, polls, replicas, sends, watermarks};

/// Where the anomalies of one partition go.
pub struct Report<'a> {
    pub partition: &'a Partition,
    pub findings: &'a mut Findings,
}

impl Report<'_> {
    pub fn add(&mut self, anomaly: Anomaly) {
        self.findings.add(self.partition, anomaly);
    }
}

/// What a partition holds in the end.
#[derive(Debug)]
pub struct Truth {
    /// By offset, each once.
    records: Vec<ReadRecord>,
    /// Only looked up, never walked through: its order is nobody's.
    offsets: HashMap<u64, i64>,
    pub log_start: i64,
}

impl Truth {
    /// From a last read, which is itself checked for values that are there twice.
    fn new(read: &[ReadRecord], log_start: i64, report: &mut Report<'_>) -> Self {
        let mut records = read.to_vec();
        records.sort_unstable();
        let mut offsets = HashMap::with_capacity(records.len());
        for pair in records.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1) {
            report.add(Anomaly::InconsistentOffset { offset: pair[0].0, values: (pair[0].1, pair[1].1) });
        }
        records.dedup_by_key(|(offset, _)| *offset);
        for &(offset, value) in &records {
            let first = *offsets.entry(value).or_insert(offset);
            if first != offset {
                report.add(Anomaly::Duplicate { value, offsets: (first, offset) });
            }
        }
        Self { records, offsets, log_start }
    }

    pub fn records(&self) -> &[ReadRecord] {
        &self.records
    }

    /// Where a value is; the first place of one that is there twice.
    pub fn offset_of(&self, value: u64) -> Option<i64> {
        self.offsets.get(&value).copied()
    }

    pub fn value_at(&self, offset: i64) -> Option<u64> {
        let position = self.position_from(offset);
        self.records.get(position).filter(|(found, _)| *found == offset).map(|(_, value)| *value)
    }

    /// The first record at `offset` or above.
    pub fn first_from(&self, offset: i64) -> Option<ReadRecord> {
        self.records.get(self.position_from(offset)).copied()
    }

    /// Offset of the last record plus one; the log start if there is none.
    pub fn end(&self) -> i64 {
        self.records.last().map_or(self.log_start, |(offset, _)| offset + 1)
    }

    fn position_from(&self, offset: i64) -> usize {
        // Offsets are dense where nothing was compacted away: one look instead of a search.
        let first = self.records.first().map_or(0, |(first, _)| *first);
        let guess = usize::try_from(offset - first).unwrap_or(0);
        if self.records.get(guess).is_some_and(|(found, _)| *found == offset) {
            return guess;
        }
        self.records.partition_point(|(found, _)| *found < offset)
    }
}

/// What became of each value that was sent here. Only looked up.
pub type SentValues = HashMap<u64, Outcome>;

/// Adds every anomaly of one partition.
pub fn check(partition: &Partition, history: &PartitionHistory, findings: &mut Findings) {
    let mut report = Report { partition, findings };
    let truth = Truth::new(&history.finally, history.log_start, &mut report);
    let sent: SentValues = history.sends.iter().map(|sent: &Sent| (sent.value, sent.outcome)).collect();
    for &(offset, value) in truth.records() {
        foreign(&sent, offset, value, &mut report);
    }
    sends::check(&history.sends, &truth, &mut report);
    polls::check(&history.readers, &sent, &truth, &mut report);
    watermarks::check(history, &truth, &mut report);
    replicas::check(&history.replicas, &truth, &mut report);
}

/// Reports a value that was read and should not exist. Whether it should.
pub fn foreign(sent: &SentValues, offset: i64, value: u64, report: &mut Report<'_>) -> bool {
    match sent.get(&value) {
        None => report.add(Anomaly::Phantom { offset, value }),
        Some(Outcome::Refused) => report.add(Anomaly::AbortedRead { offset, value }),
        Some(Outcome::Acked(_) | Outcome::Unknown) => return false,
    }
    true
}
