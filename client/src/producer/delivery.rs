//! The promise that a sent record gets: one shared state per batch, one small handle per record.
//!
//! Invariants: a batch is resolved exactly once, all its records at the same time; waiting costs nothing
//! until a handle is polled.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{DeliveryError, TopicPartition};

/// Where a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub partition: i32,
    /// -1 where it isn't known: with acks 0.
    pub offset: i64,
}

/// What became of a batch: the offset of its first record, -1 for none known.
pub(crate) type Outcome = Result<i64, DeliveryError>;

/// What became of a part of a batch that was too large for the broker.
#[derive(Debug)]
struct PartOutcome {
    /// Index, in the batch, of the part's first record.
    first: u32,
    records: u32,
    outcome: Outcome,
}

/// What the handles of one batch share.
#[derive(Debug)]
pub(crate) struct BatchState {
    partition: TopicPartition,
    /// In the order of the records: one for a batch that was never split.
    outcome: OnceLock<Vec<PartOutcome>>,
    parts: Mutex<Vec<PartOutcome>>,
    /// Handles that wait, each in the slot that it remembers.
    waiting: Mutex<Vec<Waker>>,
}

impl BatchState {
    pub fn new(partition: TopicPartition) -> Self {
        Self { partition, outcome: OnceLock::new(), parts: Mutex::default(), waiting: Mutex::default() }
    }

    /// Resolves all handles. Only the first call counts.
    pub fn resolve(&self, outcome: Outcome) {
        self.resolve_all(vec![PartOutcome { first: 0, records: 0, outcome }]);
    }

    /// Notes what became of the records from index `first` on; resolves all handles with the last part of
    /// the batch's `of` records.
    pub fn resolve_part(&self, first: u32, records: u32, of: u32, outcome: Outcome) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(PartOutcome { first, records, outcome });
        if parts.iter().map(|part| part.records).sum::<u32>() < of {
            return;
        }
        let mut parts = std::mem::take(&mut *parts);
        parts.sort_by_key(|part| part.first);
        self.resolve_all(parts);
    }

    fn resolve_all(&self, outcome: Vec<PartOutcome>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.outcome.set(outcome).is_ok() {
            let wakers = std::mem::take(&mut *waiting);
            drop(waiting);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn poll(&self, slot: &mut Option<usize>, cx: &Context<'_>) -> Poll<&[PartOutcome]> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Resolved between the look above and the lock: nobody would wake us any more.
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        match slot.and_then(|at| waiting.get_mut(at)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                *slot = Some(waiting.len());
                waiting.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

/// Resolves when the fate of a record is known. Dropping it changes nothing: the record is sent.
#[derive(Debug)]
#[must_use = "a record can fail after it was accepted"]
pub struct Delivery {
    batch: Arc<BatchState>,
    index: u32,
    slot: Option<usize>,
}

impl Delivery {
    pub(crate) const fn new(batch: Arc<BatchState>, index: u32) -> Self {
        Self { batch, index, slot: None }
    }

    /// The partition that the record was put into.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.batch.partition
    }

    /// The outcome, if it is known already.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<Delivered, DeliveryError>> {
        self.batch.outcome.get().map(|outcome| self.of(outcome))
    }

    fn of(&self, parts: &[PartOutcome]) -> Result<Delivered, DeliveryError> {
        let partition = self.batch.partition.partition;
        let at = parts.partition_point(|part| part.first <= self.index);
        match at.checked_sub(1).and_then(|at| parts.get(at)) {
            Some(PartOutcome { first, outcome: Ok(base), .. }) if *base >= 0 => {
                Ok(Delivered { partition, offset: base + i64::from(self.index - first) })
            }
            Some(PartOutcome { outcome: Ok(_), .. }) => Ok(Delivered { partition, offset: -1 }),
            Some(PartOutcome { outcome: Err(error), .. }) => Err(error.clone()),
            None => Err(DeliveryError::Closed { partition: self.batch.partition.clone() }),
        }
    }
}

impl Future for Delivery {
    type Output = Result<Delivered, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut slot = this.slot;
        let result = this.batch.poll(&mut slot, cx).map(|outcome| this.of(outcome));
        this.slot = slot;
        result
    }
}
