//! The leader's decisions before it proposes, and the stamps by which its log checks them.
//!
//! The gate looks at applied state plus the leader's own proposals in flight. Invariants: what it lets
//! pass is accepted by every replica's [`crate::PartitionState`], provided that the log appends exactly
//! the stamps of one session, in order, without a gap; [`StampCheck`] sees to that. After one refused or
//! void proposal nothing more passes until all in flight are answered and a new session is opened.

use std::collections::BTreeMap;

use headwater_proto::ErrorCode;
use headwater_proto::record::BatchHeader;
use headwater_proto::types::{Offset, ProducerEpoch, ProducerId, Sequence, Term};
use thiserror::Error;

use crate::mutant::{self, Mutant};
use crate::producer::{ProducerBatch, ProducerTable, Verdict, WINDOW_BATCHES, Window, judge};

/// Names one proposal of one leadership. Sessions and numbers count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub term: Term,
    pub session: u64,
    pub n: u64,
}

/// The log's side: which stamps may be appended as they are, and which are stored as void.
#[derive(Debug, Clone, Default)]
pub struct StampCheck {
    last: Option<Stamp>,
}

impl StampCheck {
    /// Whether a proposal may be appended under `term` (that of its log id): its own term is the same, and
    /// it succeeds the last admitted one of its session or begins a newer session.
    pub fn admit(&mut self, stamp: Stamp, term: Term) -> bool {
        let follows = match self.last {
            Some(last) if (last.term, last.session) == (stamp.term, stamp.session) => stamp.n == last.n + 1,
            Some(last) => (last.term, last.session) < (stamp.term, stamp.session) && stamp.n == 0,
            None => stamp.n == 0,
        };
        let follows = follows || mutant::active(Mutant::RefusedThenAccepted);
        let admitted = stamp.term == term && follows;
        if admitted {
            self.last = Some(stamp);
        }
        admitted
    }
}

/// What is to be done with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Propose it with this stamp; it counts as in flight from now on.
    Append(Stamp),
    /// It was appended before: answer with the original's outcome.
    Duplicate(Original),
    Refuse(Refusal),
}

/// Where the original of a duplicate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original {
    /// Committed, at this base offset.
    Applied(Offset),
    /// Proposed under this number of the open session; wait for its outcome.
    InFlight(u64),
}

/// Why a batch is not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error(
        "producer id {id} is not known to this partition, so its first batch must have sequence 0, not {first}; draw a new producer epoch or id"
    )]
    UnknownProducer { id: ProducerId, first: Sequence },
    #[error(
        "producer id {id} sent sequence {first} where {expected} follows; resend what lies between first"
    )]
    OutOfOrder { id: ProducerId, first: Sequence, expected: Sequence },
    #[error(
        "sequences {first}..={last} of producer id {id} were appended long ago; their offset is not remembered any more"
    )]
    DuplicateSequence { id: ProducerId, first: Sequence, last: Sequence },
    #[error(
        "epoch {epoch} of producer id {id} is fenced by its epoch {current}; stop this producer or draw a new id"
    )]
    StaleEpoch { id: ProducerId, epoch: ProducerEpoch, current: ProducerEpoch },
    #[error("producer id, epoch and sequence must all be there, or none")]
    ImpossibleProducer,
    #[error("the leader is settling an earlier refused write; retry")]
    Draining,
}

impl Refusal {
    /// The Kafka error code of this refusal.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownProducer { .. } => ErrorCode::UnknownProducerId,
            Self::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::DuplicateSequence { .. } => ErrorCode::DuplicateSequenceNumber,
            Self::StaleEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::ImpossibleProducer => ErrorCode::InvalidRecord,
            Self::Draining => ErrorCode::NotLeaderOrFollower,
        }
    }
}

/// What one proposal in flight touches.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InFlight {
    Batch(ProducerId),
    Expiry(Vec<ProducerId>),
    /// A batch without a producer, or a control entry that no decision depends on.
    Other,
}

/// One producer as it will be once everything in flight is applied; `None`: expired.
#[derive(Debug, Clone)]
struct Tentative {
    window: Option<Window<Original>>,
    in_flight: usize,
}

/// The gate of one leadership of one partition.
#[derive(Debug)]
pub struct Gate {
    term: Term,
    session: u64,
    next_n: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// Only producers with something in flight; all others are as applied.
    tentative: BTreeMap<ProducerId, Tentative>,
    draining: bool,
}

