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

/// Messages up to this cost have a lane of their own.
const SMALL_MESSAGE_BYTES: usize = 64 << 10;
/// The share of that lane: an eighth.
const SMALL_LANE_DIVISOR: usize = 8;
/// Several messages must fit their lane, or a small one were as bad as a large one.
const SMALL_MESSAGES_PER_LANE: usize = 16;

/// The memory of the broker for unanswered messages. Cheap to clone; clones share it.
///
/// Small messages do not queue behind large ones: a broker whose producers wait for the disk still answers
/// who asks for metadata or wants to consume.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    small: Lane,
    bulk: Lane,
    small_message_bytes: usize,
    per_connection_bytes: usize,
}

#[derive(Debug, Clone)]
struct Lane {
    permits: Arc<Semaphore>,
    bytes: usize,
}

impl Lane {
    fn new(bytes: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(bytes)), bytes }
    }

    fn used_bytes(&self) -> usize {
        self.bytes - self.permits.available_permits()
    }
}

impl MemoryBudget {
    /// `total_bytes` beyond what a semaphore counts (an eighth of the address space) is not used.
    #[must_use]
    pub fn new(total_bytes: usize, per_connection_bytes: usize) -> Self {
        let total_bytes = total_bytes.min(Semaphore::MAX_PERMITS);
        let small_bytes = total_bytes / SMALL_LANE_DIVISOR;
        Self {
            small: Lane::new(small_bytes),
            bulk: Lane::new(total_bytes - small_bytes),
            small_message_bytes: SMALL_MESSAGE_BYTES.min(small_bytes / SMALL_MESSAGES_PER_LANE),
            per_connection_bytes: per_connection_bytes.min(Semaphore::MAX_PERMITS),
        }
    }

    /// The share of one connection.
    #[must_use]
    pub fn connection(&self) -> ConnectionMemory {
        let connection = Arc::new(Semaphore::new(self.per_connection_bytes));
        ConnectionMemory { connection, budget: self.clone() }
    }

    /// Bytes charged now.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.small.used_bytes() + self.bulk.used_bytes()
    }

    /// What a message costs, and where. More than a whole share is never asked for, so that any message that
    /// passes the size limit is admitted once its connection holds nothing else.
    fn price(&self, message_bytes: usize) -> (&Lane, u32) {
        let bytes = message_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES);
        let lane = if bytes <= self.small_message_bytes { &self.small } else { &self.bulk };
        let cost = bytes.min(self.per_connection_bytes).min(lane.bytes);
        (lane, u32::try_from(cost).unwrap_or(u32::MAX))
    }
}

/// What one connection may hold.
#[derive(Debug, Clone)]
pub struct ConnectionMemory {
    connection: Arc<Semaphore>,
    budget: MemoryBudget,
}

impl ConnectionMemory {
    /// Charges a message if there is room at once.
    #[must_use]
    pub fn try_acquire(&self, message_bytes: usize) -> Option<MemoryPermit> {
        let (lane, cost) = self.budget.price(message_bytes);
        let connection = self.connection.clone().try_acquire_many_owned(cost).ok()?;
        let total = lane.permits.clone().try_acquire_many_owned(cost).ok()?;
        Some(MemoryPermit { _connection: connection, _total: total })
    }

    /// Queues for room; first come, first served.
    #[must_use]
    pub fn acquire(&self, message_bytes: usize) -> Pending {
        let (lane, cost) = self.budget.price(message_bytes);
        Pending {
            cost,
            connection: PollSemaphore::new(self.connection.clone()),
            total: PollSemaphore::new(lane.permits.clone()),
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
        let second = b.try_acquire(1_000).unwrap();
        assert!(budget.connection().try_acquire(1_500).is_none(), "the broker's is");
        assert_eq!(budget.used_bytes(), 2_500 + 2 * MESSAGE_OVERHEAD_BYTES);
        drop((first, second));
        assert_eq!(budget.used_bytes(), 0, "a refused one gives back what it took on the way");
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

    #[tokio::test]
    async fn small_messages_pass_while_large_ones_queue() {
        let mib = 1 << 20;
        let budget = MemoryBudget::new(64 * mib, 64 * mib);
        let hog = budget.connection().try_acquire(60 * mib).unwrap();
        let mut queued = budget.connection().acquire(60 * mib);
        assert!(poll_fn(|cx| Poll::Ready(queued.poll(cx).is_pending())).await);
        let connection = budget.connection();
        let small: Vec<_> = (0..100).map(|_| connection.try_acquire(60_000).unwrap()).collect();
        assert!(budget.used_bytes() <= 64 * mib);
        drop((hog, small));
        assert!(poll_fn(|cx| queued.poll(cx)).await.is_some());
    }
}
