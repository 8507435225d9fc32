//! Founding, joining, and being refused.

use std::sync::Arc;

use futures_util::future::join_all;
use headwater_broker::{EntranceError, NodeError};
use headwater_proto::types::GroupId;
use headwater_proto::v1;
use headwater_storage::disk::SimDisk;

use super::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn brokers_of_one_list_found_one_cluster_in_any_order() {
    let mut cluster = Cluster::listed(3);
    for index in [2, 0] {
        cluster.members[index].start().await;
    }
    // Nobody founds anything while one of the list has not answered.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(cluster.running().all(|member| member.node().is_none()));
    cluster.members[1].start().await;
    cluster.wait_ready().await;
    let id = cluster.members[0].cluster_id().await;
    for member in &cluster.members {
        assert_eq!(member.cluster_id().await, id);
        let metadata = member.observe().remove(&GroupId::METADATA).unwrap();
        assert_eq!(metadata.configs.concat_len(), 3);
    }
    cluster.stop_all().await;
    // In another order, and with nothing but the disks.
    cluster.forget_seeds();
    for index in [1, 2] {
        cluster.members[index].start().await;
    }
    cluster.wait_ready().await;
    assert_eq!(cluster.members[1].cluster_id().await, id);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_asked_for_at_the_founding_waits_for_the_brokers_to_register() {
    let mut cluster = Cluster::listed(3);
    cluster.start_all().await;
    // Connected before anybody answers: asked the moment that somebody does.
    let created =
        join_all(cluster.members.iter().zip(["a", "b", "c"]).map(|(m, name)| m.create(name, 1, 3))).await;
    assert!(created.iter().all(|topic| topic.error.is_none() && topic.replicas == 3), "{created:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_needs_a_founder_who_is_away_may_be_asked_for_again() {
    let mut cluster = Cluster::listed(3);
    cluster.members[2].start().await;
    // It answers the founders, and never comes to write down what it has become.
    cluster.members[2].disk.stall_syncs(Some(("", std::time::Duration::from_secs(3_600))));
    for index in [0, 1] {
        cluster.members[index].start().await;
    }
    for index in [0, 1] {
        cluster.members[index].wait_ready().await;
    }
    let retriable = |topic: v1::TopicResult| topic.error.map(|error| error.retriable);
    let asked = &cluster.members[1];
    assert_eq!(retriable(asked.create("t", 1, 3).await), Some(true));
    assert_eq!(retriable(asked.create("t", 1, 4).await), Some(false), "there never were so many");
    cluster.members[2].power_cut().await;
    cluster.members[2].start().await;
    cluster.members[2].wait_ready().await;
    assert_eq!(retriable(cluster.members[1].create("t", 1, 3).await), None);
    assert_eq!(retriable(cluster.members[1].create("u", 1, 4).await), Some(false));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_alone_grows_by_those_that_join_it() {
    let mut first = Member::new(1);
    first.start().await;
    assert!(first.is_ready());
    assert_eq!(first.create("t", 1, 1).await.error, None);
    assert_eq!(first.produce("t", 0, &["a"]).await.error, None);
    let mut second = Member::new(2);
    second.config.cluster.join = seeds(&[&first]);
    second.start().await;
    second.wait_ready().await;
    assert_eq!((second.brokers().await, second.topics().await), (vec![1, 2], vec!["t".to_owned()]));
    let mut third = Member::new(3);
    third.config.cluster.join = seeds(&[&second]);
    third.start().await;
    third.wait_ready().await;
    assert_eq!(first.brokers().await, [1, 2, 3]);
    // A change asked of any of them is a change for all.
    assert_eq!(third.create("u", 3, 3).await.error, None);
    let mut cluster = Cluster { members: vec![first, second, third] };
    cluster.produce("u", 0, &["b"]).await;
    cluster.stop_all().await;
    cluster.forget_seeds();
    cluster.start_all().await;
    cluster.wait_ready().await;
    assert_eq!(
        (cluster.read("t", 0).await, cluster.read("u", 0).await),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_two_clusters_is_refused() {
    let (mut one, mut two) = (Member::new(1), Member::new(2));
    one.start().await;
    two.start().await;
    let mut lost = Member::new(3);
    lost.config.cluster.join = seeds(&[&one, &two]);
    lost.start().await;
    let failure = lost.failure().await;
    assert!(matches!(*failure, NodeError::Entrance(EntranceError::TwoClusters(_))), "{failure}");
    for mut member in [one, two, lost] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_is_refused() {
    let mut cluster = Cluster::three().await;
    // The third broker's disk is swapped for one that belonged to a broker 3 of another cluster, of three as well.
    let mut other = Cluster::three().await;
    other.members[2].kill().await;
    other.stop_all().await;
    cluster.members[2].kill().await;
    cluster.members[2].disk = other.members[2].disk.clone();
    cluster.members[2].start().await;
    let failure = cluster.members[2].failure().await;
    assert!(matches!(*failure, NodeError::Entrance(EntranceError::OtherCluster { .. })), "{failure}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_disk_is_a_new_broker_of_the_same_number_and_the_old_one_is_refused() {
    let mut cluster = Cluster::three().await;
    assert_eq!(cluster.members[0].create("t", 1, 3).await.error, None);
    cluster.produce("t", 0, &["a"]).await;
    let group = cluster.group("t", 0).await;
    let before = cluster.members[2].observe()[&group].replica_id;
    cluster.members[2].kill().await;
    let old = std::mem::replace(&mut cluster.members[2].disk, Arc::new(SimDisk::new(33)));
    cluster.members[2].start().await;
    cluster.wait_ready().await;
    let metadata = cluster.members[2].observe().remove(&GroupId::METADATA).unwrap();
    assert!(metadata.replica_id.get() >= 1_000, "a replica id that was never a voter's");
    // The copy is built again, as another replica.
    eventually("the partition is held again", || {
        let held = cluster.members[2].observe();
        held.get(&group)
            .is_some_and(|replica| replica.replica_id != before && replica.progress.high_watermark.get() == 1)
    })
    .await;
    cluster.members[2].stop().await;
    cluster.members[2].disk = old;
    cluster.members[2].start().await;
    let failure = cluster.members[2].failure().await;
    assert!(matches!(*failure, NodeError::Entrance(EntranceError::Refused(_))), "{failure}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_taken_is_refused_while_its_broker_lives() {
    let mut cluster = Cluster::three().await;
    let mut twin = Member::new(2);
    twin.config.cluster.join = seeds(&[&cluster.members[0]]);
    twin.start().await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(twin.node().is_none());
    assert!(cluster.members[1].is_ready());
    // Once the other is gone, it takes its place.
    cluster.members[1].kill().await;
    twin.wait_ready().await;
    twin.stop().await;
    cluster.stop_all().await;
}

trait ConcatLen {
    fn concat_len(&self) -> usize;
}

impl<T> ConcatLen for Vec<std::collections::BTreeSet<T>> {
    fn concat_len(&self) -> usize {
        self.iter().map(std::collections::BTreeSet::len).sum()
    }
}
