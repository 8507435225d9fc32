//! The sending side of one partition: sequences, what is in flight, what must be sent again.
//!
//! No I/O and no clock: the driver says what happened and when. Invariants, for an idempotent
//! producer:
//! - A batch keeps its bytes, and so its sequence, for as long as the broker may have stored it: sent
//!   again after a lost answer, it is stored once. It gets another sequence only when it is certain
//!   that it is not stored and never will be under the old one.
//! - After a batch was refused or lost, nothing new is sent before all in flight are answered; then
//!   all go again in order, from the first unacknowledged on.
//! - No batch is sent that is five or more ahead of one in flight: a broker knows only the last five
//!   from duplicates, and answers come in any order.
//! - All in flight is with one broker. Once another one leads, what is in flight is taken back and sent
//!   there; a late answer of the first is not heard.
//! - The parts of a batch that was too large go one at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::ErrorCode;
use headwater_proto::types::Sequence;
use tokio::time::Instant;

use super::accumulator::{Accumulator, Next, OpenBatch, Queue};
use super::sealed::{Batch, Identity, Key, discard};
use crate::DeliveryError;

/// Batches from this one on need other sequences, since the one before them will never be stored.
#[derive(Debug, Clone, Copy)]
struct Renumber {
    from: Key,
    /// The sequence to go on with; `None` where only a new producer id is safe.
    sequence: Option<Sequence>,
}

/// What a lane wants to do.
#[derive(Debug)]
pub enum Step {
    Send {
        key: Key,
        bytes: Bytes,
    },
    /// A new producer id, by [`Lane::set_identity`].
    NeedsIdentity,
    /// Nothing until then, or until something happens.
    Wait(Option<Instant>),
}

/// A broker's "no" to one batch.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    pub retriable: bool,
}

/// What a refusal asks of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The batch is resolved, or goes again at once.
    GoOn,
    /// It goes again after a pause.
    Pause,
    /// It goes again after a pause, or at once if it is known that another broker leads.
    FindLeader,
    /// The broker leads, in a newer epoch than was known: it goes again at once, without an epoch.
    ForgetEpoch,
}

#[derive(Debug)]
pub struct Lane {
    pub queue: Arc<Queue>,
    /// `None`: not idempotent.
    identity: Option<Identity>,
    next_sequence: Sequence,
    /// To be sent again, in order.
    retry: VecDeque<Batch>,
    /// Sent and not answered, in order.
    in_flight: VecDeque<Batch>,
    /// The newest batch that was ever sent.
    last_order: u64,
    /// Something failed: nothing is sent until all in flight are answered.
    draining: bool,
    renumber: Option<Renumber>,
    not_before: Option<Instant>,
    /// Why the last batch was not taken.
    last_failure: String,
}

impl Lane {
    pub fn new(queue: Arc<Queue>, identity: Option<Identity>) -> Self {
        Self {
            queue,
            identity,
            next_sequence: Sequence(0),
            retry: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_order: 0,
            draining: false,
            renumber: None,
            not_before: None,
            last_failure: "its turn did not come".to_owned(),
        }
    }

    /// The next batch to send, if one may be sent now. `at_once` ignores linger.
    pub fn next(&mut self, shared: &Accumulator, now: Instant, at_once: bool) -> Step {
        if let Some(at) = self.not_before {
            if now < at {
                return Step::Wait(Some(at));
            }
            self.not_before = None;
        }
        if self.in_flight.is_empty() {
            self.draining = false;
        }
        if self.draining || !self.window_has_room(shared.config.max_in_flight_per_partition) {
            return Step::Wait(None);
        }
        if let Some(renumber) = self.renumber {
            let earlier = self.retry.front().is_some_and(|batch| batch.key < renumber.from);
            if !earlier && !self.in_flight.is_empty() {
                return Step::Wait(None);
            }
            if !earlier && !self.renumber_retries(renumber) {
                return Step::NeedsIdentity;
            }
        }
        if let Some(batch) = self.retry.pop_front() {
            shared.counters.retried();
            return self.launch(batch);
        }
        loop {
            match self.queue.take(&shared.config, now, at_once) {
                Next::Batch(open) => {
                    if let Some(batch) = self.seal(shared, open) {
                        return self.launch(batch);
                    }
                }
                Next::Lingers(until) => return Step::Wait(Some(until)),
                Next::Empty => return Step::Wait(None),
            }
        }
    }

