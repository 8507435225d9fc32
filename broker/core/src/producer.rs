//! Idempotent producers: which batches of a producer were appended, and what its next one may be.
//!
//! Source: KIP-98, KIP-360, and `ProducerAppendInfo.checkSequence` of Apache Kafka. Invariants: within one
//! epoch of a producer id the sequences in the log are contiguous from 0 on; the window holds the last
//! [`WINDOW_BATCHES`] batches. One deliberate difference: Kafka lets a producer without state begin at any
//! sequence, so a pipelined second batch may overtake a refused first one and the first is then lost or
//! late. Here such a producer must begin at 0 and is told UNKNOWN_PRODUCER_ID otherwise, which clients
//! answer by drawing a new epoch. It is also what makes "older than the window" provably appended.

use std::collections::{BTreeMap, VecDeque};

use headwater_proto::record::BatchHeader;
use headwater_proto::types::{LogIndex, Offset, ProducerEpoch, ProducerId, Sequence};

/// Batches remembered per producer: as many as Kafka's clients keep in flight.
pub const WINDOW_BATCHES: usize = 5;

/// Sequences wrap, so of two the later one is the one that lies less than half the space ahead.
const HALF_SEQUENCE_SPACE: i32 = 1 << 30;

/// The producer fields of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    pub first: Sequence,
    pub last: Sequence,
}

/// Producer fields that are neither absent nor possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImpossibleProducer;

impl ProducerBatch {
    /// `None` for a batch without a producer id.
    ///
    /// # Errors
    /// A producer id with a negative epoch or sequence, or one below -1.
    pub fn of(header: &BatchHeader) -> Result<Option<Self>, ImpossibleProducer> {
        if header.producer_id == -1 {
            return Ok(None);
        }
        if header.producer_id < 0
            || header.producer_epoch < 0
            || header.base_sequence < 0
            || header.last_offset_delta < 0
        {
            return Err(ImpossibleProducer);
        }
        let first = Sequence(header.base_sequence);
        Ok(Some(Self {
            id: ProducerId(header.producer_id),
            epoch: ProducerEpoch(header.producer_epoch),
            first,
            last: first.advance(header.last_offset_delta),
        }))
    }
}

/// One remembered batch; `P` says where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered<P> {
    pub first: Sequence,
    pub last: Sequence,
    pub place: P,
}

/// The newest batches of one producer id in one epoch, oldest first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window<P> {
    pub epoch: ProducerEpoch,
    pub batches: VecDeque<Remembered<P>>,
}

/// What the window says of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<P> {
    /// It is the one that follows.
    Next,
    /// It is in the window, at this place.
    Duplicate(P),
    /// It was appended before everything in the window.
    OlderThanWindow,
    /// Nothing is known of its producer, and it is not a first batch.
    UnknownProducer,
    /// A newer epoch of its producer has appended.
    StaleEpoch { current: ProducerEpoch },
    /// It leaves a gap, or overlaps what was appended without being the same.
    OutOfOrder { expected: Sequence },
}

/// Judges a batch by what is known of its producer.
pub fn judge<P: Copy>(known: Option<&Window<P>>, batch: &ProducerBatch) -> Verdict<P> {
    let Some(window) = known else {
        return if batch.first == Sequence(0) { Verdict::Next } else { Verdict::UnknownProducer };
    };
    if batch.epoch < window.epoch {
        return Verdict::StaleEpoch { current: window.epoch };
    }
    if batch.epoch > window.epoch {
        let begins = batch.first == Sequence(0);
        return if begins { Verdict::Next } else { Verdict::OutOfOrder { expected: Sequence(0) } };
    }
    let same = |one: &&Remembered<P>| one.first == batch.first && one.last == batch.last;
    if let Some(original) = window.batches.iter().rev().find(same) {
        return Verdict::Duplicate(original.place);
    }
    let expected = window.batches.back().map_or(Sequence(0), |newest| newest.last.advance(1));
    if batch.first == expected {
        return Verdict::Next;
    }
    let oldest = window.batches.front().map_or(Sequence(0), |oldest| oldest.first);
    let wraps = batch.first > batch.last;
    if !wraps && batch.last < oldest && oldest.get() - batch.last.get() < HALF_SEQUENCE_SPACE {
        return Verdict::OlderThanWindow;
    }
    Verdict::OutOfOrder { expected }
}

impl<P: Copy> Window<P> {
    /// Adds a batch that was judged to be the next one: a newer epoch starts the window afresh.
    pub fn push(&mut self, batch: &ProducerBatch, place: P) {
        if batch.epoch != self.epoch {
            self.epoch = batch.epoch;
            self.batches.clear();
        }
        self.batches.push_back(Remembered { first: batch.first, last: batch.last, place });
    }

    /// A window that holds this batch alone.
    #[must_use]
    pub fn starting(batch: &ProducerBatch, place: P) -> Self {
        let mut window = Self { epoch: batch.epoch, batches: VecDeque::new() };
        window.push(batch, place);
        window
    }
}

/// What the log says of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    pub window: Window<Offset>,
    /// Its newest entry: orders producers by how long they have been silent.
    pub last_index: LogIndex,
}

/// The producers of one partition, as of the last applied entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
}

impl ProducerTable {
    #[must_use]
    pub fn get(&self, id: ProducerId) -> Option<&Producer> {
        self.producers.get(&id)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Producers by id.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.producers.iter().map(|(id, producer)| (*id, producer))
    }

    /// Up to `count` producers, those without a batch for the longest first.
    #[must_use]
    pub fn longest_silent(&self, count: usize) -> Vec<ProducerId> {
        let mut by_index: Vec<_> = self.producers.iter().map(|(id, p)| (p.last_index, *id)).collect();
        by_index.sort_unstable();
        by_index.into_iter().take(count).map(|(_, id)| id).collect()
    }

