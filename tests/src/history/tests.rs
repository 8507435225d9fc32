//! One bad history for each class, and a good one.

#![allow(clippy::unwrap_used)]

use super::*;

fn partition() -> Partition {
    ("orders".to_owned(), 0)
}

/// Three records of one producer, of which two were acknowledged; nothing is wrong with it.
struct Case(History);

impl Case {
    fn new() -> Self {
        let mut case = Self(History::default());
        case.send(1, 10, Outcome::Acked(0));
        case.send(1, 11, Outcome::Unknown);
        case.send(1, 12, Outcome::Acked(1));
        case
    }

    fn empty() -> Self {
        Self(History::default())
    }

    /// Each send begins when the one before has ended.
    fn send(&mut self, producer: u32, value: u64, outcome: Outcome) {
        let begun = 100 * self.0.operations();
        self.0.sent(&partition(), Sent { producer, value, outcome, begun, ended: begun + 50 });
    }

    fn poll(&mut self, reader: u32, epoch: i32, high_watermark: i64, records: &[ReadRecord]) {
        let poll = Poll { reader, leader_epoch: epoch, log_start: 0, high_watermark, records };
        self.0.polled(&partition(), poll);
    }

    fn list(&mut self, begun: Micros, start: i64, end: i64) {
        let listing = Listing { log_start: Some(start), end: Some(end), begun, ended: begun + 10 };
        self.0.listed(&partition(), listing);
    }

    fn check(mut self, records: &[ReadRecord]) -> Vec<Anomaly> {
        self.0.finally(&partition(), records.to_vec());
        self.0.check().examples().cloned().collect()
    }

    /// Checks that exactly this class is reported.
    fn reports(self, records: &[ReadRecord], class: &str) {
        let found = self.check(records);
        let classes: Vec<_> = found.iter().map(Anomaly::class).collect();
        assert_eq!(classes, [class], "{found:?}");
    }
}

const GOOD: [ReadRecord; 2] = [(0, 10), (1, 12)];

#[test]
fn a_good_history_has_no_anomaly() {
    let mut good = Case::new();
    good.poll(7, 1, 1, &[(0, 10)]);
    good.poll(7, 2, 2, &[(1, 12)]);
    good.poll(8, 1, 2, &GOOD);
    good.list(10_000, 0, 2);
    good.0.replica(&partition(), "2", 0, GOOD.to_vec());
    assert_eq!(good.check(&GOOD), []);
}

#[test]
fn an_unknown_send_may_be_there() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Unknown);
    assert_eq!(case.check(&[(0, 10)]), []);
}

#[test]
fn lost_write() {
    let mut case = Case::new();
    case.send(2, 20, Outcome::Acked(2));
    case.reports(&[(0, 10), (2, 20)], "lost-write");
}

#[test]
fn where_a_loss_lies() {
    let place = |kept: &[ReadRecord]| {
        let mut case = Case::empty();
        (0..3).for_each(|n| case.send(1, 10 + n, Outcome::Acked(n.cast_signed())));
        case.send(2, 20, Outcome::Acked(3));
        let places = case.check(kept).into_iter().map(|anomaly| match anomaly {
            Anomaly::LostWrite { place, .. } => place,
            other => panic!("{other:?}"),
        });
        places.collect::<Vec<_>>()
    };
    assert_eq!(place(&[(1, 11), (2, 12), (3, 20)]), [Place::Prefix]);
    assert_eq!(place(&[(0, 10), (2, 12), (3, 20)]), [Place::Middle]);
    assert_eq!(place(&[(0, 10), (1, 11), (3, 20)]), [Place::Postfix]);
    assert_eq!(place(&[(3, 20)]), [Place::All; 3]);
}

#[test]
fn unseen() {
    Case::new().reports(&[(0, 10)], "unseen");
}

#[test]
fn deletion_is_no_loss() {
    let mut case = Case::new();
    case.0.log_start(&partition(), 1);
    case.poll(7, 1, 2, &GOOD);
    assert_eq!(case.check(&[(1, 12)]), []);
}

#[test]
fn vanished() {
    let mut case = Case::new();
    case.poll(7, 1, 3, &[(0, 10), (1, 12), (2, 11)]);
    case.reports(&GOOD, "vanished");
}

