//! Rot that shows while a broker runs. No scrub looks for it here: it is met by whoever reads.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::NodeError;
use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::types::GroupId;
use headwater_proto::v1;

use crate::harness::{Cluster, Member, PATIENCE, eventually, eventually_within};

/// Three brokers whose scrubs come never, or this often.
async fn three(scrub_interval_ms: u64) -> Cluster {
    let mut cluster = Cluster::listed(3);
    for member in &mut cluster.members {
        member.config.storage.scrub_interval_ms = scrub_interval_ms;
    }
    cluster.start_all().await;
    cluster.wait_ready().await;
    cluster
}

/// Flips a bit in a group's log.
fn rot(member: &Member, group: GroupId, position: u64) {
    let name = format!("/{group}/");
    let is_log = |path: &PathBuf| {
        let path = path.to_string_lossy();
        path.contains(&name) && path.ends_with(".log")
    };
    let log = member.disk.paths().into_iter().find(is_log).unwrap();
    member.disk.flip_bit(&log, position, 3).unwrap();
}

fn all_have(cluster: &Cluster, group: GroupId, records: i64) -> bool {
    let has = |member: &Member| {
        member.observe().get(&group).is_some_and(|seen| seen.progress.high_watermark.get() == records)
    };
    cluster.members.iter().all(has)
}

async fn fetch(member: &Member, offset: i64) -> v1::PartitionRecords {
    let part = v1::FetchPartition { topic: "t".to_owned(), partition: 0, offset, leader_epoch: -1 };
    let request = v1::FetchRequest { partitions: vec![part], max_bytes: 1, ..v1::FetchRequest::default() };
    member.data().await.fetch(request).await.unwrap().into_inner().partitions.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_serves_no_rotten_batch_and_its_replica_is_built_anew_at_once() {
    let mut cluster = three(0).await;
    assert_eq!(cluster.members[0].create("t", 1, 3).await.error, None);
    let group = cluster.group("t", 0).await;
    for n in 0..20 {
        cluster.produce("t", 0, &[&format!("{n} ").repeat(300)]).await;
    }
    eventually("all have everything", || all_have(&cluster, group, 20)).await;
    let before: Vec<_> = cluster.members.iter().map(|m| m.observe()[&group].replica_id).collect();
    let leader = cluster.wait_leader(group).await;
    rot(leader, group, 5_000);

    let (mut refused, mut offset) = (0, 0);
    while offset < 20 {
        let fetched = fetch(leader, offset).await;
        if let Some(error) = fetched.error {
            assert!(error.retriable, "{error:?}");
            refused += 1;
            break;
        }
        let mut records = fetched.records;
        while let Some(batch) = RecordBatch::split_first(&mut records, &Limits::default()).unwrap() {
            assert_eq!(batch.header().base_offset, offset);
        }
        offset = fetched.next_offset;
    }
    assert_eq!(refused, 1, "the rotten batch was served, as far as {offset}");

    let position = cluster.members.iter().position(|member| std::ptr::eq(member, leader)).unwrap();
    let anew = || leader.observe().get(&group).is_some_and(|r| r.replica_id != before[position] && !r.down);
    eventually_within(PATIENCE, "the replica is another one", anew).await;
    for (n, member) in cluster.members.iter().enumerate().filter(|(n, _)| *n != position) {
        assert_eq!(member.observe()[&group].replica_id, before[n], "the others stay");
    }
    eventually("all have everything", || all_have(&cluster, group, 20)).await;
    assert_eq!(cluster.read("t", 0).await.len(), 20);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_that_a_scrub_finds_in_the_metadata_is_made_good_by_a_restart() {
    let mut cluster = three(300).await;
    assert_eq!(cluster.members[0].create("t", 1, 3).await.error, None);
    let group = cluster.group("t", 0).await;
    let before = cluster.members[1].observe();
    rot(&cluster.members[1], GroupId::METADATA, 100);
    let failure = cluster.members[1].failure().await;
    assert!(matches!(*failure, NodeError::MetadataRotten), "{failure}");
    for (n, member) in cluster.members.iter().enumerate().filter(|(n, _)| *n != 1) {
        let failed = tokio::time::timeout(Duration::from_millis(500), member.broker().failed()).await;
        assert!(failed.is_err(), "broker {n} gives up as well: {failed:?}");
    }
    cluster.members[1].stop().await;
    cluster.members[1].start().await;
    cluster.members[1].wait_ready().await;
    let now = cluster.members[1].observe();
    assert!(now[&GroupId::METADATA].replica_id > before[&GroupId::METADATA].replica_id);
    assert_eq!(now[&group].replica_id, before[&group].replica_id, "its partitions stay");
    cluster.produce("t", 0, &["a"]).await;
    let read: Vec<Bytes> = cluster.read("t", 0).await.into_iter().map(Bytes::from).collect();
    assert_eq!(read, ["a"]);
    cluster.stop_all().await;
}