    /// Judges a batch by what was applied.
    #[must_use]
    pub fn judge(&self, batch: &ProducerBatch) -> Verdict<Offset> {
        judge(self.get(batch.id).map(|producer| &producer.window), batch)
    }

    /// Records an applied batch that [`ProducerTable::judge`] found to be the next one.
    pub fn append(&mut self, batch: &ProducerBatch, base_offset: Offset, index: LogIndex) {
        match self.producers.get_mut(&batch.id) {
            Some(producer) => {
                producer.window.push(batch, base_offset);
                if producer.window.batches.len() > WINDOW_BATCHES {
                    producer.window.batches.pop_front();
                }
                producer.last_index = index;
            }
            None => {
                let window = Window::starting(batch, base_offset);
                self.producers.insert(batch.id, Producer { window, last_index: index });
            }
        }
    }

    /// Forgets producers; unknown ones are no error, since two expiries may name the same.
    pub fn expire(&mut self, ids: &[ProducerId]) {
        for id in ids {
            self.producers.remove(id);
        }
    }

    /// Restores a row of an encoded table; `false` when it breaks the table's invariants.
    pub(crate) fn restore(&mut self, id: ProducerId, producer: Producer) -> bool {
        let batches = &producer.window.batches;
        let mut before: Option<&Remembered<Offset>> = None;
        for batch in batches {
            let follows = before.is_none_or(|b| b.last.advance(1) == batch.first && b.place < batch.place);
            if !follows || batch.first.get() < 0 || batch.last.get() < 0 || batch.place.get() < 0 {
                return false;
            }
            before = Some(batch);
        }
        let ordered = self.producers.last_key_value().is_none_or(|(last, _)| *last < id);
        let possible = id.get() >= 0 && producer.window.epoch.get() >= 0;
        let whole = !batches.is_empty() && batches.len() <= WINDOW_BATCHES;
        if ordered && possible && whole {
            self.producers.insert(id, producer);
        }
        ordered && possible && whole
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn batch(epoch: i16, first: i32, count: i32) -> ProducerBatch {
        let first = Sequence(first);
        let last = first.advance(count - 1);
        ProducerBatch { id: ProducerId(9), epoch: ProducerEpoch(epoch), first, last }
    }

    /// A table that appended these batches of (first, count), one offset per record.
    fn table(epoch: i16, batches: &[(i32, i32)]) -> ProducerTable {
        let mut table = ProducerTable::default();
        let mut offset = 0;
        for (index, (first, count)) in batches.iter().enumerate() {
            table.append(&batch(epoch, *first, *count), Offset(offset), LogIndex(index as u64 + 1));
            offset += i64::from(*count);
        }
        table
    }

    #[test]
    fn a_producer_without_state_begins_at_zero() {
        let table = ProducerTable::default();
        assert_eq!(table.judge(&batch(0, 0, 3)), Verdict::Next);
        assert_eq!(table.judge(&batch(0, 3, 1)), Verdict::UnknownProducer);
    }

    #[test]
    fn the_last_five_batches_are_duplicates_and_older_ones_are_known_to_be_old() {
        let table = table(0, &[(0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2)]);
        assert_eq!(table.judge(&batch(0, 12, 1)), Verdict::Next);
        for (first, offset) in [(2, 2), (4, 4), (10, 10)] {
            assert_eq!(table.judge(&batch(0, first, 2)), Verdict::Duplicate(Offset(offset)));
        }
        assert_eq!(table.judge(&batch(0, 0, 2)), Verdict::OlderThanWindow);
        let out_of_order = Verdict::OutOfOrder { expected: Sequence(12) };
        assert_eq!(table.judge(&batch(0, 13, 1)), out_of_order, "a gap");
        assert_eq!(table.judge(&batch(0, 4, 1)), out_of_order, "part of a batch");
        assert_eq!(table.judge(&batch(0, 1, 2)), out_of_order, "half in the window");
    }

    #[test]
    fn a_newer_epoch_begins_at_zero_and_fences_the_older_one() {
        let mut table = table(3, &[(0, 2)]);
        assert_eq!(table.judge(&batch(4, 2, 1)), Verdict::OutOfOrder { expected: Sequence(0) });
        assert_eq!(table.judge(&batch(4, 0, 1)), Verdict::Next);
        table.append(&batch(4, 0, 1), Offset(2), LogIndex(2));
        assert_eq!(table.judge(&batch(3, 2, 1)), Verdict::StaleEpoch { current: ProducerEpoch(4) });
        assert_eq!(table.judge(&batch(4, 0, 1)), Verdict::Duplicate(Offset(2)));
    }

    #[test]
    fn sequences_wrap_and_a_gap_across_the_wrap_is_never_taken_for_an_old_batch() {
        let last = i32::MAX - 1;
        let wrapping = table(0, &[(last - 1, 2), (i32::MAX, 5), (4, 2)]);
        assert_eq!(wrapping.judge(&batch(0, 6, 1)), Verdict::Next);
        assert_eq!(wrapping.judge(&batch(0, i32::MAX, 5)), Verdict::Duplicate(Offset(2)));
        let near_end = table(0, &[(last - 1, 2)]);
        let gap = Verdict::OutOfOrder { expected: Sequence(i32::MAX) };
        assert_eq!(near_end.judge(&batch(0, 3, 1)), gap);
        let after = Verdict::OutOfOrder { expected: Sequence(6) };
        assert_eq!(wrapping.judge(&batch(0, 100, 1)), after);
        assert_eq!(wrapping.judge(&batch(0, last - 20, 1)), Verdict::OlderThanWindow);
    }
}
