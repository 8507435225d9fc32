//! What the client believes of the cluster: brokers, partitions, leaders.
//!
//! A belief may be out of date at any time; the broker that is asked says so, and the asker
//! refreshes. Invariants: of two beliefs about a partition's leader the one with the greater epoch
//! wins, in whatever order they come, so that a broker that lags behind can't turn it back; a topic
//! that is known is never forgotten, only replaced: what waits for it can go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use headwater_proto::v1;

use crate::{Broker, ClientError};

/// Who leads a partition, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Broker id.
    pub broker: i32,
    /// Raft term of the leadership; -1 when it is not known.
    pub epoch: i32,
}

/// Who serves a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Broker id.
    pub broker: i32,
    pub is_leader: bool,
    /// -1 when it is not known, or for a follower, which has none of its own.
    pub epoch: i32,
}

#[derive(Debug, Clone, Default)]
struct PartitionView {
    leader: Option<Leader>,
    /// Brokers whose replicas are live and caught up.
    in_sync: Vec<i32>,
}

#[derive(Debug, Clone, Default)]
struct TopicView {
    topic_id: Bytes,
    /// By partition number.
    partitions: Vec<PartitionView>,
}

/// The cache. Reads never wait.
#[derive(Default)]
pub struct Metadata {
    view: Mutex<View>,
    /// Counts the changes of leaders.
    version: AtomicU64,
}

#[derive(Default)]
struct View {
    controller: Option<i32>,
    brokers: BTreeMap<i32, Broker>,
    topics: BTreeMap<Arc<str>, TopicView>,
}

impl View {
    fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionView> {
        self.topics.get(topic)?.partitions.get(index(partition)?)
    }

    fn has_rack(&self, broker: i32, rack: &str) -> bool {
        self.brokers.get(&broker).is_some_and(|broker| broker.rack == rack)
    }
}

impl PartitionView {
    /// Whether the belief was new. No epoch has two leaders: of the same one there is nothing to learn,
    /// and two brokers that each name the other can't keep a client going in a circle.
    fn learn(&mut self, leader: Leader) -> bool {
        let news = self.leader.is_none_or(|known| leader.epoch > known.epoch);
        if news {
            self.leader = Some(leader);
        }
        news
    }
}

