//! Reading from several partitions at once: one long poll, or an endless tail.
//!
//! Invariants: nothing above the high watermark is handed out; records are mapped, never copied; a
//! partition that fails says why and does not keep the others from being read.

mod tail;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use headwater_consensus::Progress;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::RequestError;
use crate::node::Node;
use crate::partition::{Partition, Slice};

pub use tail::Tail;

/// Where a reader stands in one partition.
#[derive(Debug, Clone)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The leader epoch that the reader believes in; -1 when it knows none.
    pub leader_epoch: i32,
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
    position: Position,
    partition: Arc<Partition>,
    progress: watch::Receiver<Progress>,
}

impl Source {
    fn find(node: &Node, position: Position) -> Result<Self, Fetched> {
        match node.partition(&position.topic, position.partition) {
            Ok(partition) => Ok(Self { position, progress: partition.progress(), partition }),
            Err(error) => {
                Err(Fetched { topic: position.topic, partition: position.partition, outcome: Err(error) })
            }
        }
    }

    async fn read(&mut self, max_bytes: usize) -> Result<Slice, RequestError> {
        // From here on, whatever is committed wakes a later wait.
        self.progress.borrow_and_update();
        if self.partition.closed().is_cancelled() {
            return Err(RequestError::UnknownTopic { topic: self.position.topic.clone() });
        }
        self.partition.read(self.position.offset, max_bytes, self.position.leader_epoch).await
    }

    /// Waits until more is committed, or the partition is closed.
    async fn changed(&mut self) {
        let closed = self.partition.closed().clone();
        tokio::select! {
            _ = self.progress.changed() => {}
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
pub async fn fetch(node: &Node, positions: Vec<Position>, bounds: FetchBounds) -> Vec<Fetched> {
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
