//! What the client believes of the cluster: brokers, partitions, leaders.
//!
//! A belief may be out of date at any time; the broker that is asked says so, and the asker
//! refreshes. A topic that is known is never forgotten, only replaced: what waits for it can go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_proto::v1;

use crate::{Broker, ClientError};

/// What is known of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicView {
    /// Broker id of each partition's leader, by partition number.
    leaders: Vec<Option<i32>>,
}

/// The cache. Reads never wait.
#[derive(Default)]
pub struct Metadata {
    view: Mutex<View>,
}

#[derive(Default)]
struct View {
    brokers: BTreeMap<i32, Broker>,
    topics: BTreeMap<Arc<str>, TopicView>,
}

impl Metadata {
    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a broker's answer. A partition without a leader keeps the last one known: it is
    /// the best guess, and answers for itself.
    pub fn update(&self, response: &v1::MetadataResponse) {
        let mut view = self.view();
        if !response.brokers.is_empty() {
            view.brokers = response.brokers.iter().map(|broker| (broker.id, broker.clone())).collect();
        }
        for topic in response.topics.iter().filter(|topic| topic.error.is_none()) {
            let count = topic.partitions.iter().map(|p| p.partition + 1).max().unwrap_or(0);
            let before = view.topics.get(topic.name.as_str());
            let mut leaders = before.map_or_else(Vec::new, |topic| topic.leaders.clone());
            leaders.resize(usize::try_from(count).unwrap_or(0), None);
            for partition in topic.partitions.iter().filter(|partition| partition.leader_id >= 0) {
                if let Some(leader) = index(partition.partition).and_then(|at| leaders.get_mut(at)) {
                    *leader = Some(partition.leader_id);
                }
            }
            view.topics.insert(topic.name.as_str().into(), TopicView { leaders });
        }
    }

    /// The number of partitions of a topic; `None` for one not known yet.
    pub fn partition_count(&self, topic: &str) -> Option<i32> {
        let count = self.view().topics.get(topic)?.leaders.len();
        i32::try_from(count).ok()
    }

    /// Broker id of a partition's leader.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        *self.view().topics.get(topic)?.leaders.get(index(partition)?)?
    }

    /// gRPC address of a broker.
    pub fn address(&self, broker: i32) -> Option<String> {
        self.view().brokers.get(&broker).map(|broker| broker.grpc_address.clone())
    }

    /// gRPC addresses of all brokers.
    pub fn addresses(&self) -> Vec<String> {
        self.view().brokers.values().map(|broker| broker.grpc_address.clone()).collect()
    }
}

fn index(partition: i32) -> Option<usize> {
    usize::try_from(partition).ok()
}

/// The named topic in an answer, or why it is not there.
pub fn find_topic<'a>(
    response: &'a v1::MetadataResponse,
    operation: &'static str,
    name: &str,
) -> Result<&'a v1::TopicMetadata, ClientError> {
    let topic = response.topics.iter().find(|topic| topic.name == name);
    let topic = topic.ok_or_else(|| ClientError::Protocol {
        operation,
        target: format!("topic {name}"),
        reason: "the topic is missing in the answer".to_owned(),
    })?;
    match &topic.error {
        Some(error) => Err(ClientError::refused(operation, format!("topic {name}"), error)),
        None => Ok(topic),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(leader_id: i32) -> v1::MetadataResponse {
        let partition = v1::PartitionMetadata { partition: 0, leader_id, ..Default::default() };
        let topic = v1::TopicMetadata { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let broker = Broker { id: 4, grpc_address: "h:1".into(), ..Default::default() };
        v1::MetadataResponse { topics: vec![topic], brokers: vec![broker], ..Default::default() }
    }

    #[test]
    fn a_partition_without_a_leader_keeps_the_last_one_known() {
        let metadata = Metadata::default();
        assert_eq!(metadata.partition_count("t"), None);
        metadata.update(&answer(4));
        metadata.update(&answer(-1));
        assert_eq!(metadata.leader("t", 0), Some(4));
        assert_eq!(metadata.leader("t", 1), None);
        assert_eq!(metadata.address(4).unwrap(), "h:1");
    }

    #[test]
    fn an_answer_with_an_error_forgets_nothing() {
        let metadata = Metadata::default();
        metadata.update(&answer(4));
        let mut failed = answer(4);
        failed.brokers.clear();
        failed.topics[0].error = Some(v1::Error { code: 3, ..Default::default() });
        failed.topics[0].partitions.clear();
        metadata.update(&failed);
        assert_eq!(metadata.partition_count("t"), Some(1));
        assert!(find_topic(&failed, "describe", "t").is_err());
    }
}