#[test]
fn phantom() {
    Case::new().reports(&[(0, 10), (1, 12), (2, 99)], "phantom");
    let mut polled = Case::new();
    polled.poll(7, 1, 3, &[(2, 99)]);
    polled.reports(&GOOD, "phantom");
}

#[test]
fn duplicate() {
    Case::new().reports(&[(0, 10), (1, 12), (2, 12)], "duplicate");
}

#[test]
fn inconsistent_offsets_in_acknowledgements() {
    let mut case = Case::new();
    case.send(2, 20, Outcome::Acked(1));
    case.0.log_start(&partition(), 2);
    case.reports(&[], "inconsistent-offsets");
}

#[test]
fn inconsistent_offsets_in_polls() {
    let mut case = Case::new();
    case.poll(7, 1, 2, &[(0, 11)]);
    case.reports(&GOOD, "inconsistent-offsets");
}

#[test]
fn inconsistent_offsets_in_the_last_read() {
    let mut case = Case::empty();
    [10, 11].into_iter().for_each(|value| case.send(1, value, Outcome::Unknown));
    case.reports(&[(0, 10), (0, 11)], "inconsistent-offsets");
}

#[test]
fn moved() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Acked(0));
    case.reports(&[(5, 10)], "moved");
}

#[test]
fn aborted_read() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Refused);
    case.reports(&[(0, 10)], "aborted-read");
    let mut polled = Case::new();
    polled.send(2, 20, Outcome::Refused);
    polled.poll(7, 1, 3, &[(2, 20)]);
    polled.reports(&GOOD, "aborted-read");
}

#[test]
fn nonmonotonic_send() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Acked(1));
    case.send(1, 11, Outcome::Acked(0));
    case.0.log_start(&partition(), 2);
    case.reports(&[], "nonmonotonic-send");
}

#[test]
fn reordered() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Unknown);
    case.send(1, 11, Outcome::Unknown);
    case.reports(&[(0, 11), (1, 10)], "reordered");
}

#[test]
fn real_time_reordered() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Acked(1));
    case.send(2, 20, Outcome::Acked(0));
    case.reports(&[(0, 20), (1, 10)], "realtime-reordered");
}

#[test]
fn sends_side_by_side_have_no_order() {
    let mut case = Case::empty();
    for (producer, value, offset) in [(1, 10, 1), (2, 20, 0)] {
        let outcome = Outcome::Acked(offset);
        case.0.sent(&partition(), Sent { producer, value, outcome, begun: 0, ended: 100 });
    }
    assert_eq!(case.check(&[(0, 20), (1, 10)]), []);
}

fn three_acked() -> Case {
    let mut case = Case::empty();
    (0..3).for_each(|n| case.send(1, 10 + n, Outcome::Acked(n.cast_signed())));
    case
}

const THREE: [ReadRecord; 3] = [(0, 10), (1, 11), (2, 12)];

#[test]
fn poll_skip() {
    let mut case = three_acked();
    case.poll(7, 1, 3, &[(0, 10)]);
    case.poll(7, 1, 3, &[(2, 12)]);
    case.reports(&THREE, "poll-skip");
}

#[test]
fn int_poll_skip() {
    let mut case = three_acked();
    case.poll(7, 1, 3, &[(0, 10), (2, 12)]);
    case.reports(&THREE, "int-poll-skip");
}

#[test]
fn a_gap_that_holds_nothing_is_no_skip() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Acked(0));
    case.send(1, 12, Outcome::Acked(2));
    case.poll(7, 1, 3, &[(0, 10), (2, 12)]);
    assert_eq!(case.check(&[(0, 10), (2, 12)]), []);
}

#[test]
fn nonmonotonic_poll() {
    let mut case = Case::new();
    case.poll(7, 1, 2, &GOOD);
    case.poll(7, 1, 2, &[(0, 10)]);
    case.reports(&GOOD, "nonmonotonic-poll");
}

#[test]
fn int_nonmonotonic_poll() {
    let mut case = Case::new();
    case.poll(7, 1, 2, &[(0, 10), (0, 10)]);
    case.reports(&GOOD, "int-nonmonotonic-poll");
}

#[test]
fn watermark_regression() {
    let mut case = Case::new();
    case.poll(7, 1, 2, &[(0, 10)]);
    case.poll(7, 1, 1, &[]);
    case.reports(&GOOD, "watermark-regression");
}

