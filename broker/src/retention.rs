//! The rounds in which partitions are tended and scrubbed: see [`crate::partition`] for what is done to each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headwater_consensus::Health;

use crate::node::Node;
use crate::partition::Partition;

/// Partitions tended at the same time: enough to overlap their syncs, too few to be noticed.
const AT_A_TIME: usize = 8;

/// Tends every partition, round after round, until the node stops.
pub async fn run(node: Arc<Node>) {
    let interval = Duration::from_millis(node.config().storage.retention_check_interval_ms);
    while tokio::time::timeout(interval, node.stop().cancelled()).await.is_err() {
        let (settings, now) = (node.upkeep_settings(), node.env().clock.now());
        let tend = |partition: Arc<Partition>| async move {
            partition.tend(settings, now).await;
        };
        node.registry().retry_failed().await;
        find_rot(&node).await;
        node.controller().checkpoint().await;
        stream::iter(node.registry().open_partitions())
            .take_until(node.stop().cancelled())
            .for_each_concurrent(AT_A_TIME, tend)
            .await;
    }
}

/// A broker that is restarted more often than it scrubs must find rot too; its start is left alone.
const FIRST_SCRUB_AFTER: Duration = Duration::from_secs(600);

/// Looks for rot in every partition, one after the other, round after round, until the node stops.
pub async fn scrub(node: Arc<Node>) {
    let interval = Duration::from_millis(node.config().storage.scrub_interval_ms);
    if interval.is_zero() {
        return;
    }
    let mut pause = interval.min(FIRST_SCRUB_AFTER);
    while tokio::time::timeout(pause, node.stop().cancelled()).await.is_err() {
        pause = interval;
        for partition in node.registry().open_partitions() {
            tokio::select! {
                () = scrub_one(&node, &partition) => {}
                () = node.stop().cancelled() => return,
            }
        }
    }
}

/// A replica that failed over what it read has met rot, and waits for no scrub: found, it can be built anew.
async fn find_rot(node: &Node) {
    for partition in node.registry().open_partitions() {
        let group = partition.group();
        if matches!(group.health(), Health::Failed(_)) && group.take_unreadable() {
            scrub_one(node, &partition).await;
        }
    }
}

/// A replica in which rot is found takes no more writes: it is opened again as what it is.
async fn scrub_one(node: &Node, partition: &Partition) {
    let group = partition.id();
    let found = match partition.scrub().await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(topic = partition.topic(), %group, %error, "the scrub failed"),
    };
    if found > 0
        && let Err(error) = node.registry().reopen(partition.topic(), group.partition.get()).await
    {
        tracing::warn!(topic = partition.topic(), %group, %error, "a damaged partition cannot be opened again");
    }
}
