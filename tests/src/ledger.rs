//! What was sent and how it was answered, held against what can be read in the end.
//!
//! Every value is unique, so that each anomaly has one meaning. Classes and names follow Jepsen's
//! Kafka workload (jepsen.io, `tests/kafka.clj`). An outcome that a client could not learn is
//! *unknown*: the record may be there, once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Topic and partition number.
pub type Partition = (String, i32);

/// How a send ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged at this offset.
    Acked(i64),
    /// Refused: it must never be read.
    Refused,
    /// Not known: it may be read, at most once.
    Unknown,
}

/// One record that a producer sent to a partition. The key is the partition's topic and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub partition: Partition,
    pub producer: u32,
    pub value: u64,
    pub outcome: Outcome,
}

/// A breach of what Headwater promises.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// Acknowledged, and not there.
    Lost { partition: Partition, offset: i64, value: u64 },
    /// Acknowledged at one offset, found at another.
    Moved { partition: Partition, acked: i64, found: i64, value: u64 },
    /// One value at two offsets.
    Duplicate { partition: Partition, offsets: (i64, i64), value: u64 },
    /// A value that nobody sent to this partition.
    Phantom { partition: Partition, offset: i64, value: u64 },
    /// Definitely refused, and there.
    AbortedRead { partition: Partition, offset: i64, value: u64 },
    /// A producer's later record lies before an earlier one.
    Reordered { partition: Partition, producer: u32, earlier: u64, later: u64 },
    /// One offset was read with two values.
    InconsistentOffset { partition: Partition, offset: i64, values: (u64, u64) },
    /// One reader's offsets did not rise.
    NonMonotonicPoll { partition: Partition, after: i64, offset: i64 },
    /// A reader jumped over a record that is there.
    PollSkip { partition: Partition, skipped: i64 },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Offset and value, as a reader saw them.
pub type ReadRecord = (i64, u64);

/// Everything that happened to some partitions.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: Vec<Sent>,
    /// Records below these offsets were deleted on request and need not be there.
    log_starts: BTreeMap<Partition, i64>,
    /// What readers saw while it went on: per reader, in the order seen.
    polls: BTreeMap<(u32, Partition), Vec<ReadRecord>>,
}

impl Ledger {
    /// Notes a send, in the order in which its producer made it.
    pub fn sent(&mut self, sent: Sent) {
        self.sent.push(sent);
    }

    /// Notes a record as one reader saw it. A reader that seeks gets a new number.
    pub fn polled(&mut self, reader: u32, partition: Partition, offset: i64, value: u64) {
        self.polls.entry((reader, partition)).or_default().push((offset, value));
    }

    /// Notes that retention or a request may have deleted records below `offset`.
    pub fn log_start(&mut self, partition: Partition, offset: i64) {
        let start = self.log_starts.entry(partition).or_default();
        *start = (*start).max(offset);
    }

    #[must_use]
    pub fn acked_count(&self) -> usize {
        self.sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Acked(_))).count()
    }

    /// A number that two equal histories share (FNV-1a, Fowler, Noll, Vo, of their text).
    #[must_use]
    pub fn digest(&self) -> u64 {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let text = format!("{self:?}");
        text.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
    }

    /// Compares with a last, complete read: per partition the records in offset order.
    #[must_use]
    pub fn check(&self, finally: &BTreeMap<Partition, Vec<ReadRecord>>) -> BTreeSet<Anomaly> {
        let mut anomalies = BTreeSet::new();
        let partitions: BTreeSet<_> =
            self.sent.iter().map(|sent| &sent.partition).chain(finally.keys()).cloned().collect();
        for partition in partitions {
            let records = finally.get(&partition).map_or(&[][..], Vec::as_slice);
            self.check_final_read(&partition, records, &mut anomalies);
            self.check_polls(&partition, records, &mut anomalies);
        }
        anomalies
    }

    fn check_final_read(&self, partition: &Partition, records: &[ReadRecord], out: &mut BTreeSet<Anomaly>) {
        let mut found: BTreeMap<u64, i64> = BTreeMap::new();
        for &(offset, value) in records {
            if let Some(&first) = found.get(&value) {
                out.insert(Anomaly::Duplicate {
                    partition: partition.clone(),
                    offsets: (first, offset),
                    value,
                });
            } else {
                found.insert(value, offset);
            }
        }
        let log_start = self.log_starts.get(partition).copied().unwrap_or(0);
        let mut sent_here = BTreeMap::new();
        let mut last_of_producer: BTreeMap<u32, (u64, i64)> = BTreeMap::new();
        for sent in self.sent.iter().filter(|sent| sent.partition == *partition) {
            sent_here.insert(sent.value, sent.outcome);
            let at = found.get(&sent.value).copied();
            out.extend(outcome_anomaly(sent, at, log_start));
            if let Some(offset) = at {
                if let Some(&(earlier, before)) = last_of_producer.get(&sent.producer)
                    && before > offset
                {
                    out.insert(Anomaly::Reordered {
                        partition: partition.clone(),
                        producer: sent.producer,
                        earlier,
                        later: sent.value,
                    });
                }
                last_of_producer.insert(sent.producer, (sent.value, offset));
            }
        }
        for (&value, &offset) in found.iter().filter(|(value, _)| !sent_here.contains_key(value)) {
            out.insert(Anomaly::Phantom { partition: partition.clone(), offset, value });
        }
    }

    fn check_polls(&self, partition: &Partition, records: &[ReadRecord], out: &mut BTreeSet<Anomaly>) {
        let truth: BTreeMap<i64, u64> = records.iter().copied().collect();
        for ((_, _), polled) in self.polls.iter().filter(|((_, of), _)| of == partition) {
            let mut last: Option<i64> = None;
            for &(offset, value) in polled {
                if let Some(&other) = truth.get(&offset)
                    && other != value
                {
                    let values = (value, other);
                    out.insert(Anomaly::InconsistentOffset { partition: partition.clone(), offset, values });
                }
                if let Some(after) = last {
                    if offset <= after {
                        out.insert(Anomaly::NonMonotonicPoll { partition: partition.clone(), after, offset });
                    } else if let Some((&skipped, _)) = truth.range(after + 1..offset).next() {
                        out.insert(Anomaly::PollSkip { partition: partition.clone(), skipped });
                    }
                }
                last = Some(offset);
            }
        }
    }
}

