//! Requests of one connection, begun in order for each group, and all groups at once.
//!
//! Invariants: a request of a group begins after those of the same group that came before it, and may end before
//! them; none waits for another group; a group without requests costs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use headwater_proto::types::GroupId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// `None` is the broker as a whole.
pub(super) type Key = Option<GroupId>;
type Work = BoxFuture<'static, ()>;

#[derive(Debug, Clone)]
pub(super) struct Dispatcher {
    queues: Arc<Mutex<BTreeMap<Key, mpsc::UnboundedSender<Work>>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Dispatcher {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { queues: Arc::default(), tasks, stop }
    }

    /// Begins the work once what was dispatched under the same key has begun. How much is under way is for the
    /// caller to bound.
    pub(super) fn dispatch(&self, key: Key, work: Work) {
        let mut queues = self.queues();
        let work = match queues.get(&key) {
            Some(queue) => match queue.send(work) {
                Ok(()) => return,
                Err(mpsc::error::SendError(work)) => work,
            },
            None => work,
        };
        let (queue, works) = mpsc::unbounded_channel();
        // The receiver is at hand.
        let _ = queue.send(work);
        queues.insert(key, queue);
        drop(queues);
        let (dispatcher, stop) = (self.clone(), self.stop.clone());
        self.tasks.spawn(async move { stop.run_until_cancelled(dispatcher.work(key, works)).await });
    }

    async fn work(self, key: Key, mut works: mpsc::UnboundedReceiver<Work>) {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                // Those that have not begun are polled first in the order in which they are pushed here.
                Some(work) = works.recv() => under_way.push(work),
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
            if under_way.is_empty() {
                let mut queues = self.queues();
                if works.is_empty() {
                    queues.remove(&key);
                    return;
                }
            }
        }
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<Key, mpsc::UnboundedSender<Work>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use headwater_proto::types::{PartitionId, TopicId};
    use tokio::sync::Notify;

    use super::*;

    fn group(partition: i32) -> Key {
        Some(GroupId { topic_id: TopicId::METADATA, partition: PartitionId(partition) })
    }

    #[tokio::test]
    async fn a_group_begins_in_order_and_waits_for_no_other() {
        let dispatcher = Dispatcher::new(TaskTracker::new(), CancellationToken::new());
        let (began, mut seen) = mpsc::unbounded_channel();
        let gate = Arc::new(Notify::new());
        for n in 0..50 {
            let (began, gate) = (began.clone(), Arc::clone(&gate));
            dispatcher.dispatch(
                group(n % 5),
                Box::pin(async move {
                    began.send(n).unwrap();
                    // The first group is stuck.
                    if n % 5 == 0 {
                        gate.notified().await;
                    }
                }),
            );
        }
        let mut order = Vec::new();
        while order.len() < 50 {
            order.push(seen.recv().await.unwrap());
        }
        for partition in 0..5 {
            let of_group: Vec<_> = order.iter().filter(|n| *n % 5 == partition).collect();
            assert!(of_group.is_sorted(), "{of_group:?}");
        }
        for _ in 0..10 {
            gate.notify_one();
            tokio::task::yield_now().await;
        }
        dispatcher.tasks.close();
        dispatcher.tasks.wait().await;
        assert!(dispatcher.queues().is_empty(), "idle groups are forgotten");
    }
}
