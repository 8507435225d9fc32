//! The rounds in which partitions are tended: see [`crate::partition`] for what is done to each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

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
        node.controller().checkpoint().await;
        stream::iter(node.registry().open_partitions())
            .take_until(node.stop().cancelled())
            .for_each_concurrent(AT_A_TIME, tend)
            .await;
    }
}