fn outcome_anomaly(sent: &Sent, found: Option<i64>, log_start: i64) -> Option<Anomaly> {
    let (partition, value) = (sent.partition.clone(), sent.value);
    match (sent.outcome, found) {
        (Outcome::Acked(offset), None) if offset >= log_start => {
            Some(Anomaly::Lost { partition, offset, value })
        }
        (Outcome::Acked(acked), Some(found)) if acked != found => {
            Some(Anomaly::Moved { partition, acked, found, value })
        }
        (Outcome::Refused, Some(offset)) => Some(Anomaly::AbortedRead { partition, offset, value }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        ("orders".to_owned(), 0)
    }

    fn ledger(outcomes: &[(u64, Outcome)]) -> Ledger {
        let mut ledger = Ledger::default();
        for &(value, outcome) in outcomes {
            ledger.sent(Sent { partition: partition(), producer: 1, value, outcome });
        }
        ledger
    }

    fn check(ledger: &Ledger, records: &[ReadRecord]) -> Vec<Anomaly> {
        ledger.check(&BTreeMap::from([(partition(), records.to_vec())])).into_iter().collect()
    }

    const GOOD: [(u64, Outcome); 3] =
        [(10, Outcome::Acked(0)), (11, Outcome::Unknown), (12, Outcome::Acked(1))];

    #[test]
    fn a_good_history_has_no_anomaly() {
        let mut good = ledger(&GOOD);
        good.polled(7, partition(), 0, 10);
        good.polled(7, partition(), 1, 12);
        assert_eq!(check(&good, &[(0, 10), (1, 12)]), []);
    }

    #[test]
    fn an_acknowledged_record_that_is_gone_is_lost() {
        assert!(matches!(check(&ledger(&GOOD), &[(0, 10)])[..], [Anomaly::Lost { offset: 1, .. }]));
    }

    #[test]
    fn deletion_on_request_is_no_loss() {
        let mut ledger = ledger(&GOOD);
        ledger.log_start(partition(), 1);
        assert_eq!(check(&ledger, &[(1, 12)]), []);
    }

    #[test]
    fn a_record_at_another_offset_has_moved() {
        assert!(matches!(check(&ledger(&GOOD), &[(0, 10), (5, 12)])[..], [Anomaly::Moved { found: 5, .. }]));
    }

    #[test]
    fn a_value_at_two_offsets_is_a_duplicate() {
        let found = check(&ledger(&GOOD), &[(0, 10), (1, 12), (2, 12)]);
        assert!(matches!(found[..], [Anomaly::Duplicate { offsets: (1, 2), .. }]));
    }

    #[test]
    fn a_value_that_nobody_sent_is_a_phantom() {
        let found = check(&ledger(&GOOD), &[(0, 10), (1, 12), (2, 99)]);
        assert!(matches!(found[..], [Anomaly::Phantom { value: 99, .. }]));
    }

    #[test]
    fn a_refused_record_must_not_be_read() {
        let refused = ledger(&[(10, Outcome::Refused)]);
        assert!(matches!(check(&refused, &[(0, 10)])[..], [Anomaly::AbortedRead { .. }]));
    }

    #[test]
    fn a_later_record_before_an_earlier_one_is_reordered() {
        let sent = ledger(&[(10, Outcome::Unknown), (11, Outcome::Unknown)]);
        assert!(matches!(check(&sent, &[(0, 11), (1, 10)])[..], [Anomaly::Reordered { later: 11, .. }]));
    }

    #[test]
    fn a_reader_must_see_what_the_last_read_sees() {
        let mut ledger = ledger(&GOOD);
        ledger.polled(7, partition(), 0, 77);
        let found = check(&ledger, &[(0, 10), (1, 12)]);
        assert!(matches!(found[..], [Anomaly::InconsistentOffset { values: (77, 10), .. }]));
    }

    #[test]
    fn a_reader_that_goes_back_is_reported() {
        let mut ledger = ledger(&GOOD);
        ledger.polled(7, partition(), 1, 12);
        ledger.polled(7, partition(), 0, 10);
        assert!(matches!(check(&ledger, &[(0, 10), (1, 12)])[..], [Anomaly::NonMonotonicPoll { .. }]));
    }

    #[test]
    fn a_reader_that_jumps_over_a_record_is_reported() {
        let mut ledger = ledger(&[(10, Outcome::Acked(0)), (11, Outcome::Acked(1)), (12, Outcome::Acked(2))]);
        ledger.polled(7, partition(), 0, 10);
        ledger.polled(7, partition(), 2, 12);
        let found = check(&ledger, &[(0, 10), (1, 11), (2, 12)]);
        assert!(matches!(found[..], [Anomaly::PollSkip { skipped: 1, .. }]));
    }
}
