//! Memory for messages of clients, per connection and for the whole broker.
//!
//! A message is charged by its length before any of it is handed to a decoder, and as a whole: were it
//! charged piece by piece, half-received messages could hold all memory and wait for each other.
//! The charge lasts until the message has been answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Charged on top of a message's length for what surrounds it, so that empty messages are bounded too.
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The memory of the broker for unanswered messages. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    total: Arc<Semaphore>,
    total_bytes: usize,
    per_connection_bytes: usize,
}

impl MemoryBudget {
    /// `total_bytes` must fit a semaphore (an eighth of the address space) and a `u32` per message.
    #[must_use]
    pub fn new(total_bytes: usize, per_connection_bytes: usize) -> Self {
        let total_bytes = total_bytes.min(Semaphore::MAX_PERMITS);
        Self { total: Arc::new(Semaphore::new(total_bytes)), total_bytes, per_connection_bytes }
    }

    /// The share of one connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionMemory {
        let connection = Arc::new(Semaphore::new(self.per_connection_bytes));
        ConnectionMemory { connection, budget: self.clone() }
    }

    /// Bytes not charged to anyone.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.total.available_permits()
    }

    /// Bytes charged now.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.total_bytes - self.free_bytes()
    }
}

/// What one connection may hold.
#[derive(Debug, Clone)]
pub struct ConnectionMemory {
    connection: Arc<Semaphore>,
    budget: MemoryBudget,
}

impl ConnectionMemory {
    /// What a message costs: more than a whole share is never asked for, so that any message that passes
    /// the size limit is admitted once its connection holds nothing else.
    fn cost(&self, message_bytes: usize) -> u32 {
        let bytes = message_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES);
        let bytes = bytes.min(self.budget.per_connection_bytes).min(self.budget.total_bytes);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Charges a message if there is room at once.
    #[must_use]
    pub fn try_acquire(&self, message_bytes: usize) -> Option<MemoryPermit> {
        let cost = self.cost(message_bytes);
        let connection = self.connection.clone().try_acquire_many_owned(cost).ok()?;
        let total = self.budget.total.clone().try_acquire_many_owned(cost).ok()?;
        Some(MemoryPermit { _connection: connection, _total: total })
    }

    /// Queues for room; first come, first served.
    #[must_use]
    pub fn acquire(&self, message_bytes: usize) -> Pending {
        Pending {
            cost: self.cost(message_bytes),
            connection: PollSemaphore::new(self.connection.clone()),
            total: PollSemaphore::new(self.budget.total.clone()),
            held: None,
        }
    }
}

/// A message waiting for memory.
#[derive(Debug)]
pub struct Pending {
    cost: u32,
    connection: PollSemaphore,
    total: PollSemaphore,
    held: Option<OwnedSemaphorePermit>,
}

impl Pending {
    /// `None`: the budget is gone, which happens only while the broker is being dropped.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<MemoryPermit>> {
        if self.held.is_none() {
            self.held = ready!(self.connection.poll_acquire_many(cx, self.cost));
        }
        let total = ready!(self.total.poll_acquire_many(cx, self.cost));
        Poll::Ready(match (self.held.take(), total) {
            (Some(connection), Some(total)) => Some(MemoryPermit { _connection: connection, _total: total }),
            _ => None,
        })
    }
}

/// Memory of one message, given back on drop.
#[derive(Debug)]
#[must_use = "dropping it gives the memory back"]
pub struct MemoryPermit {
    _connection: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

/// The charges of one request's messages, oldest first; an extension of every gRPC request.
///
/// A handler that reads a stream of messages takes one permit for each message and drops it when that
/// message is answered. What nobody takes is given back when the response has begun.
#[derive(Debug, Default)]
pub struct MessageMemory(Mutex<VecDeque<MemoryPermit>>);

impl MessageMemory {
    /// The charge of the oldest message not yet taken; `None` where messages are not charged.
    pub fn take(&self) -> Option<MemoryPermit> {
        self.queue().pop_front()
    }

    /// Adds the charge of the message that follows.
    pub fn push(&self, permit: MemoryPermit) {
        self.queue().push_back(permit);
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<MemoryPermit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_connection_and_the_broker_each_have_their_bound() {
        let budget = MemoryBudget::new(4_000, 2_000);
        let (a, b) = (budget.connection(), budget.connection());
        let first = a.try_acquire(1_500).unwrap();
        assert!(a.try_acquire(1_500).is_none(), "the share of the connection is spent");
        let second = b.try_acquire(1_500).unwrap();
        let third = budget.connection().try_acquire(200).unwrap();
        assert!(budget.connection().try_acquire(1_500).is_none(), "the broker's is");
        drop((first, second, third));
        assert_eq!(budget.free_bytes(), 4_000, "a refused one gives back what it took on the way");
    }

    #[tokio::test]
    async fn a_message_larger_than_a_share_waits_for_the_whole_share() {
        let budget = MemoryBudget::new(4_000, 2_000);
        let connection = budget.connection();
        let small = connection.try_acquire(0).unwrap();
        assert_eq!(budget.used_bytes(), MESSAGE_OVERHEAD_BYTES);
        let mut large = connection.acquire(1 << 30);
        assert!(poll_fn(|cx| Poll::Ready(large.poll(cx).is_pending())).await);
        drop(small);
        let permit = poll_fn(|cx| large.poll(cx)).await.unwrap();
        assert_eq!(budget.used_bytes(), 2_000);
        drop(permit);
        assert_eq!(budget.used_bytes(), 0);
    }
}
