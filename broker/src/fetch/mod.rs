//! Reading from several partitions at once: one long poll, or an endless tail.
//!
//! Invariants: nothing above the high watermark is handed out; records are mapped, never copied; a
//! partition that fails says why and does not keep the others from being read; who reads from the leader is told as
//! soon as it leads no more.

mod tail;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use headwater_consensus::{Progress, Role};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Partition, Readers, Slice};

pub use tail::Tail;

/// Where a reader stands in one partition.
#[derive(Debug, Clone)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The leader epoch that the reader believes in; -1 when it knows none.
    pub leader_epoch: i32,
    /// Whether the reader takes what this replica knows to be committed, though it does not lead.
    pub allow_follower: bool,
}

/// What was found at a position.
#[derive(Debug)]
pub struct Fetched {
    pub topic: String,
    pub partition: i32,
    pub outcome: Result<Slice, RequestError>,
}

/// Bounds of one long poll.
#[derive(Debug, Clone, Copy)]
pub struct FetchBounds {
    /// Of all records together; the first batch comes whatever its size.
    pub max_bytes: usize,
    pub min_bytes: usize,
    pub max_wait: Duration,
}

/// A position whose partition is here.
struct Source {
    node: Arc<Node>,
    position: Position,
    partition: Arc<Partition>,
    readers: Readers,
    progress: watch::Receiver<Progress>,
    /// At the last read.
    role: Role,
}

impl Source {
    fn find(node: &Arc<Node>, position: Position) -> Result<Self, Fetched> {
        let Position { topic, partition, allow_follower, .. } = &position;
        match node.replica(topic, *partition, *allow_follower) {
            Ok((partition, readers)) => Ok(Self {
                node: Arc::clone(node),
                position,
                progress: partition.progress(),
                role: partition.role(),
                partition,
                readers,
            }),
            Err(error) => {
                Err(Fetched { topic: position.topic, partition: position.partition, outcome: Err(error) })
            }
        }
    }

    async fn read(&mut self, max_bytes: usize) -> Result<Slice, RequestError> {
        // From here on, whatever is committed, and whoever is elected, wakes a later wait.
        self.progress.borrow_and_update();
        self.role = self.partition.role();
        let Position { topic, partition, offset, leader_epoch, .. } = &self.position;
        if self.partition.closed().is_cancelled() {
            // Deleted, or on another broker now, or opened again.
            return Err(self.node.partition(topic, *partition).err().unwrap_or(RequestError::NotLeader));
        }
        self.partition.read(*offset, max_bytes, *leader_epoch, self.readers).await
    }

    /// Waits until more is committed, the leadership changes, or the partition is closed.
    async fn changed(&mut self) {
        let closed = self.partition.closed().clone();
        tokio::select! {
            _ = self.progress.changed() => {}
            () = self.partition.role_changed(self.role) => {}
            () = closed.cancelled() => {}
        }
    }

    fn fetched(&self, outcome: Result<Slice, RequestError>) -> Fetched {
        Fetched { topic: self.position.topic.clone(), partition: self.position.partition, outcome }
    }
}

/// Waits until any source has news.
async fn any_changed<'a>(sources: impl Iterator<Item = &'a mut Source>) {
    let mut waits: FuturesUnordered<_> = sources.map(Source::changed).collect();
    if waits.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Reads all positions; waits until `min_bytes` are there, something fails, the time is over or the broker
/// stops.
pub async fn fetch(node: &Arc<Node>, positions: Vec<Position>, bounds: FetchBounds) -> Vec<Fetched> {
    let deadline = Instant::now() + bounds.max_wait;
    let (mut sources, mut failed) = (Vec::new(), Vec::new());
    for position in positions {
        match Source::find(node, position) {
            Ok(source) => sources.push(source),
            Err(error) => failed.push(error),
        }
    }
    loop {
        let (fetched, bytes) = read_all(&mut sources, bounds.max_bytes).await;
        let has_error = !failed.is_empty() || fetched.iter().any(|one| one.outcome.is_err());
        let over = has_error || bytes >= bounds.min_bytes || Instant::now() >= deadline;
        if over || node.drain().is_cancelled() {
            failed.extend(fetched);
            return failed;
        }
        tokio::select! {
            () = any_changed(sources.iter_mut()) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = node.drain().cancelled() => {}
        }
    }
}

async fn read_all(sources: &mut [Source], max_bytes: usize) -> (Vec<Fetched>, usize) {
    let (mut fetched, mut bytes) = (Vec::with_capacity(sources.len()), 0);
    for source in sources {
        let left = max_bytes.saturating_sub(bytes);
        let mut outcome = source.read(left).await;
        if let Ok(slice) = &mut outcome {
            if bytes > 0 && slice.records.len() > left {
                slice.records = Bytes::new();
                slice.next_offset = source.position.offset.into();
            }
            bytes += slice.records.len();
        }
        fetched.push(source.fetched(outcome));
    }
    (fetched, bytes)
}
