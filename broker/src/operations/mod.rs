//! What operators do with a cluster: look at it, move replicas and leaders, take brokers in and out, and go on after
//! a loss.
//!
//! Invariants: a change of assignments is a metadata command, accepted when it is recorded and carried out in the
//! background, whoever asked for it; what is asked of a leader is asked of the broker that leads; nothing that could
//! lose a record is done without being told so.

mod brokers;
mod leaders;
mod recover;
mod replicas;
mod scrape;
mod status;
mod survey;

pub use recover::Survivor;
pub use replicas::Wanted;
pub use scrape::watch_disk;
pub use status::{BrokerFigures, PartitionFigures, ReplicaFigures};
pub use survey::{answer_hand_over, answer_survey};

use headwater_core::metadata::{MetadataError, MetadataState, Partition as Assignment, Topic};
use headwater_proto::types::{BrokerId, GroupId, PartitionId};

use crate::controller::known_topic;
use crate::error::RequestError;
use crate::node::Node;

/// The topic and the assignment of a partition.
async fn find(node: &Node, topic: &str, partition: i32) -> Result<(Topic, Assignment), RequestError> {
    let look = |state: &MetadataState| {
        let topic = known_topic(state, topic)?;
        match topic.partition(PartitionId(partition)).cloned() {
            Some(assigned) => Ok((topic, assigned)),
            None => Err(RequestError::UnknownPartition {
                partitions: topic.partitions.len(),
                topic: topic.name,
                partition,
            }),
        }
    };
    node.controller().look_up(look).await
}

/// A group as people name it.
fn name_of(node: &Node, group: GroupId) -> (String, i32) {
    let topic =
        node.controller().with_state(|state| state.topic_by_id(group.topic_id).map(|t| t.name.clone()));
    (topic.unwrap_or_else(|| group.topic_id.to_string()), group.partition.get())
}

async fn known_broker(node: &Node, broker: i32) -> Result<BrokerId, RequestError> {
    let id = BrokerId(broker);
    let look = |state: &MetadataState| match state.broker(id) {
        Some(_) => Ok(id),
        None => Err(MetadataError::UnknownBroker(id).into()),
    };
    node.controller().look_up(look).await
}
