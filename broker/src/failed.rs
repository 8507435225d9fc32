//! Replicas whose disk refused a write or a sync, and what becomes of them.
//!
//! A partition is opened again, behind what was durable: what a failed sync leaves in memory was promised to nobody.
//! A broker that can no longer write its journal or the cluster's metadata ends, so that whoever started it does so
//! again and clients turn to others. Invariant: nothing is taken for durable because a second sync succeeded.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use headwater_consensus::Health;
use headwater_proto::types::GroupId;
use headwater_storage::log::LogError;
use tokio::time::Instant;

use crate::node::{Node, NodeError};
use crate::partition::Partition;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// From a failure to the next opening: twice as long each time, for a disk that goes on failing.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(320);

/// When to open a partition again, and how long to wait the next time.
struct Again {
    due: Option<Instant>,
    pause: Duration,
}

/// Looks after failed replicas until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut again: BTreeMap<GroupId, Again> = BTreeMap::new();
    while tokio::time::timeout(LOOK_EVERY, node.stop().cancelled()).await.is_err() {
        if let Some(reason) = node.controller().group().log().stopped() {
            return node.host().fail(NodeError::MetadataFailed { reason: reason.to_owned() });
        }
        for partition in node.registry().open_partitions() {
            if has_failed(&partition) && is_due(&mut again, partition.id()) {
                open_again(&node, &partition).await;
            }
        }
    }
}

/// Whether the disk was the reason: any other would come back.
fn has_failed(partition: &Partition) -> bool {
    let group = partition.group();
    group.log().stopped().is_some() && matches!(group.health(), Health::Failed(_))
}

fn is_due(again: &mut BTreeMap<GroupId, Again>, group: GroupId) -> bool {
    let now = Instant::now();
    let again = again.entry(group).or_insert(Again { due: None, pause: PAUSE_MIN });
    let due = *again.due.get_or_insert(now + again.pause);
    if now < due {
        return false;
    }
    *again = Again { due: None, pause: (again.pause * 2).min(PAUSE_MAX) };
    true
}

async fn open_again(node: &Node, partition: &Partition) {
    let (topic, group) = (partition.topic(), partition.id());
    match partition.group().log().give_up_unsynced().await {
        Ok(()) => tracing::warn!(topic, %group, "a partition that failed is opened again"),
        Err(LogError::Io(error)) if error.kind() != ErrorKind::StorageFull => {
            return node.host().fail(NodeError::JournalFailed { source: error });
        }
        Err(error) => {
            return tracing::warn!(topic, %group, %error, "a failed partition cannot be opened again yet");
        }
    }
    if let Err(error) = node.registry().reopen(topic, group.partition.get()).await {
        tracing::warn!(topic, %group, %error, "a failed partition cannot be opened again");
    }
}
