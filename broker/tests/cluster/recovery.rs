//! Going on after a majority of disks is gone for good.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_broker::Observation;
use headwater_proto::types::{GroupId, ReplicaId};
use headwater_proto::v1;
use headwater_storage::disk::SimDisk;

use super::harness::*;

/// Five brokers, and a topic of one partition with so many replicas and two records: the group, and who has it.
pub async fn five_with_a_topic(replicas: i32) -> (Cluster, GroupId, Vec<usize>) {
    let mut cluster = Cluster::listed(5);
    cluster.start_all().await;
    cluster.wait_ready().await;
    assert_eq!(cluster.members[0].create("t", 1, replicas).await.error, None);
    cluster.produce("t", 0, &["a", "b"]).await;
    let group = cluster.group("t", 0).await;
    eventually("every replica knows that the records are committed", || {
        let held = cluster.members.iter().filter_map(|member| member.observe().remove(&group));
        held.filter(|replica| replica.progress.high_watermark.get() == 2).count() == replicas as usize
    })
    .await;
    let has = |index: &usize| cluster.members[*index].observe().contains_key(&group);
    let holders: Vec<_> = (0..5).filter(has).collect();
    (cluster, group, holders)
}

async fn recover(member: &Member, survivor: Option<i32>, accept_loss: bool) -> v1::RecoverPartitionResponse {
    let topic = "t".to_owned();
    let request = v1::RecoverPartitionRequest { topic, partition: 0, accept_loss, survivor };
    member.cluster_admin().await.recover_partition(request).await.unwrap().into_inner()
}

