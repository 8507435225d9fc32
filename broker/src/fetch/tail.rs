//! An endless read of several partitions, one message at a time.

use std::sync::Arc;

use super::{Fetched, Position, Source, any_changed};
use crate::node::Node;

/// Reads on from where it stands, partition after partition, as records are committed.
pub struct Tail {
    node: Arc<Node>,
    max_bytes: usize,
    /// To be told before anything else: positions that are not here.
    failed: Vec<Fetched>,
    sources: Vec<TailSource>,
    /// The source whose turn is next, so that none starves another.
    turn: usize,
}

struct TailSource {
    source: Source,
    /// The first message tells where the partition ends, even if there is nothing to read.
    announced: bool,
}

impl Tail {
    pub fn new(node: Arc<Node>, positions: Vec<Position>, max_bytes: usize) -> Self {
        let mut tail = Self { max_bytes, failed: Vec::new(), sources: Vec::new(), turn: 0, node };
        for position in positions {
            match Source::find(&tail.node, position) {
                Ok(source) => tail.sources.push(TailSource { source, announced: false }),
                Err(error) => tail.failed.push(error),
            }
        }
        tail
    }

    /// The next records, or why a partition is not read any further. `None`: the broker stops, or no
    /// partition is left.
    pub async fn next(&mut self) -> Option<Fetched> {
        if let Some(failed) = self.failed.pop() {
            return Some(failed);
        }
        loop {
            if self.sources.is_empty() || self.node.drain().is_cancelled() {
                return None;
            }
            for _ in 0..self.sources.len() {
                self.turn = (self.turn + 1) % self.sources.len();
                if let Some(fetched) = self.read_one().await {
                    return Some(fetched);
                }
            }
            tokio::select! {
                () = any_changed(self.sources.iter_mut().map(|tail| &mut tail.source)) => {}
                () = self.node.drain().cancelled() => {}
            }
        }
    }

    async fn read_one(&mut self) -> Option<Fetched> {
        let TailSource { source, announced } = &mut self.sources[self.turn];
        let outcome = source.read(self.max_bytes).await;
        let fetched = match &outcome {
            Ok(slice) => {
                let news = !slice.records.is_empty() || !*announced;
                (source.position.offset, *announced) = (slice.next_offset.get(), true);
                news.then(|| source.fetched(outcome))
            }
            Err(_) => Some(source.fetched(outcome)),
        };
        if fetched.as_ref().is_some_and(|fetched| fetched.outcome.is_err()) {
            self.sources.remove(self.turn);
            self.turn = 0;
        }
        fetched
    }
}
