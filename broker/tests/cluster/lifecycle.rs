//! Stops, kills, power cuts and returns.

use headwater_proto::types::GroupId;
use headwater_proto::{ErrorCode, v1};

use super::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_survives_the_loss_of_any_one_and_the_power_cut_of_all() {
    let mut cluster = Cluster::three().await;
    assert_eq!(cluster.members[1].create("t", 2, 3).await.error, None);
    cluster.produce("t", 0, &["a", "b"]).await;
    let mut expected = vec!["a".to_owned(), "b".to_owned()];
    for index in 0..3 {
        cluster.members[index].power_cut().await;
        let value = format!("without {index}");
        cluster.produce("t", 0, &[&value]).await;
        expected.push(value);
        assert_eq!(cluster.read("t", 0).await, expected);
        cluster.members[index].start().await;
        cluster.wait_ready().await;
    }
    cluster.forget_seeds();
    for member in &mut cluster.members {
        member.power_cut().await;
    }
    cluster.start_all().await;
    cluster.wait_ready().await;
    assert_eq!(cluster.read("t", 0).await, expected);
    cluster.produce("t", 1, &["c"]).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_nobody_and_says_for_whom_it_could() {
    let mut cluster = Cluster::three().await;
    assert_eq!(cluster.members[0].create("t", 1, 3).await.error, None);
    cluster.produce("t", 0, &["a"]).await;
    cluster.stop_all().await;
    cluster.members[0].start().await;
    let node = cluster.members[0].node().unwrap();
    let reason = node.unready().unwrap();
    assert!(reason.contains("elect a leader"), "{reason}");
    // It knows its topics from its disk, and refuses what needs the others.
    assert_eq!(cluster.members[0].topics().await, ["t"]);
    let refused = cluster.members[0].produce("t", 0, &["b"]).await.error.unwrap();
    assert!(refused.retriable, "{refused:?}");
    drop(node);
    cluster.members[1].start().await;
    cluster.wait_ready().await;
    assert_eq!(cluster.read("t", 0).await, ["a"]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_leadership_over_first() {
    let mut cluster = Cluster::three().await;
    assert_eq!(cluster.members[0].create("t", 6, 3).await.error, None);
    let mut groups = vec![GroupId::METADATA];
    for partition in 0..6 {
        groups.push(cluster.group("t", partition).await);
    }
    for group in &groups {
        cluster.wait_leader(*group).await;
    }
    for index in 0..3 {
        let started = tokio::time::Instant::now();
        cluster.members[index].stop().await;
        // Not by an election, which takes more than half a second from the time-out on: it is led by then.
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        let led = groups.iter().filter(|group| cluster.leader(**group).is_some()).count();
        assert_eq!(led, groups.len(), "after {:?}", started.elapsed());
        cluster.members[index].start().await;
        cluster.wait_ready().await;
        for group in &groups {
            cluster.wait_leader(*group).await;
        }
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_hears_of_a_topic_before_it_denies_it() {
    let mut cluster = Cluster::three().await;
    cluster.members[2].stop().await;
    assert_eq!(cluster.members[0].create("late", 1, 1).await.error, None);
    cluster.members[2].start().await;
    eventually("it answers", || cluster.members[2].node().is_some()).await;
    let partitions = vec![v1::LeaderTransfer { topic: "late".to_owned(), partition: 0, to: None }];
    let request = v1::TransferLeaderRequest { partitions, timeout_ms: 0 };
    let mut admin = cluster.members[2].cluster_admin().await;
    let transferred = admin.transfer_leader(request).await.unwrap().into_inner();
    // Who leads is announced apart: it may not have heard of that yet.
    let error = transferred.partitions[0].error.as_ref().map(|error| error.code);
    assert_ne!(error, Some(ErrorCode::UnknownTopicOrPartition.number().into()), "{transferred:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_deleted_while_a_broker_was_away_are_deleted_when_it_knows_for_sure() {
    let mut cluster = Cluster::three().await;
    for name in ["kept", "gone"] {
        assert_eq!(cluster.members[0].create(name, 2, 3).await.error, None);
        cluster.produce(name, 0, &[name]).await;
    }
    let gone = [cluster.group("gone", 0).await, cluster.group("gone", 1).await];
    cluster.members[2].power_cut().await;
    assert_eq!(cluster.members[0].delete("gone").await.error, None);
    cluster.members[0].stop().await;
    cluster.members[1].stop().await;
    // Alone it cannot know, and touches nothing.
    cluster.members[2].start().await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let paths = |cluster: &Cluster| cluster.members[2].disk.paths();
    let has = |cluster: &Cluster, group: &GroupId| {
        let name = group.to_string();
        paths(cluster).iter().any(|path| path.to_string_lossy().contains(&name))
    };
    assert!(gone.iter().all(|group| has(&cluster, group)), "{:?}", paths(&cluster));
    cluster.members[0].start().await;
    cluster.members[1].start().await;
    cluster.wait_ready().await;
    eventually("what was deleted is gone", || !gone.iter().any(|group| has(&cluster, group))).await;
    assert_eq!(cluster.members[2].topics().await, ["kept"]);
    assert_eq!(cluster.read("kept", 0).await, ["kept"]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_log_stays_small_and_who_was_away_gets_its_state() {
    let mut cluster = Cluster::listed(3);
    for member in &mut cluster.members {
        member.config.cluster.metadata_segment_bytes = 16_384;
        member.config.storage.retention_check_interval_ms = 100;
    }
    cluster.start_all().await;
    cluster.wait_ready().await;
    cluster.members[2].stop().await;
    for round in 0..200 {
        let (name, member) = (format!("topic-{round}"), &cluster.members[round % 2]);
        assert_eq!(member.create(&name, 1, 1).await.error, None);
        assert_eq!(member.delete(&name).await.error, None);
    }
    assert_eq!(cluster.members[0].create("last", 1, 1).await.error, None);
    eventually("old entries are given up", || {
        cluster
            .running()
            .all(|member| member.observe()[&GroupId::METADATA].log.bounds().first_index.get() > 100)
    })
    .await;
    cluster.members[2].start().await;
    cluster.wait_ready().await;
    assert_eq!(cluster.members[2].topics().await, ["last"]);
    cluster.stop_all().await;
    cluster.start_all().await;
    cluster.wait_ready().await;
    assert_eq!(cluster.members[1].topics().await, ["last"]);
    cluster.stop_all().await;
}
