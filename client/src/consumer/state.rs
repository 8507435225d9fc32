//! What a consumer and its tasks share: positions, and the batches that arrived.
//!
//! Invariants: a partition's records are accepted from one stream only, the one that it is bound to,
//! and `fetch_from` moves with them under the same lock; so a stream that begins at `fetch_from`
//! neither skips nor repeats, whatever became of the one before. What lies in the buffer is in
//! offset order for each partition.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::ConsumedBatch;
use crate::backoff::Attempts;
use crate::metadata::Server;
use crate::{ConsumeError, TopicPartition};

/// Names one `Consume` call.
pub type StreamId = u64;

/// A reader that had to leave a follower stays with the leader for so long, and twice as long each time.
const WITH_LEADER: Duration = Duration::from_secs(10);
const WITH_LEADER_MAX: Duration = Duration::from_secs(300);

/// What the broker still sends on one stream.
#[derive(Debug, Default)]
pub struct Served {
    pub partitions: BTreeSet<TopicPartition>,
    /// It has brought records.
    pub brought: bool,
    /// It has brought anything since this was last looked at.
    pub news: bool,
}

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
    /// Who it was last asked of.
    pub server: Option<Server>,
    /// The leader said that it leads in a newer epoch than this.
    pub fenced: i32,
    /// No follower is asked before then.
    pub with_leader_until: Option<Instant>,
    /// For how long it stays with the leader the next time.
    pub with_leader_for: Duration,
    /// It is not asked for before then.
    pub not_before: Option<Instant>,
    pub attempts: Attempts,
    /// Counts the fetches of a batch that arrives damaged.
    pub corrupt: Attempts,
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
            server: None,
            fenced: -1,
            with_leader_until: None,
            with_leader_for: WITH_LEADER,
            not_before: None,
            attempts: Attempts::default(),
            corrupt: Attempts::default(),
        }
    }

    pub const fn is_wanted(&self) -> bool {
        !self.paused && !self.resting
    }

    /// A follower could not serve it: the leader has the last word.
    pub fn leave_follower(&mut self, now: Instant) {
        self.with_leader_until = Some(now + self.with_leader_for);
        self.with_leader_for = (self.with_leader_for * 2).min(WITH_LEADER_MAX);
    }

    /// The epoch to ask its leader with.
    pub fn known_epoch(&self, server: Server) -> i32 {
        if server.is_leader && server.epoch > self.fenced { server.epoch } else { -1 }
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
    /// By open stream.
    pub served: BTreeMap<StreamId, Served>,
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

    /// Forgets the assignment and all that arrived for it.
    pub fn clear(&mut self) {
        *self = Self { served: std::mem::take(&mut self.served), ..Self::default() };
    }

    /// The broker sends no more of the partition on this stream.
    pub fn ended(&mut self, stream: StreamId, partition: &TopicPartition) {
        if let Some(served) = self.served.get_mut(&stream) {
            served.partitions.remove(partition);
        }
    }

    /// Takes the stream's partitions off it; gives what it still served.
    pub fn unbind(&mut self, stream: StreamId) -> Served {
        for part in self.parts.values_mut().filter(|part| part.stream == Some(stream)) {
            part.stream = None;
        }
        self.served.remove(&stream).unwrap_or_default()
    }

    /// Whether a stream is of use: all that the broker sends on it is wanted there, and either there is
    /// something, or the stream's reader still looks for where to go on.
    pub fn is_of_use(&self, stream: StreamId) -> bool {
        let bound = |part: &Part| part.stream == Some(stream);
        let Some(served) = self.served.get(&stream) else { return false };
        let mut sent = served.partitions.iter().map(|partition| self.parts.get(partition).is_some_and(bound));
        match served.partitions.is_empty() {
            true => self.parts.values().any(bound),
            false => sent.all(|wanted| wanted),
        }
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