#[test]
fn a_new_leader_may_know_less() {
    let mut case = Case::new();
    case.poll(7, 1, 2, &[(0, 10)]);
    case.poll(7, 2, 1, &[]);
    assert_eq!(case.check(&GOOD), []);
}

#[test]
fn log_start_regression() {
    let mut case = Case::new();
    for log_start in [1, 0] {
        let poll = Poll { reader: 7, leader_epoch: 1, log_start, high_watermark: 2, records: &[] };
        case.0.polled(&partition(), poll);
    }
    case.reports(&GOOD, "log-start-regression");
}

#[test]
fn read_above_watermark() {
    let mut case = Case::new();
    case.poll(7, 1, 1, &GOOD);
    case.reports(&GOOD, "read-above-watermark");
}

#[test]
fn start_above_watermark() {
    let mut case = Case::new();
    let poll = Poll { reader: 7, leader_epoch: 1, log_start: 3, high_watermark: 2, records: &[] };
    case.0.polled(&partition(), poll);
    case.reports(&GOOD, "start-above-watermark");
}

#[test]
fn stale_end_after_an_acknowledgement() {
    let mut case = Case::new();
    case.list(10_000, 0, 1);
    case.reports(&GOOD, "stale-end");
}

#[test]
fn stale_end_after_a_listing() {
    let mut case = Case::empty();
    case.send(1, 10, Outcome::Unknown);
    case.list(1_000, 0, 1);
    case.list(2_000, 0, 0);
    case.reports(&[(0, 10)], "stale-end");
}

#[test]
fn an_end_asked_for_meanwhile_may_be_older() {
    let mut case = Case::new();
    case.list(0, 0, 0);
    assert_eq!(case.check(&GOOD), []);
}

#[test]
fn stale_start() {
    let mut case = Case::new();
    case.list(1_000, 1, 2);
    case.list(2_000, 0, 2);
    case.reports(&GOOD, "stale-start");
}

#[test]
fn end_beyond_log() {
    let mut case = Case::new();
    case.list(10_000, 0, 3);
    case.reports(&GOOD, "end-beyond-log");
}

#[test]
fn lost_on_node() {
    let replica = |records: &[ReadRecord]| {
        let mut case = Case::new();
        case.0.replica(&partition(), "2", 0, records.to_vec());
        case
    };
    replica(&[(0, 10)]).reports(&GOOD, "lost-on-node");
    replica(&[(0, 10), (1, 11)]).reports(&GOOD, "lost-on-node");
    replica(&[(0, 10), (1, 12), (2, 11)]).reports(&GOOD, "lost-on-node");
    let mut trimmed = replica(&GOOD);
    trimmed.0.log_start(&partition(), 1);
    assert_eq!(trimmed.check(&[(1, 12)]), []);
}

#[test]
fn deletion_after_the_last_read_is_no_loss_on_a_node() {
    let replica = |log_start, records: &[ReadRecord]| {
        let mut case = Case::new();
        case.0.replica(&partition(), "2", log_start, records.to_vec());
        case
    };
    assert_eq!(replica(1, &[(1, 12)]).check(&GOOD), []);
    replica(1, &[]).reports(&GOOD, "lost-on-node");
    replica(1, &[(1, 11)]).reports(&GOOD, "lost-on-node");
    replica(0, &[(1, 12)]).reports(&GOOD, "lost-on-node");
}

#[test]
fn equal_histories_share_a_digest() {
    let (mut one, two, mut three) = (Case::new(), Case::new(), Case::new());
    assert_eq!(one.0.digest(), two.0.digest());
    three.send(1, 13, Outcome::Unknown);
    one.poll(7, 1, 2, &GOOD);
    assert_ne!(one.0.digest(), two.0.digest());
    assert_ne!(three.0.digest(), two.0.digest());
}

#[test]
fn a_million_records_are_checked_in_seconds() {
    const COUNT: u64 = 1_000_000;
    let mut case = Case::empty();
    let records: Vec<ReadRecord> = (0..COUNT).map(|n| (n.cast_signed(), 7 + n)).collect();
    for n in 0..COUNT {
        case.send((n % 3) as u32, 7 + n, Outcome::Acked(n.cast_signed()));
    }
    records.chunks(100).for_each(|chunk| case.poll(1, 1, COUNT.cast_signed(), chunk));
    let begun = std::time::Instant::now();
    assert_eq!(case.check(&records), []);
    // Quadratic work on that many would take hours; the bound leaves room for a busy machine.
    assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
}