/// What it says while nothing keeps it from recovering.
pub async fn recoverable(member: &Member, accept_loss: bool) -> v1::RecoverPartitionResponse {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // Until the dead are known to be dead, a leader is said to live.
        let answer = recover(member, None, accept_loss).await;
        if answer.error.is_none() {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{:?}", answer.error);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn voters(observation: &Observation) -> BTreeSet<ReplicaId> {
    observation.configs.iter().flatten().copied().collect()
}

fn replica_of(member: &Member, group: GroupId) -> Option<ReplicaId> {
    member.observe().get(&group).map(|replica| replica.replica_id)
}

/// Three replicas vote, on brokers that run, and hold the same.
pub async fn wait_grown(cluster: &Cluster, group: GroupId, records: i64) {
    eventually("the partition has three voters again", || {
        let held: Vec<_> = cluster.running().filter_map(|member| member.observe().remove(&group)).collect();
        let ids: BTreeSet<_> = held.iter().map(|replica| replica.replica_id).collect();
        let agree = |replica: &Observation| {
            voters(replica) == ids
                && replica.configs.len() == 1
                && replica.progress.high_watermark.get() >= records
        };
        ids.len() == 3 && held.iter().all(agree)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_of_three_goes_on_grows_again_and_what_was_given_up_never_comes_back() {
    let (mut cluster, group, holders) = five_with_a_topic(3).await;
    let survivor = holders[0];
    let refused = recover(&cluster.members[survivor], None, true).await.error.unwrap();
    assert!(refused.message.contains("leads the partition"), "{refused:?}");
    // The survivor is away while others acknowledge one more.
    cluster.members[survivor].power_cut().await;
    cluster.produce("t", 0, &["lost"]).await;
    for index in &holders[1..] {
        cluster.members[*index].power_cut().await;
    }
    cluster.members[survivor].start().await;
    cluster.members[survivor].wait_ready().await;

    let asked = (0..5).find(|index| !holders.contains(index)).unwrap();
    let preview = recoverable(&cluster.members[asked], false).await;
    let chosen = cluster.members[survivor].config.broker.node_id;
    assert_eq!((preview.chosen, preview.survivors.len()), (chosen, 1), "{preview:?}");
    assert_eq!(preview.survivors[0].log_end_offset, 2);
    assert!(preview.loss.contains("below offset 2") && preview.loss.contains("beyond 2"), "{}", preview.loss);
    assert!(preview.highest_term >= preview.survivors[0].last_log_term);
    assert_eq!(preview.given_up.len(), 2);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(cluster.leader(group).is_none(), "asking changes nothing");

    let old: Vec<_> = preview.survivors.iter().map(|survivor| survivor.replica_id).collect();
    let done = recoverable(&cluster.members[asked], true).await;
    assert_eq!((done.chosen, done.error), (chosen, None));
    assert_eq!(cluster.produce("t", 0, &["c"]).await, 2, "in the place of what was lost");
    wait_grown(&cluster, group, 3).await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    let led_in = cluster.wait_leader(group).await.observe()[&group].leads.unwrap();
    assert!(led_in.get() > preview.highest_term);

    // Both come back together: a majority of the old voters.
    let members = replicas_on_disk(&cluster, group, &holders[1..]);
    for index in &holders[1..] {
        cluster.members[*index].start().await;
    }
    cluster.wait_ready().await;
    eventually("what was given up is deleted", || {
        let left = holders[1..].iter().flat_map(|index| cluster.members[*index].disk.paths());
        let of_group = group.to_string();
        !left.into_iter().any(|path| path.to_string_lossy().contains(&of_group))
    })
    .await;
    assert!(members.iter().all(|has| *has), "it was there");
    assert_eq!(cluster.produce("t", 0, &["d"]).await, 3);
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c", "d"]);
    let now = replica_of(&cluster.members[survivor], group).unwrap();
    assert_eq!(old, [now.get()]);
    // Decided once, carried out once: a restart of the survivor throws nobody out.
    cluster.members[survivor].power_cut().await;
    cluster.produce("t", 0, &["e"]).await;
    cluster.members[survivor].start().await;
    cluster.wait_ready().await;
    wait_grown(&cluster, group, 5).await;
    cluster.stop_all().await;
}

fn replicas_on_disk(cluster: &Cluster, group: GroupId, members: &[usize]) -> Vec<bool> {
    let name = group.to_string();
    let has = |index: &usize| {
        cluster.members[*index].disk.paths().iter().any(|path| path.to_string_lossy().contains(&name))
    };
    members.iter().map(has).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_old_voters_elect_nobody_before_they_know_what_became_of_their_group() {
    let (mut cluster, group, holders) = five_with_a_topic(3).await;
    for index in &holders[1..] {
        // Cleanly: they know what their metadata was, and need not ask where their logs end.
        cluster.members[*index].stop().await;
    }
    let done = recoverable(&cluster.members[holders[0]], true).await;
    assert_eq!(done.chosen, cluster.members[holders[0]].config.broker.node_id);
    cluster.produce("t", 0, &["c"]).await;
    // They reach one another and nobody else: a majority of what once were three, and no majority of the metadata.
    cluster.stop_all().await;
    for index in &holders[1..] {
        cluster.members[*index].start().await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(cluster.leader(group).is_none());
    for index in 0..5 {
        if !cluster.members[index].is_running() {
            cluster.members[index].start().await;
        }
    }
    cluster.wait_ready().await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    wait_grown(&cluster, group, 3).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_disks_that_are_back_already_do_not_stand_in_the_way() {
    let (mut cluster, group, holders) = five_with_a_topic(3).await;
    for index in &holders[1..] {
        cluster.members[*index].power_cut().await;
        cluster.members[*index].disk = Arc::new(SimDisk::new(100 + *index as u64));
        cluster.members[*index].start().await;
    }
    cluster.wait_ready().await;
    assert!(cluster.leader(group).is_none());
    recoverable(&cluster.members[holders[1]], true).await;
    cluster.produce("t", 0, &["c"]).await;
    wait_grown(&cluster, group, 3).await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_replica_left_an_empty_one_begins_where_the_operator_says() {
    let (mut cluster, group, holders) = five_with_a_topic(1).await;
    let lost = holders[0];
    let term = cluster.wait_leader(group).await.observe()[&group].leads.unwrap();
    cluster.members[lost].stop().await;
    let asked = (lost + 1) % 5;
    let begin_on = cluster.members[asked].config.broker.node_id;
    let preview = recoverable(&cluster.members[asked], false).await;
    assert_eq!((preview.chosen, preview.survivors), (-1, vec![]));
    let answer = recover(&cluster.members[asked], Some(begin_on), true).await;
    assert_eq!((answer.error, answer.chosen), (None, begin_on));
    assert!(answer.loss.contains("every record is lost"));
    assert_eq!(cluster.produce("t", 0, &["new"]).await, 0);
    assert!(cluster.wait_leader(group).await.observe()[&group].leads.unwrap() > term);
    // Its own vote would be enough for it, did it not ask first.
    cluster.stop_all().await;
    cluster.members[lost].start().await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(cluster.leader(group).is_none());
    for index in (0..5).filter(|index| *index != lost) {
        cluster.members[index].start().await;
    }
    cluster.wait_ready().await;
    let name = group.to_string();
    let has = |path: &std::path::PathBuf| path.to_string_lossy().contains(&name);
    eventually("the old replica is deleted", || !cluster.members[lost].disk.paths().iter().any(has)).await;
    assert_eq!(cluster.read("t", 0).await, ["new"]);
    assert_eq!(cluster.members[lost].produce("t", 0, &["no"]).await.error.map(|e| e.retriable), Some(true));
    cluster.stop_all().await;
}

/// Where the power fails, in operations of the survivor's disk after the loss was accepted; all at once, for a torn end
/// of the metadata's log may be vouched for by a majority only, after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_a_power_cut_interrupts_goes_on() {
    let cuts: Vec<_> =
        [1, 2, 4, 7, 11, 16, 24].map(|after| tokio::spawn(cut_within_a_recovery(after))).into();
    for cut in cuts {
        cut.await.unwrap();
    }
}

async fn cut_within_a_recovery(operations: u64) {
    let (mut cluster, group, holders) = five_with_a_topic(3).await;
    let survivor = holders[0];
    for index in &holders[1..] {
        cluster.members[*index].power_cut().await;
    }
    let asked = (0..5).find(|index| !holders.contains(index)).unwrap();
    recoverable(&cluster.members[asked], false).await;
    let disk = cluster.members[survivor].disk.clone();
    disk.die_after(disk.operations() + operations);
    // The metadata needs the survivor too: who asked may never hear of it.
    let accept = recover(&cluster.members[asked], None, true);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), accept).await;
    cluster.members[survivor].power_cut().await;
    cluster.members[survivor].start().await;
    let ready = || cluster.members[survivor].is_ready();
    eventually_within(MAJORITY_PATIENCE, "the survivor is ready", ready).await;
    if cluster.leader(group).is_none() {
        // It may not have come so far as to be decided.
        let _ = recover(&cluster.members[asked], None, true).await;
    }
    cluster.produce("t", 0, &["c"]).await;
    wait_grown(&cluster, group, 3).await;
    assert_eq!(cluster.read("t", 0).await, ["a", "b", "c"], "after {operations}");
    cluster.stop_all().await;
}