impl Gate {
    /// Opens the first session of a leadership. An entry of `term` must have been applied, so that the
    /// tables given to [`Gate::decide`] hold everything that earlier leaders committed.
    #[must_use]
    pub const fn open(term: Term) -> Self {
        Self {
            term,
            session: 0,
            next_n: 0,
            in_flight: BTreeMap::new(),
            tentative: BTreeMap::new(),
            draining: false,
        }
    }

    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Decides on a batch. `applied` must reflect at least every proposal reported by [`Gate::on_applied`].
    pub fn decide(&mut self, applied: &ProducerTable, header: &BatchHeader) -> Decision {
        if self.draining {
            return Decision::Refuse(Refusal::Draining);
        }
        let batch = match ProducerBatch::of(header) {
            Ok(Some(batch)) => batch,
            Ok(None) => return Decision::Append(self.stamp(InFlight::Other)),
            Err(_) => return Decision::Refuse(Refusal::ImpossibleProducer),
        };
        match self.verdict(applied, &batch) {
            Verdict::Next => Decision::Append(self.take(applied, &batch)),
            Verdict::Duplicate(original) => Decision::Duplicate(original),
            refused => Decision::Refuse(refusal(&batch, refused)),
        }
    }

    /// Stamps the expiry of those of `ids` that have nothing in flight; `None` when none is left.
    pub fn expire(&mut self, ids: &[ProducerId]) -> Option<(Stamp, Vec<ProducerId>)> {
        if self.draining {
            return None;
        }
        let idle: Vec<_> = ids.iter().copied().filter(|id| !self.tentative.contains_key(id)).collect();
        if idle.is_empty() {
            return None;
        }
        for id in &idle {
            self.tentative.insert(*id, Tentative { window: None, in_flight: 1 });
        }
        Some((self.stamp(InFlight::Expiry(idle.clone())), idle))
    }

    /// Stamps a control entry that no decision depends on, such as a new log start.
    pub fn control(&mut self) -> Option<Stamp> {
        (!self.draining).then(|| self.stamp(InFlight::Other))
    }

    /// A proposal of the open session was applied.
    pub fn on_applied(&mut self, n: u64, base_offset: Offset) {
        match self.in_flight.remove(&n) {
            Some(InFlight::Batch(id)) => self.settle(id, Some((n, base_offset))),
            Some(InFlight::Expiry(ids)) => {
                for id in ids {
                    self.settle(id, None);
                }
            }
            Some(InFlight::Other) | None => {}
        }
    }

    /// A proposal was refused or stored as void: nothing passes any more until [`Gate::reopen`].
    pub fn on_refused(&mut self, n: u64) {
        self.in_flight.remove(&n);
        self.draining = !mutant::active(Mutant::RefusedThenAccepted);
    }

    /// Proposals that have not been answered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Opens a new session once every proposal of the refused one is answered; from then on the applied
    /// state alone says what was appended. `false` while any is still out.
    pub fn reopen(&mut self) -> bool {
        if self.draining && self.in_flight.is_empty() {
            self.tentative.clear();
            self.session += 1;
            self.next_n = 0;
            self.draining = false;
        }
        !self.draining
    }

    fn stamp(&mut self, proposal: InFlight) -> Stamp {
        let n = self.next_n;
        self.next_n += 1;
        self.in_flight.insert(n, proposal);
        Stamp { term: self.term, session: self.session, n }
    }

    fn verdict(&self, applied: &ProducerTable, batch: &ProducerBatch) -> Verdict<Original> {
        match self.tentative.get(&batch.id) {
            Some(tentative) => judge(tentative.window.as_ref(), batch),
            // What a new leader is sent first are repeats of what the old one has not answered.
            None if mutant::active(Mutant::ProducerWindowLostAtFailover) && self.is_fresh() => Verdict::Next,
            None => match applied.judge(batch) {
                Verdict::Duplicate(offset) => Verdict::Duplicate(Original::Applied(offset)),
                Verdict::Next => Verdict::Next,
                Verdict::OlderThanWindow => Verdict::OlderThanWindow,
                Verdict::UnknownProducer => Verdict::UnknownProducer,
                Verdict::StaleEpoch { current } => Verdict::StaleEpoch { current },
                Verdict::OutOfOrder { expected } => Verdict::OutOfOrder { expected },
            },
        }
    }

    /// Whether the leadership has only begun.
    const fn is_fresh(&self) -> bool {
        const FIRST: u64 = 8;
        self.session == 0 && self.next_n < FIRST
    }

    /// Counts a batch that was judged to be the next one as in flight.
    fn take(&mut self, applied: &ProducerTable, batch: &ProducerBatch) -> Stamp {
        let stamp = self.stamp(InFlight::Batch(batch.id));
        let tentative = self.tentative.entry(batch.id).or_insert_with(|| Tentative {
            window: applied.get(batch.id).map(|producer| lift(&producer.window)),
            in_flight: 0,
        });
        tentative.in_flight += 1;
        let place = Original::InFlight(stamp.n);
        match &mut tentative.window {
            Some(window) => window.push(batch, place),
            None => tentative.window = Some(Window::starting(batch, place)),
        }
        stamp
    }

    fn settle(&mut self, id: ProducerId, appended: Option<(u64, Offset)>) {
        let Some(tentative) = self.tentative.get_mut(&id) else { return };
        tentative.in_flight -= 1;
        if tentative.in_flight == 0 {
            self.tentative.remove(&id);
            return;
        }
        let (Some(window), Some((n, base_offset))) = (&mut tentative.window, appended) else { return };
        for batch in &mut window.batches {
            if batch.place == Original::InFlight(n) {
                batch.place = Original::Applied(base_offset);
            }
        }
        trim(window);
    }
}

