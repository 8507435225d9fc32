//! Groups without timers, reads that are current, and groups that fail.

use std::time::Duration;

use headwater_proto::types::{BrokerId, Offset, Term};
use headwater_storage::log::LogOptions;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use crate::peer::RequestKind;
use crate::{ConsensusError, Health};

async fn three(seed: u64) -> Cluster {
    Cluster::new(3, seed, LogOptions::default()).await
}

/// Has the group fall quiet, followers and all.
async fn fall_quiet(cluster: &Cluster) -> i32 {
    cluster.converged().await;
    let (leader, term) = cluster.wait_leader().await;
    let quiet = cluster.group(leader).fall_quiet().await.unwrap();
    assert_eq!(quiet.term, term);
    for (node, group) in cluster.running() {
        assert!(node == leader || group.rest(quiet.term, quiet.last), "broker {node}");
        assert!(group.quiet());
    }
    leader
}

#[tokio::test(start_paused = true)]
async fn a_quiet_group_says_nothing_and_keeps_its_leader() {
    let mut cluster = three(1).await;
    cluster.append_all(0..5).await;
    let leader = fall_quiet(&cluster).await;
    let term = cluster.group(leader).leadership().unwrap().term;
    sleep(Duration::from_secs(1)).await;
    let kinds = [RequestKind::Heartbeat, RequestKind::Append, RequestKind::PreVote, RequestKind::Vote];
    let before = kinds.map(|kind| cluster.net.delivered(kind));
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(kinds.map(|kind| cluster.net.delivered(kind)), before);
    assert_eq!(cluster.group(leader).leadership().unwrap().term, term);

    // The first write wakes it, and is not refused.
    let began = Instant::now();
    assert_eq!(cluster.propose(leader, b"v").await, Ok(Offset(5)));
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.group(leader).leadership().unwrap().term, term);
    assert!(cluster.running().all(|(_, group)| !group.quiet()));
    cluster.converged().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_or_torn_group_does_not_fall_quiet_and_a_follower_that_differs_does_not_rest() {
    let mut cluster = three(2).await;
    cluster.append_all(0..5).await;
    let (leader, term) = cluster.wait_leader().await;
    let follower = 1 + leader % 3;
    cluster.net.isolate(&[BrokerId(follower)]);
    cluster.append(b"v").await;
    assert_eq!(cluster.group(leader).fall_quiet().await, None, "a follower lacks the last entry");
    assert!(!cluster.group(leader).quiet());
    let last = cluster.group(leader).log().bounds().last.unwrap();
    assert!(!cluster.group(follower).rest(term, last));
    assert_eq!(cluster.group(follower).fall_quiet().await, None);
    cluster.net.heal();
    cluster.converged().await;
    fall_quiet(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn who_wakes_without_a_leader_elects_another() {
    let mut cluster = three(3).await;
    cluster.append_all(0..5).await;
    let leader = fall_quiet(&cluster).await;
    let term = cluster.group(leader).leadership().unwrap().term;
    sleep(Duration::from_secs(100)).await;
    cluster.kill(leader).await;
    sleep(Duration::from_secs(10)).await;
    assert!(cluster.leader().is_none(), "nobody has noticed");
    let rest: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    for node in &rest {
        cluster.group(*node).wake().await;
    }
    cluster.new_leader(&rest, term).await;
    cluster.append_all(5..8).await;
    cluster.converged().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_at_rest_learns_of_a_candidate_that_holds_less() {
    let mut cluster = three(6).await;
    cluster.append_all(0..5).await;
    let leader = fall_quiet(&cluster).await;
    let (behind, ahead) = (1 + leader % 3, 1 + (leader + 1) % 3);
    cluster.net.isolate(&[BrokerId(behind)]);
    cluster.append(b"more").await;
    let last = cluster.group(leader).log().bounds().last;
    let has_it = |all: &Cluster| (all.group(ahead).log().bounds().last == last).then_some(());
    cluster.until("the other one has it", has_it).await;
    for node in 1..=3 {
        cluster.kill(node).await;
    }
    cluster.net.heal();
    cluster.settings.start_at_rest = true;
    for node in [behind, ahead] {
        cluster.start(node).await;
    }
    cluster.group(behind).campaign().await;
    timeout(Duration::from_secs(1), cluster.group(ahead).outranked_a_candidate()).await.unwrap();
    for node in [behind, ahead] {
        cluster.kill(node).await;
        cluster.start(node).await;
    }
    cluster.group(ahead).campaign().await;
    cluster.new_leader(&[ahead], Term(0)).await;
    let told = timeout(Duration::from_secs(2), cluster.group(behind).outranked_a_candidate());
    assert!(told.await.is_err(), "the candidate holds more");
}

#[tokio::test(start_paused = true)]
async fn a_lone_voter_waits_for_whoever_holds_it_where_it_is_told_to() {
    let mut cluster = Cluster::new(1, 8, LogOptions::default()).await;
    cluster.append_all(0..5).await;
    cluster.power_cut(1).await;
    (cluster.settings.start_at_rest, cluster.settings.lone_voter_leads) = (true, false);
    cluster.start(1).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.leader(), None);
    cluster.group(1).campaign().await;
    cluster.new_leader(&[1], Term(0)).await;
    cluster.append_all(5..8).await;
}

#[tokio::test(start_paused = true)]
async fn a_current_read_wakes_a_group_and_is_refused_without_a_quorum() {
    let mut cluster = three(4).await;
    cluster.append_all(0..5).await;
    let leader = fall_quiet(&cluster).await;
    sleep(Duration::from_secs(100)).await;
    let group = cluster.group(leader).clone();
    assert_eq!(group.read_index().await.unwrap().high_watermark, Offset(5));
    assert!(!group.quiet());
    let follower = cluster.group(1 + leader % 3).clone();
    let refused = follower.read_index().await;
    assert!(matches!(refused, Err(ConsensusError::NotLeader { leader: Some(_) })), "{refused:?}");

    let term = group.leadership().unwrap().term;
    cluster.net.isolate(&[BrokerId(leader)]);
    let refused = timeout(Duration::from_secs(2), group.read_index()).await.unwrap();
    assert!(matches!(refused, Err(ConsensusError::NoQuorum)), "{refused:?}");
    // Another leads meanwhile, and writes: the old one must not answer with what it has.
    let rest: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    cluster.new_leader(&rest, term).await;
    cluster.append(b"later").await;
    let refused = timeout(Duration::from_secs(2), group.read_index()).await.unwrap();
    assert!(matches!(refused, Err(ConsensusError::NoQuorum)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_fails_leads_no_more_and_says_so() {
    let mut cluster = three(5).await;
    cluster.append_all(0..5).await;
    let (leader, term) = cluster.wait_leader().await;
    let group = cluster.group(leader).clone();
    cluster.node(leader).disk.fail_syncs(Some(".log"));
    let pending = cluster.enqueue(leader, b"v").await;
    let reason = timeout(Duration::from_secs(5), group.failed()).await.unwrap();
    assert_eq!(group.leadership(), None, "{reason}");
    assert!(matches!(group.health(), Health::Failed(_)), "{:?}", group.health());
    drop(pending);
    let rest: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    cluster.new_leader(&rest, term).await;
    cluster.append(b"w").await;
}