    /// Whether the next batch is close enough to the oldest in flight.
    fn window_has_room(&self, window: usize) -> bool {
        let (Some(oldest), Some(newest)) = (self.in_flight.front(), self.in_flight.back()) else {
            return true;
        };
        let parts = self.in_flight.iter().chain(self.retry.front());
        if parts.into_iter().any(|batch| batch.part_of.is_some()) {
            return false;
        }
        let next = match self.retry.front() {
            Some(batch) => batch.key.order,
            None => self.last_order.max(newest.key.order) + 1,
        };
        self.in_flight.len() < window
            && (self.identity.is_none() || next.saturating_sub(oldest.key.order) < window as u64)
    }

    fn launch(&mut self, batch: Batch) -> Step {
        let step = Step::Send { key: batch.key, bytes: batch.bytes.clone() };
        self.last_order = self.last_order.max(batch.key.order);
        self.in_flight.push_back(batch);
        step
    }

    /// Gives the batch its sequence and its final form.
    fn seal(&mut self, shared: &Accumulator, open: OpenBatch) -> Option<Batch> {
        let OpenBatch { mut builder, state, charged_bytes, opened, order } = open;
        let records = builder.record_count();
        let sequence = self.next_sequence;
        if let Some(identity) = self.identity {
            builder.set_producer(identity.id, identity.epoch, sequence.get());
        }
        let (bytes, error) = match builder.build() {
            Ok(bytes) => (bytes, None),
            Err(error) => (Bytes::new(), Some(error)),
        };
        let batch = Batch {
            bytes,
            state,
            records,
            part_of: None,
            charged_bytes,
            opened,
            key: Key { order, first: 0 },
            sequence,
            in_doubt: false,
        };
        if let Some(error) = error {
            let partition = self.queue.partition.clone();
            batch.resolve(shared, Err(DeliveryError::Encoding { partition, error }));
            return None;
        }
        self.next_sequence = sequence.advance(records);
        Some(batch)
    }

    /// The broker stored the batch, now or before.
    pub fn delivered(&mut self, shared: &Accumulator, key: Key, base_offset: i64) {
        if let Some(batch) = self.take_in_flight(key) {
            batch.resolve(shared, Ok(base_offset));
        }
    }

    /// The broker refused the batch.
    pub fn refused(&mut self, shared: &Accumulator, key: Key, refusal: Refusal) -> Reaction {
        let Some(mut batch) = self.take_in_flight(key) else { return Reaction::GoOn };
        self.last_failure = format!("{} ({})", refusal.message, refusal.code.name());
        let idempotent = self.identity.is_some();
        let lost_place = matches!(
            refusal.code,
            ErrorCode::OutOfOrderSequenceNumber
                | ErrorCode::UnknownProducerId
                | ErrorCode::InvalidProducerEpoch
        );
        if idempotent && lost_place {
            return self.lost_place(shared, batch, refusal.code);
        }
        // Neither says that nothing was stored.
        let unsure = matches!(
            refusal.code,
            ErrorCode::RequestTimedOut | ErrorCode::KafkaStorageError | ErrorCode::UnknownServerError
        );
        batch.in_doubt |= unsure;
        if refusal.retriable || refusal.code.is_retriable() || (unsure && idempotent) {
            self.put_back(batch);
            return match refusal.code {
                ErrorCode::FencedLeaderEpoch => Reaction::ForgetEpoch,
                ErrorCode::NotLeaderOrFollower
                | ErrorCode::LeaderNotAvailable
                | ErrorCode::UnknownLeaderEpoch
                | ErrorCode::UnknownTopicOrPartition
                | ErrorCode::RequestTimedOut
                | ErrorCode::KafkaStorageError => Reaction::FindLeader,
                _ => Reaction::Pause,
            };
        }
        if matches!(refusal.code, ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge)
            && self.split(shared, &batch)
        {
            return Reaction::GoOn;
        }
        let partition = self.queue.partition.clone();
        if batch.in_doubt {
            let reason = self.last_failure.clone();
            batch.resolve(shared, Err(DeliveryError::Unknown { partition, reason }));
        } else {
            let Refusal { code, message, .. } = refusal;
            self.skip_sequence_of(&batch);
            batch.resolve(shared, Err(DeliveryError::Refused { partition, code, message }));
        }
        Reaction::GoOn
    }