fn lift(window: &Window<Offset>) -> Window<Original> {
    let batches = window.batches.iter().map(|batch| crate::producer::Remembered {
        first: batch.first,
        last: batch.last,
        place: Original::Applied(batch.place),
    });
    Window { epoch: window.epoch, batches: batches.collect() }
}

/// Keeps the newest batches, and every one in flight however many there are: a repeat of one of those
/// must wait for its outcome, and "appended long ago" would be a lie.
fn trim(window: &mut Window<Original>) {
    while window.batches.len() > WINDOW_BATCHES {
        match window.batches.front().map(|batch| batch.place) {
            Some(Original::Applied(_)) => window.batches.pop_front(),
            _ => return,
        };
    }
}

fn refusal<P>(batch: &ProducerBatch, verdict: Verdict<P>) -> Refusal {
    let ProducerBatch { id, epoch, first, last } = *batch;
    match verdict {
        Verdict::UnknownProducer => Refusal::UnknownProducer { id, first },
        Verdict::OutOfOrder { expected } => Refusal::OutOfOrder { id, first, expected },
        Verdict::StaleEpoch { current } => Refusal::StaleEpoch { id, epoch, current },
        Verdict::OlderThanWindow | Verdict::Next | Verdict::Duplicate(_) => {
            Refusal::DuplicateSequence { id, first, last }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(producer_id: i64, first: i32) -> BatchHeader {
        BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: headwater_proto::record::Attributes(0),
            last_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id,
            producer_epoch: 0,
            base_sequence: first,
            record_count: 1,
        }
    }

    fn stamp(n: u64) -> Stamp {
        Stamp { term: Term(1), session: 0, n }
    }

    #[test]
    fn a_repeat_of_any_batch_in_flight_waits_for_it_however_many_there_are() {
        let table = ProducerTable::default();
        let mut gate = Gate::open(Term(1));
        for n in 0..9 {
            assert_eq!(gate.decide(&table, &header(7, n)), Decision::Append(stamp(n as u64)));
        }
        gate.on_applied(0, Offset(0));
        let repeat = gate.decide(&table, &header(7, 1));
        assert_eq!(repeat, Decision::Duplicate(Original::InFlight(1)));
        gate.on_applied(1, Offset(1));
        assert_eq!(
            gate.decide(&table, &header(7, 1)),
            Decision::Refuse(Refusal::DuplicateSequence {
                id: ProducerId(7),
                first: Sequence(1),
                last: Sequence(1)
            })
        );
    }

    #[test]
    fn after_a_refusal_nothing_passes_until_all_are_answered() {
        let table = ProducerTable::default();
        let mut gate = Gate::open(Term(1));
        for n in 0..3 {
            gate.decide(&table, &header(-1, n));
        }
        gate.on_refused(1);
        assert_eq!(gate.decide(&table, &header(-1, 3)), Decision::Refuse(Refusal::Draining));
        assert!(!gate.reopen());
        gate.on_applied(0, Offset(0));
        gate.on_refused(2);
        assert!(gate.reopen());
        let next = Stamp { term: Term(1), session: 1, n: 0 };
        assert_eq!(gate.decide(&table, &header(-1, 3)), Decision::Append(next));
    }

    #[test]
    fn a_producer_being_expired_is_unknown_and_one_in_flight_is_not_expired() {
        let mut table = ProducerTable::default();
        let id = ProducerId(7);
        let Ok(Some(first)) = ProducerBatch::of(&header(7, 0)) else { panic!("a producer") };
        table.append(&first, Offset(0), headwater_proto::types::LogIndex(1));
        let mut gate = Gate::open(Term(1));
        assert_eq!(gate.expire(&[id]), Some((stamp(0), vec![id])));
        let unknown = Refusal::UnknownProducer { id, first: Sequence(1) };
        assert_eq!(gate.decide(&table, &header(7, 1)), Decision::Refuse(unknown));
        assert_eq!(gate.decide(&table, &header(7, 0)), Decision::Append(stamp(1)));
        assert_eq!(gate.expire(&[id]), None);
    }

    #[test]
    fn the_log_admits_one_session_in_order_and_nothing_older() {
        let mut check = StampCheck::default();
        let at = |session, n| Stamp { term: Term(2), session, n };
        assert!(!check.admit(at(0, 1), Term(2)), "the first of a session is missing");
        assert!(check.admit(at(0, 0), Term(2)));
        assert!(!check.admit(at(0, 1), Term(3)), "proposed under another leadership");
        assert!(check.admit(at(0, 1), Term(2)));
        assert!(!check.admit(at(0, 3), Term(2)), "one is missing");
        assert!(check.admit(at(2, 0), Term(2)));
        assert!(!check.admit(at(0, 2), Term(2)), "the session was closed");
        assert!(!check.admit(Stamp { term: Term(1), session: 9, n: 0 }, Term(1)));
    }
}
