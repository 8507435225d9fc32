//! The metadata group after a majority of its voters is gone for good, and a replica of it with a damaged log.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_broker::{MetadataRecoveryError, NodeError, StartError};
use headwater_proto::types::{GroupId, ReplicaId};
use headwater_proto::v1;
use headwater_storage::disk::SimDisk;

use super::harness::*;
use super::recovery::{five_with_a_topic, recoverable, wait_grown};

/// Three brokers with a topic of three replicas and two records; the metadata group's voters are on all of them.
async fn three_with_a_topic() -> (Cluster, GroupId) {
    let cluster = Cluster::three().await;
    assert_eq!(cluster.members[0].create("t", 1, 3).await.error, None);
    cluster.produce("t", 0, &["a", "b"]).await;
    let group = cluster.group("t", 0).await;
    eventually("every replica knows that the records are committed", || {
        let held = cluster.members.iter().filter_map(|member| member.observe().remove(&group));
        held.filter(|replica| replica.progress.high_watermark.get() == 2).count() == 3
    })
    .await;
    (cluster, group)
}

fn metadata_voters(member: &Member) -> BTreeSet<ReplicaId> {
    let observed = member.observe();
    observed
        .get(&GroupId::METADATA)
        .map(|group| group.configs.iter().flatten().copied().collect())
        .unwrap_or_default()
}

async fn wait_metadata_voters(cluster: &Cluster, count: usize) {
    eventually("the metadata has its voters", || {
        cluster.running().all(|member| {
            let own = member.observe().get(&GroupId::METADATA).map(|group| group.replica_id);
            let voters = metadata_voters(member);
            voters.len() == count && own.is_some_and(|own| voters.contains(&own))
        })
    })
    .await;
}