    /// Puts two halves in the place of a batch that was too large and is certainly not stored.
    fn split(&mut self, shared: &Accumulator, batch: &Batch) -> bool {
        if batch.in_doubt || batch.records < 2 {
            return false;
        }
        let Ok((parts, part_bytes)) = batch.split(&shared.config) else { return false };
        self.queue.shrink(part_bytes);
        parts.into_iter().for_each(|part| self.put_back(part));
        true
    }

    /// The batch is not what the broker expects next of this producer.
    fn lost_place(&mut self, shared: &Accumulator, batch: Batch, code: ErrorCode) -> Reaction {
        let earlier = |other: &Batch| other.key < batch.key;
        let is_first = !self.in_flight.iter().any(earlier) && !self.retry.iter().any(earlier);
        // Not the first: it was refused because one before it was, and follows that one again. First
        // and in doubt: one before it may yet arrive at the broker, and this one's old attempt after
        // it; another sequence could store it twice.
        if is_first && batch.in_doubt && code == ErrorCode::UnknownProducerId {
            // Its producer was expired, or its topic is another of the same name: nothing can tell any more
            // whether an earlier attempt was stored.
            let (partition, reason) = (self.queue.partition.clone(), self.last_failure.clone());
            batch.resolve(shared, Err(DeliveryError::Unknown { partition, reason }));
            return Reaction::GoOn;
        }
        if is_first && !batch.in_doubt {
            self.renumber = Some(Renumber { from: batch.key, sequence: None });
        }
        self.put_back(batch);
        if is_first { Reaction::Pause } else { Reaction::GoOn }
    }

    /// The connection is gone. `in_doubt`: the batches may have been sent.
    pub fn lost(&mut self, keys: &[Key], in_doubt: bool, reason: &str) {
        reason.clone_into(&mut self.last_failure);
        for key in keys {
            if let Some(mut batch) = self.take_in_flight(*key) {
                batch.in_doubt |= in_doubt;
                self.put_back(batch);
            }
        }
    }

    /// Another broker leads: nothing is expected any more of the one that all in flight was sent to.
    pub fn take_back(&mut self) {
        "another broker leads now".clone_into(&mut self.last_failure);
        for mut batch in std::mem::take(&mut self.in_flight) {
            batch.in_doubt = true;
            self.put_back(batch);
        }
    }

    pub fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub const fn is_idempotent(&self) -> bool {
        self.identity.is_some()
    }

    /// Ends a pause: what it waited for has happened.
    pub const fn resume(&mut self) {
        self.not_before = None;
    }

    /// Nothing is sent before `at`.
    pub fn pause_until(&mut self, at: Instant) {
        self.not_before = Some(self.not_before.map_or(at, |before| before.max(at)));
    }

