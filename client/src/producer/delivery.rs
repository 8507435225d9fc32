//! The promise that a sent record gets: one shared state per batch, one small handle per record.
//!
//! Invariants: a batch is resolved exactly once; waiting costs nothing until a handle is polled.

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

/// What the handles of one batch share.
#[derive(Debug)]
pub(crate) struct BatchState {
    partition: TopicPartition,
    outcome: OnceLock<Outcome>,
    /// Handles that wait, each in the slot that it remembers.
    waiting: Mutex<Vec<Waker>>,
}

impl BatchState {
    pub fn new(partition: TopicPartition) -> Self {
        Self { partition, outcome: OnceLock::new(), waiting: Mutex::default() }
    }

    /// Resolves all handles. Only the first call counts.
    pub fn resolve(&self, outcome: Outcome) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.outcome.set(outcome).is_ok() {
            let wakers = std::mem::take(&mut *waiting);
            drop(waiting);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn poll(&self, slot: &mut Option<usize>, cx: &Context<'_>) -> Poll<&Outcome> {
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

    /// Whether both records went into one batch and hence share their fate: of many deliveries, it
    /// is enough to await one per batch.
    #[must_use]
    pub fn same_batch(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.batch, &other.batch)
    }

    fn of(&self, outcome: &Outcome) -> Result<Delivered, DeliveryError> {
        let partition = self.batch.partition.partition;
        match outcome {
            Ok(-1) => Ok(Delivered { partition, offset: -1 }),
            Ok(base) => Ok(Delivered { partition, offset: base + i64::from(self.index) }),
            Err(error) => Err(error.clone()),
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
