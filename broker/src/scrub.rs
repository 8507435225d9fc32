//! Looking for rot: round after round in every log, and at once where an entry did not read back.
//!
//! Invariants: a replica in which rot was found takes no more writes and is opened again as what it is, to be built anew
//! from its peers; the log of the metadata is given up only where a majority is whole without it.

use std::sync::Arc;
use std::time::Duration;

use headwater_consensus::Health;
use headwater_proto::types::GroupId;
use headwater_storage::data_dir::Suspect;
use headwater_storage::log::LogError;
use headwater_storage::scrub::ScrubReport;

use crate::node::{Node, NodeError};
use crate::partition::Partition;

/// A broker that is restarted more often than it scrubs must find rot too; its start is left alone.
const FIRST_ROUND_AFTER: Duration = Duration::from_secs(600);

/// Between two looks at whether a damaged log of the metadata can be given up.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Reads every log again, one after the other, round after round, until the node stops.
pub async fn rounds(node: Arc<Node>) {
    let interval = Duration::from_millis(node.config().storage.scrub_interval_ms);
    if interval.is_zero() {
        return;
    }
    let mut pause = interval.min(FIRST_ROUND_AFTER);
    while tokio::time::timeout(pause, node.stop().cancelled()).await.is_err() {
        pause = interval;
        tokio::select! {
            () = round(&node) => {}
            () = node.stop().cancelled() => return,
        }
    }
}

async fn round(node: &Node) {
    let metadata = node.controller().group();
    // A lone broker could do nothing about it, but stop; its start reads what it needs.
    if !metadata.membership().voters().into_iter().eq([metadata.replica_id()]) {
        found(GroupId::METADATA, "metadata", metadata.log().scrub().await);
    }
    for partition in node.registry().open_partitions() {
        let scrubbed = partition.group().log().scrub().await;
        settle(node, &partition, found(partition.id(), partition.topic(), scrubbed)).await;
    }
}

/// Looks at entries that did not read back, until the node stops. Nobody waits a day for the next round: until a replica
/// is known to be damaged, its readers are refused again and again, and its followers with them.
pub async fn suspects(node: Arc<Node>) {
    loop {
        tokio::select! {
            suspect = node.data_dir().suspected() => examine(&node, suspect).await,
            () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
            () = node.stop().cancelled() => return,
        }
        if let Health::Damaged(_) = node.controller().group().health()
            && others_hold_metadata(&node)
        {
            return node.host().fail(NodeError::MetadataRotten);
        }
    }
}

async fn examine(node: &Node, Suspect { group, index }: Suspect) {
    if group == GroupId::METADATA {
        found(group, "metadata", node.controller().group().log().scrub_at(index).await);
        return;
    }
    let open = node.registry().open_partitions();
    // One that is about to be opened reads it again, and finds out by itself.
    let Some(partition) = open.iter().find(|partition| partition.id() == group) else { return };
    let log = partition.group().log();
    let mut new_damage = found(group, partition.topic(), log.scrub_at(index).await);
    if new_damage == 0 && matches!(partition.group().health(), Health::Failed(_)) {
        // It stopped over something that lies elsewhere, or was purged since.
        new_damage = found(group, partition.topic(), log.scrub().await);
    }
    settle(node, partition, new_damage).await;
}

fn found(group: GroupId, topic: &str, scrubbed: Result<ScrubReport, LogError>) -> usize {
    match scrubbed {
        Ok(report) => report.new_damage,
        Err(error) => {
            tracing::warn!(topic, %group, %error, "the scrub failed");
            0
        }
    }
}

/// A replica in which rot is found takes no more writes: it is opened again as what it is.
async fn settle(node: &Node, partition: &Partition, new_damage: usize) {
    let (topic, group) = (partition.topic(), partition.id());
    if new_damage > 0
        && let Err(error) = node.registry().reopen(topic, group.partition.get()).await
    {
        tracing::warn!(topic, %group, %error, "a damaged partition cannot be opened again");
    }
}

/// Whether a majority of the metadata's voters is whole without this broker, under a leader that says so.
fn others_hold_metadata(node: &Node) -> bool {
    let own = node.controller().broker_id();
    let voters = node.controller().group().membership().voters().len();
    let in_sync = node.cluster().in_sync(GroupId::METADATA);
    in_sync.iter().filter(|broker| **broker != own).count() > voters / 2
}