    /// Goes on under a new producer id, with sequences from 0 on.
    pub fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(identity);
        if let Some(renumber) = &mut self.renumber {
            renumber.sequence = Some(Sequence(0));
        }
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, shared: &Accumulator, now: Instant) {
        let after = shared.config.delivery_timeout;
        let overdue = |batch: &&Batch| now.saturating_duration_since(batch.opened) >= after;
        while self.in_flight.front().as_ref().is_some_and(overdue) {
            let Some(batch) = self.in_flight.pop_front() else { break };
            let reason = format!("no answer within {} ms; before: {}", after.as_millis(), self.last_failure);
            let partition = self.queue.partition.clone();
            batch.resolve(shared, Err(DeliveryError::Unknown { partition, reason }));
        }
        while self.retry.front().as_ref().is_some_and(overdue) {
            let Some(batch) = self.retry.pop_front() else { break };
            let (partition, reason) = (self.queue.partition.clone(), self.last_failure.clone());
            if batch.in_doubt {
                batch.resolve(shared, Err(DeliveryError::Unknown { partition, reason }));
            } else {
                self.skip_sequence_of(&batch);
                batch.resolve(shared, Err(DeliveryError::Expired { partition, after, reason }));
            }
        }
        let Some(before) = now.checked_sub(after) else { return };
        for open in self.queue.expire(before) {
            let partition = self.queue.partition.clone();
            let reason = self.last_failure.clone();
            discard(shared, open, DeliveryError::Expired { partition, after, reason });
        }
    }

    /// Ends everything: the producer goes away.
    pub fn abandon(&mut self, shared: &Accumulator) {
        let partition = self.queue.partition.clone();
        let in_flight = self.in_flight.drain(..).map(|batch| Batch { in_doubt: true, ..batch });
        for batch in in_flight.chain(self.retry.drain(..)) {
            let error = if batch.in_doubt {
                let reason = "the producer was dropped before an answer came".to_owned();
                DeliveryError::Unknown { partition: partition.clone(), reason }
            } else {
                DeliveryError::Closed { partition: partition.clone() }
            };
            batch.resolve(shared, Err(error));
        }
        self.queue.close_open();
        while let Next::Batch(open) = self.queue.take(&shared.config, Instant::now(), true) {
            discard(shared, open, DeliveryError::Closed { partition: partition.clone() });
        }
    }

    /// Order of the oldest batch that is not resolved.
    pub fn oldest_order(&self) -> Option<u64> {
        let queued = self.queue.oldest().map(|(order, _)| order);
        let sent = [self.in_flight.front(), self.retry.front()].into_iter().flatten();
        sent.map(|batch| batch.key.order).chain(queued).min()
    }

    /// When the oldest batch must be given up.
    pub fn expires(&self, shared: &Accumulator) -> Option<Instant> {
        let queued = self.queue.oldest().map(|(_, opened)| opened);
        let sent = [self.in_flight.front(), self.retry.front()].into_iter().flatten();
        let oldest = sent.map(|batch| batch.opened).chain(queued).min()?;
        Some(oldest + shared.config.delivery_timeout)
    }

    fn take_in_flight(&mut self, key: Key) -> Option<Batch> {
        let at = self.in_flight.iter().position(|batch| batch.key == key)?;
        self.in_flight.remove(at)
    }

    fn put_back(&mut self, batch: Batch) {
        let at = self.retry.partition_point(|other| other.key < batch.key);
        self.retry.insert(at, batch);
        self.draining = true;
    }

    /// A batch will certainly never be stored: those after it close the gap.
    fn skip_sequence_of(&mut self, batch: &Batch) {
        let earlier = self.renumber.is_some_and(|renumber| renumber.from <= batch.key);
        if self.identity.is_some() && !earlier {
            self.renumber = Some(Renumber { from: batch.key, sequence: Some(batch.sequence) });
            self.draining = true;
        }
    }

    /// Gives all batches from `renumber` on new sequences; false when that takes a new producer id.
    fn renumber_retries(&mut self, renumber: Renumber) -> bool {
        let Some(identity) = self.identity else { return true };
        let Some(first) = renumber.sequence else { return false };
        // Under the same producer id, an old attempt could still fill the gap that is closed here.
        let in_doubt = |batch: &Batch| batch.in_doubt && batch.is_stamped(identity);
        if self.retry.iter().any(in_doubt) {
            self.renumber = Some(Renumber { sequence: None, ..renumber });
            return false;
        }
        let mut sequence = first;
        for batch in &mut self.retry {
            batch.restamp(identity, sequence);
            sequence = sequence.advance(batch.records);
        }
        self.next_sequence = sequence;
        self.renumber = None;
        true
    }
}