impl Metadata {
    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another number whenever a leader is another one than before.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes over a broker's answer. A partition without a leader keeps the last one known: it is
    /// the best guess, and answers for itself.
    pub fn update(&self, response: &v1::MetadataResponse) {
        let mut view = self.view();
        if !response.brokers.is_empty() {
            view.brokers = response.brokers.iter().map(|broker| (broker.id, broker.clone())).collect();
        }
        view.controller = Some(response.controller_id).filter(|id| *id >= 0);
        let mut changed = false;
        for topic in response.topics.iter().filter(|topic| topic.error.is_none()) {
            let count = topic.partitions.iter().map(|p| p.partition + 1).max().unwrap_or(0);
            let mut known = view.topics.remove(topic.name.as_str()).unwrap_or_default();
            if known.topic_id != topic.topic_id {
                // Another topic of the same name, whose epochs begin anew.
                known = TopicView { topic_id: topic.topic_id.clone(), partitions: Vec::new() };
            }
            // Partitions are never taken away: an answer with fewer comes from a broker that lags behind.
            let count = usize::try_from(count).unwrap_or(0).max(known.partitions.len());
            known.partitions.resize_with(count, PartitionView::default);
            for answer in &topic.partitions {
                let Some(partition) = index(answer.partition).and_then(|at| known.partitions.get_mut(at))
                else {
                    continue;
                };
                partition.in_sync.clone_from(&answer.in_sync);
                if answer.leader_id >= 0 {
                    changed |=
                        partition.learn(Leader { broker: answer.leader_id, epoch: answer.leader_epoch });
                }
            }
            view.topics.insert(topic.name.as_str().into(), known);
        }
        drop(view);
        if changed {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Takes over what a broker that does not lead a partition says of who does. `false`: it was known,
    /// or is older than what is.
    pub fn learn(&self, topic: &str, partition: i32, hint: &v1::LeaderHint) -> bool {
        if hint.leader_id < 0 {
            return false;
        }
        let mut view = self.view();
        if !hint.leader_address.is_empty() {
            let broker = view.brokers.entry(hint.leader_id).or_default();
            broker.id = hint.leader_id;
            broker.grpc_address.clone_from(&hint.leader_address);
        }
        let found = view.topics.get_mut(topic).zip(index(partition));
        let Some(known) = found.and_then(|(topic, at)| topic.partitions.get_mut(at)) else { return false };
        let news = known.learn(Leader { broker: hint.leader_id, epoch: hint.leader_epoch });
        drop(view);
        if news {
            self.version.fetch_add(1, Ordering::Release);
        }
        news
    }

    /// The number of partitions of a topic; `None` for one not known yet.
    pub fn partition_count(&self, topic: &str) -> Option<i32> {
        let count = self.view().topics.get(topic)?.partitions.len();
        i32::try_from(count).ok()
    }

    pub fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        self.view().partition(topic, partition)?.leader
    }

    /// Who serves a reader of this rack: the leader if it is there too, else a caught-up replica there,
    /// else the leader. Readers of different partitions spread over the replicas of a rack.
    pub fn nearest(&self, topic: &str, partition: i32, rack: &str) -> Option<Server> {
        let view = self.view();
        let known = view.partition(topic, partition)?;
        let leader =
            known.leader.map(|leader| Server { broker: leader.broker, is_leader: true, epoch: leader.epoch });
        if leader.is_some_and(|leader| view.has_rack(leader.broker, rack)) {
            return leader;
        }
        let near: Vec<i32> = known.in_sync.iter().copied().filter(|id| view.has_rack(*id, rack)).collect();
        let turn = index(partition)? % near.len().max(1);
        near.get(turn).map(|broker| Server { broker: *broker, is_leader: false, epoch: -1 }).or(leader)
    }

    /// The broker that leads the metadata.
    pub fn controller(&self) -> Option<i32> {
        self.view().controller
    }

    /// gRPC address of a broker.
    pub fn address(&self, broker: i32) -> Option<String> {
        self.view().brokers.get(&broker).map(|broker| broker.grpc_address.clone())
    }

    /// gRPC addresses of all brokers, by id.
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

    fn answer(leader_id: i32, leader_epoch: i32) -> v1::MetadataResponse {
        let in_sync = vec![4, 5, 6];
        let partition =
            v1::PartitionMetadata { partition: 0, leader_id, leader_epoch, in_sync, ..Default::default() };
        let topic = v1::TopicMetadata { name: "t".into(), partitions: vec![partition], ..Default::default() };
        let broker = |id: i32, rack: &str| Broker {
            id,
            grpc_address: format!("h:{id}"),
            rack: rack.into(),
            ..Default::default()
        };
        let brokers = vec![broker(4, "a"), broker(5, "b"), broker(6, "b")];
        v1::MetadataResponse { topics: vec![topic], brokers, ..Default::default() }
    }

    fn leader(metadata: &Metadata) -> (i32, i32) {
        let leader = metadata.leader("t", 0).unwrap();
        (leader.broker, leader.epoch)
    }

    #[test]
    fn a_partition_without_a_leader_keeps_the_last_one_known() {
        let metadata = Metadata::default();
        assert_eq!(metadata.partition_count("t"), None);
        metadata.update(&answer(4, 1));
        metadata.update(&answer(-1, -1));
        assert_eq!(leader(&metadata), (4, 1));
        assert_eq!(metadata.leader("t", 1), None);
        assert_eq!(metadata.address(4).unwrap(), "h:4");
    }

    #[test]
    fn the_greater_epoch_wins_whoever_tells_it() {
        let metadata = Metadata::default();
        metadata.update(&answer(4, 3));
        let version = metadata.version();
        metadata.update(&answer(5, 2));
        assert_eq!((leader(&metadata), metadata.version()), ((4, 3), version), "a lagging broker");
        let hint = v1::LeaderHint { leader_id: 6, leader_epoch: 4, leader_address: "moved:1".into() };
        assert!(metadata.learn("t", 0, &hint));
        assert!(!metadata.learn("t", 0, &hint), "no news");
        assert_eq!((leader(&metadata), metadata.address(6).unwrap()), ((6, 4), "moved:1".to_owned()));
        assert!(metadata.version() > version);
        let stale = v1::LeaderHint { leader_id: 4, leader_epoch: 3, ..Default::default() };
        assert!(!metadata.learn("t", 0, &stale));
        assert!(!metadata.learn("nope", 0, &hint));
    }

    #[test]
    fn a_topic_created_again_begins_with_new_epochs() {
        let metadata = Metadata::default();
        metadata.update(&answer(4, 9));
        let mut again = answer(5, 1);
        again.topics[0].topic_id = vec![1; 16].into();
        metadata.update(&again);
        assert_eq!(leader(&metadata), (5, 1));
    }

    #[test]
    fn the_nearest_is_the_leader_or_a_caught_up_replica_in_its_place() {
        let metadata = Metadata::default();
        metadata.update(&answer(4, 1));
        let nearest = |rack| metadata.nearest("t", 0, rack).unwrap();
        assert_eq!(nearest("a"), Server { broker: 4, is_leader: true, epoch: 1 });
        assert_eq!(nearest("b"), Server { broker: 5, is_leader: false, epoch: -1 });
        assert_eq!(nearest("nowhere"), Server { broker: 4, is_leader: true, epoch: 1 });
        let mut lagging = answer(4, 1);
        lagging.topics[0].partitions[0].in_sync = vec![4];
        metadata.update(&lagging);
        assert_eq!(metadata.nearest("t", 0, "b").unwrap().broker, 4);
    }

    #[test]
    fn an_answer_with_an_error_forgets_nothing() {
        let metadata = Metadata::default();
        metadata.update(&answer(4, 1));
        let mut failed = answer(4, 1);
        failed.brokers.clear();
        failed.topics[0].error = Some(v1::Error { code: 3, ..Default::default() });
        failed.topics[0].partitions.clear();
        metadata.update(&failed);
        assert_eq!(metadata.partition_count("t"), Some(1));
        assert!(find_topic(&failed, "describe", "t").is_err());
    }
}
