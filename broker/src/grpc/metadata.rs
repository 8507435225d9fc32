//! What clients are told of brokers, leaders and replicas: from memory, as this broker knows it.

use headwater_core::metadata::{Broker, Partition as Assignment, Topic};
use headwater_proto::types::{BrokerId, GroupId, PartitionId};
use headwater_proto::{ErrorCode, v1};

use super::convert::{error_at, error_of};
use crate::error::RequestError;
use crate::node::Node;
use crate::partition::Partition;

/// A broker as it is shown everywhere.
pub fn broker(broker: &Broker) -> v1::Broker {
    v1::Broker {
        id: broker.id.get(),
        grpc_address: broker.grpc_address.clone(),
        kafka_address: broker.kafka_address.clone(),
        rack: broker.rack.clone(),
        version: broker.version.clone(),
    }
}

pub fn of_cluster(node: &Node, topics: Vec<v1::TopicMetadata>) -> v1::MetadataResponse {
    let controller = node.controller();
    let leader = node.cluster().leader(GroupId::METADATA);
    v1::MetadataResponse {
        cluster_id: controller.cluster_id().to_string(),
        controller_id: leader.map_or(-1, |leader| leader.broker.get()),
        brokers: controller.with_state(|state| state.brokers().map(broker).collect()),
        topics,
    }
}

pub fn of_topic(node: &Node, name: String, topic: Result<Topic, RequestError>) -> v1::TopicMetadata {
    let error = error_of(&topic);
    let Ok(topic) = topic else {
        return v1::TopicMetadata { name, error, ..v1::TopicMetadata::default() };
    };
    let partitions = topic.numbered().map(|(number, assigned)| of_partition(node, &topic, number, assigned));
    v1::TopicMetadata {
        name,
        topic_id: topic.id.0.to_vec().into(),
        error: None,
        internal: false,
        partitions: partitions.collect(),
    }
}

fn of_partition(
    node: &Node,
    topic: &Topic,
    number: PartitionId,
    assigned: &Assignment,
) -> v1::PartitionMetadata {
    let group = GroupId { topic_id: topic.id, partition: number };
    let replicas = || assigned.brokers().map(BrokerId::get).collect();
    if let Some(leader) = node.cluster().leader(group) {
        let assigned_to = |broker: &BrokerId| assigned.brokers().any(|other| other == *broker);
        let in_sync = node.cluster().in_sync(group).into_iter().filter(assigned_to);
        return v1::PartitionMetadata {
            partition: number.get(),
            leader_id: leader.broker.get(),
            leader_epoch: i32::try_from(leader.term.get()).unwrap_or(i32::MAX),
            replicas: replicas(),
            in_sync: in_sync.map(BrokerId::get).collect(),
            error: None,
        };
    }
    let own = node.controller().broker_id();
    let local = node.partition(&topic.name, number.get());
    // A damaged sole replica leads nothing, and is still where what is intact can be read.
    let alone = assigned.brokers().all(|broker| broker == own);
    let error = match &local {
        Err(error) if alone => Some(error.to_proto()),
        Ok(_) if alone => None,
        _ => Some(leader_not_available()),
    };
    v1::PartitionMetadata {
        partition: number.get(),
        leader_id: if alone && local.is_ok() { own.get() } else { -1 },
        leader_epoch: -1,
        replicas: replicas(),
        in_sync: Vec::new(),
        error,
    }
}

fn leader_not_available() -> v1::Error {
    let code = ErrorCode::LeaderNotAvailable;
    v1::Error {
        code: code.number().into(),
        message: "the partition has no leader at the moment, as far as this broker knows; retry".to_owned(),
        retriable: code.is_retriable(),
        leader: None,
    }
}

/// The replicas of a topic that are on this broker; an error for each that is not.
pub fn descriptions(node: &Node, topic: &Topic) -> Vec<v1::PartitionDescription> {
    let describe = |number: i32| {
        let local = node.partition(&topic.name, number);
        let leader = node.leader_hint(&topic.name, number);
        let described = match &local {
            Ok(partition) => description(partition),
            Err(_) => v1::PartitionDescription {
                log_start_offset: -1,
                high_watermark: -1,
                ..v1::PartitionDescription::default()
            },
        };
        v1::PartitionDescription {
            topic: topic.name.clone(),
            partition: number,
            error: error_at(node, &topic.name, number, &local),
            leader_id: leader.as_ref().map_or(-1, |leader| leader.broker.get()),
            leader_epoch: leader.as_ref().map_or(-1, |leader| leader.epoch),
            ..described
        }
    };
    topic.numbered().map(|(number, _)| describe(number.get())).collect()
}

fn description(partition: &Partition) -> v1::PartitionDescription {
    let found = partition.describe();
    v1::PartitionDescription {
        log_start_offset: found.progress.log_start.get(),
        high_watermark: found.progress.high_watermark.get(),
        size_bytes: found.size_bytes(),
        segments: u32::try_from(found.segments.len()).unwrap_or(u32::MAX),
        first_log_index: found.first_index,
        last_log_index: found.last_index,
        committed_log_index: found.progress.applied.index.get(),
        damage: found.damage,
        ..v1::PartitionDescription::default()
    }
}
