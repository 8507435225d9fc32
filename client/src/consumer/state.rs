//! What a consumer and its tasks share: positions, and the batches that arrived.
//!
//! Invariants: a partition's records are accepted from one stream only, the one that it is bound to,
//! and `fetch_from` moves with them under the same lock; so a stream that begins at `fetch_from`
//! neither skips nor repeats, whatever became of the one before. What lies in the buffer is in
//! offset order for each partition.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::ConsumedBatch;
use crate::backoff::Attempts;
use crate::{ConsumeError, TopicPartition};

/// Names one `Consume` call.
pub type StreamId = u64;

/// One assigned partition.
#[derive(Debug)]
pub struct Part {
    /// Offset of the next record to hand out.
    pub position: i64,
    /// Offset of the next record to ask for: behind what is in the buffer.
    pub fetch_from: i64,
    pub high_watermark: i64,
    pub paused: bool,
    /// Nothing is asked for until a seek: it failed for good.
    pub resting: bool,
    /// The stream that it takes records from.
    pub stream: Option<StreamId>,
    /// It is not asked for before then.
    pub not_before: Option<Instant>,
    pub attempts: Attempts,
}

impl Part {
    pub fn at(position: i64, high_watermark: i64) -> Self {
        Self {
            position,
            fetch_from: position,
            high_watermark,
            paused: false,
            resting: false,
            stream: None,
            not_before: None,
            attempts: Attempts::default(),
        }
    }

    pub const fn is_wanted(&self) -> bool {
        !self.paused && !self.resting
    }
}

/// Something for the caller.
#[derive(Debug)]
pub enum Item {
    Batch(ConsumedBatch),
    /// There is nothing up to this offset.
    Moved(TopicPartition, i64),
    Failed(TopicPartition, ConsumeError),
}

impl Item {
    pub const fn partition(&self) -> &TopicPartition {
        match self {
            Self::Batch(batch) => &batch.partition,
            Self::Moved(partition, _) | Self::Failed(partition, _) => partition,
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.size_bytes(),
            Self::Moved(..) | Self::Failed(..) => 0,
        }
    }
}

#[derive(Debug, Default)]
pub struct State {
    pub parts: BTreeMap<TopicPartition, Part>,
    items: VecDeque<Item>,
    bytes: usize,
}

impl State {
    pub fn push(&mut self, item: Item) {
        self.bytes += item.size_bytes();
        self.items.push_back(item);
    }

    pub fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.size_bytes();
        Some(item)
    }

    /// Forgets what arrived for a partition; with `errors`, also why it rests.
    pub fn drop_items(&mut self, partition: &TopicPartition, errors: bool) {
        self.items
            .retain(|item| item.partition() != partition || (!errors && matches!(item, Item::Failed(..))));
        self.bytes = self.items.iter().map(Item::size_bytes).sum();
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub const fn buffered_bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The partition, if it takes records from this stream.
    pub fn bound(&mut self, partition: &TopicPartition, stream: StreamId) -> Option<&mut Part> {
        self.parts.get_mut(partition).filter(|part| part.stream == Some(stream))
    }
}

#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    /// Something arrived.
    pub arrived: Notify,
    /// There is room again.
    pub room: Notify,
    /// What is to be asked for has changed.
    pub plan: Notify,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