/// Two of three are dead for good, and the third is recovered and runs.
async fn recovered() -> (Cluster, GroupId) {
    let (mut cluster, group) = three_with_a_topic().await;
    for index in 0..3 {
        cluster.members[index].power_cut().await;
    }
    let survivor = &cluster.members[0];
    let preview = survivor.recover_metadata(false).await.unwrap();
    assert_eq!(preview.voters.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(!preview.is_done && preview.to_string().contains("Nothing was changed"), "{preview}");
    let done = survivor.recover_metadata(true).await.unwrap();
    assert!(done.is_done && done.last == preview.last, "looking changed nothing: {done}");
    assert!(matches!(survivor.recover_metadata(true).await, Err(MetadataRecoveryError::SoleVoter(_))));
    cluster.members[0].start().await;
    cluster.members[0].wait_ready().await;
    (cluster, group)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broker_of_three_goes_on_and_grows_to_three_again() {
    let (mut cluster, group) = recovered().await;
    assert_eq!(cluster.members[0].topics().await, ["t"]);
    assert_eq!(recoverable(&cluster.members[0], true).await.chosen, 1);
    assert_eq!(cluster.produce("t", 0, &["c"]).await, 2);
    // One comes back with an empty disk, in the place of the other there is a new one.
    cluster.members[1].disk = Arc::new(SimDisk::new(50));
    cluster.members[1].start().await;
    cluster.members[1].wait_ready().await;
    let mut fourth = Member::new(4);
    fourth.config.cluster.join = seeds(&[&cluster.members[0]]);
    fourth.start().await;
    fourth.wait_ready().await;
    let old = cluster.members.remove(2);
    cluster.members.push(fourth);
    let replace = v1::ReplaceNodeRequest { broker_id: 3, with_broker_id: 4, ..Default::default() };
    let replaced = cluster.members[0].cluster_admin().await.replace_node(replace).await.unwrap().into_inner();
    assert_eq!(replaced.error, None);
    wait_grown(&cluster, group, 3).await;
    wait_metadata_voters(&cluster, 3).await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    // The disk that was given up returns: nobody wants it.
    let mut old = old;
    old.start().await;
    let failure = old.failure().await;
    assert!(matches!(*failure, NodeError::GivenUp | NodeError::Entrance(_)), "{failure}");
    old.stop().await;
    cluster.produce("t", 0, &["d"]).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_majority_that_returns_after_all_gives_way_and_rejoins() {
    let (mut cluster, group) = recovered().await;
    recoverable(&cluster.members[0], true).await;
    cluster.produce("t", 0, &["c"]).await;
    assert_eq!(cluster.members[0].create("new", 1, 1).await.error, None);
    for index in [1, 2] {
        cluster.members[index].start().await;
    }
    for index in [1, 2] {
        let failure = cluster.members[index].failure().await;
        assert!(matches!(*failure, NodeError::GivenUp), "{failure}");
        cluster.members[index].stop().await;
        cluster.members[index].start().await;
    }
    cluster.wait_ready().await;
    wait_metadata_voters(&cluster, 3).await;
    assert_eq!(cluster.members[1].topics().await, ["new", "t"]);
    wait_grown(&cluster, group, 3).await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    // From then on it is a cluster like any other.
    cluster.members[0].power_cut().await;
    cluster.produce("t", 0, &["d"]).await;
    cluster.members[0].start().await;
    cluster.wait_ready().await;
    wait_metadata_voters(&cluster, 3).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_survivor_rejoins_and_its_partitions_stay() {
    let (mut cluster, group, holders) = five_with_a_topic(3).await;
    let (survivor, other) = (holders[0], holders[1]);
    let replica = |cluster: &Cluster, index: usize| cluster.members[index].observe()[&group].replica_id;
    let before = [replica(&cluster, survivor), replica(&cluster, other)];
    for index in (0..5).filter(|index| ![survivor, other].contains(index)) {
        cluster.members[index].power_cut().await;
    }
    cluster.members[survivor].power_cut().await;
    cluster.members[survivor].recover_metadata(true).await.unwrap();
    cluster.members[survivor].start().await;
    cluster.members[survivor].wait_ready().await;
    // It ran all along, and has a replica that once was one of five.
    let failure = cluster.members[other].failure().await;
    assert!(matches!(*failure, NodeError::GivenUp), "{failure}");
    cluster.members[other].stop().await;
    cluster.members[other].start().await;
    cluster.wait_ready().await;
    // Two of its three replicas are there: the partition needs no recovery of its own.
    assert_eq!(cluster.produce("t", 0, &["c"]).await, 2);
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    assert_eq!([replica(&cluster, survivor), replica(&cluster, other)], before);
    cluster.stop_all().await;
    for index in [survivor, other] {
        cluster.members[index].start().await;
    }
    cluster.wait_ready().await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_of_the_metadata_that_the_power_interrupts_is_done_again() {
    for operations in [1, 3, 6, 9, 13] {
        let (mut cluster, _) = three_with_a_topic().await;
        for index in 0..3 {
            cluster.members[index].power_cut().await;
        }
        let survivor = &cluster.members[0];
        survivor.disk.die_after(survivor.disk.operations() + operations);
        let within = std::time::Duration::from_secs(1);
        let _ = tokio::time::timeout(within, survivor.recover_metadata(true)).await;
        survivor.disk.power_cut();
        match survivor.recover_metadata(true).await {
            Ok(_) | Err(MetadataRecoveryError::SoleVoter(_)) => {}
            Err(error) => panic!("after {operations}: {error}"),
        }
        cluster.members[0].start().await;
        cluster.members[0].wait_ready().await;
        assert_eq!(cluster.members[0].create("new", 1, 1).await.error, None);
        // The others were given up, wherever it was interrupted.
        cluster.members[1].start().await;
        let failure = cluster.members[1].failure().await;
        assert!(matches!(*failure, NodeError::GivenUp), "after {operations}: {failure}");
        cluster.stop_all().await;
    }
}

/// Rots in the log of the metadata, well below what is known to be durable.
fn rot(member: &Member) {
    let name = GroupId::METADATA.to_string();
    let is_log = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.contains(&name) && path.ends_with(".log")
    };
    let log = member.disk.paths().into_iter().find(is_log).unwrap();
    member.disk.flip_bit(&log, 100, 3).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_the_metadata_that_rots_is_built_anew_and_the_partitions_stay() {
    let (mut cluster, group) = three_with_a_topic().await;
    let member = &mut cluster.members[2];
    let before = member.observe();
    member.power_cut().await;
    rot(member);
    member.start().await;
    member.wait_ready().await;
    let now = member.observe();
    assert!(now[&GroupId::METADATA].replica_id > before[&GroupId::METADATA].replica_id);
    wait_metadata_voters(&cluster, 3).await;
    wait_grown(&cluster, group, 2).await;
    assert_eq!(
        cluster.members[2].observe()[&group].replica_id,
        before[&group].replica_id,
        "its partitions stay"
    );
    // It counts: without another one the cluster goes on.
    cluster.members[0].power_cut().await;
    assert_eq!(cluster.produce("t", 0, &["c"]).await, 2);
    assert_eq!(cluster.members[2].create("new", 1, 1).await.error, None);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_replica_waits_for_others_and_alone_it_refuses() {
    let (mut cluster, _) = three_with_a_topic().await;
    cluster.stop_all().await;
    rot(&cluster.members[2]);
    assert!(cluster.members[2].recover_metadata(true).await.is_err(), "what is damaged is no survivor");
    cluster.members[2].start().await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(cluster.members[2].node().is_none());
    cluster.members[0].start().await;
    cluster.members[1].start().await;
    cluster.wait_ready().await;
    wait_metadata_voters(&cluster, 3).await;
    cluster.stop_all().await;

    let mut alone = Member::new(1);
    alone.start().await;
    assert_eq!(alone.create("t", 1, 1).await.error, None);
    alone.power_cut().await;
    rot(&alone);
    let refused = alone.try_start().await.unwrap_err();
    assert!(matches!(refused, StartError::Node(NodeError::MetadataDamaged { .. })), "{refused}");
    assert!(refused.to_string().contains("restore"), "{refused}");
}
