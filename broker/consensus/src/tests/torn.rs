//! Replicas that lost the end of their log, and groups that lost most of their replicas.

use std::path::Path;
use std::time::Duration;

use headwater_proto::types::{BrokerId, Offset, Term};
use headwater_storage::log::{LogId, LogOptions};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Partition, replica};
use super::support::{GROUP, ROOT, data_dir};
use crate::peer::{CallError, GroupRequest, Lane, Refusal, RequestKind};
use crate::types::{RaftVote, Types, to_raft};
use crate::{recovery, wire};

/// Cuts the power of `node` until its log is found torn; `None`: it never was.
async fn tear(cluster: &mut Cluster, node: i32) -> bool {
    for _ in 0..30 {
        let (leader, _) = cluster.wait_leader().await;
        let mut under_way = Vec::new();
        for number in 0..4 {
            if let Ok(pending) = cluster.enqueue(leader, format!("torn {number}").as_bytes()).await {
                under_way.push(pending);
            }
        }
        sleep(Duration::from_micros(1_500)).await;
        cluster.power_cut(node).await;
        cluster.start(node).await;
        if cluster.group(node).torn() {
            return true;
        }
        cluster.append(b"again").await;
        cluster.converged().await;
    }
    false
}

/// Asks a replica for its vote, as a candidate whose log ends at `last`.
async fn ask_for_vote(cluster: &Cluster, of: i32, candidate: i32, last: LogId) -> Result<bool, CallError> {
    let term = 1_000;
    let vote = RaftVote::new(term, replica(candidate));
    let request = openraft::raft::VoteRequest::<Types<headwater_core::Applied>>::new(vote, to_raft(last));
    let request = GroupRequest {
        group: GROUP,
        from: replica(candidate),
        target: replica(of),
        kind: RequestKind::PreVote,
        body: wire::encode_vote_request(&request),
    };
    let messenger = cluster.net.messenger(BrokerId(candidate));
    let answer =
        messenger.call(cluster.node(of).peer, Lane::Control, request, Duration::from_secs(1)).await?;
    Ok(wire::decode_voted::<headwater_core::Applied>(answer).unwrap().vote_granted)
}

#[tokio::test(start_paused = true)]
async fn a_torn_follower_is_made_whole_by_its_leader() {
    let mut torn = 0;
    for seed in 0..4 {
        let mut cluster = Cluster::new(3, seed, LogOptions::default()).await;
        cluster.append_all(0..5).await;
        let (leader, _) = cluster.wait_leader().await;
        let node = 1 + leader % 3;
        if !tear(&mut cluster, node).await {
            continue;
        }
        torn += 1;
        cluster.until("the tail is whole", |cluster| (!cluster.group(node).torn()).then_some(())).await;
        cluster.append_all(0..3).await;
        cluster.converged().await;
        // It votes and may lead again.
        let (leader, term) = cluster.wait_leader().await;
        if leader != node {
            let group = cluster.group(leader).clone();
            group.transfer_leadership(replica(node), Duration::from_secs(10)).await.unwrap();
            cluster.new_leader(&[node], term).await;
        }
    }
    assert!(torn > 0, "no power cut tore anything");
}

#[tokio::test(start_paused = true)]
async fn a_torn_replica_votes_for_nobody_until_it_was_told_and_then_for_no_shorter_log() {
    let mut cluster = Cluster::new(3, 7, LogOptions::default()).await;
    cluster.append_all(0..5).await;
    let (leader, _) = cluster.wait_leader().await;
    let node = 1 + leader % 3;
    let third = 6 - leader - node;
    assert!(tear(&mut cluster, node).await);
    // Alone with its torn log before anybody told it anything.
    cluster.net.isolate(&[BrokerId(node)]);
    cluster.power_cut(node).await;
    cluster.start(node).await;
    cluster.net.isolate(&[BrokerId(node)]);
    if !cluster.group(node).torn() {
        return;
    }
    let end = cluster.group(leader).log().bounds().last.unwrap();
    let far = LogId { term: Term(999), ..end };
    assert!(!cluster.group(node).may_vote(far));
    assert!(!cluster.group(node).may_append(cluster.group(leader).leadership().unwrap().term));

    // The leader dies for good: the two that are left tell one another, and that is not everybody.
    cluster.kill(leader).await;
    cluster.net.heal();
    let began = Instant::now();
    sleep(Duration::from_secs(30)).await;
    assert!(cluster.group(node).torn());
    assert_eq!(ask_for_vote(&cluster, node, third, far).await, Err(CallError::Refused(Refusal::TornTail)));
    // After a minute a majority has to do.
    let floor = cluster.group(third).log().bounds().last.unwrap();
    cluster.new_leader(&[node, third], Term(0)).await;
    assert!(began.elapsed() >= Duration::from_secs(29), "{:?}", began.elapsed());
    let short = LogId { index: headwater_proto::types::LogIndex(1), term: Term(0) };
    assert!(!cluster.group(node).torn() || !cluster.group(node).may_vote(short), "the floor is {floor:?}");
    cluster.append(b"goes on").await;
    cluster.converged().await;
    cluster.until("the tail is whole", |cluster| (!cluster.group(node).torn()).then_some(())).await;
}

/// Tears `node` while `third` is cut off, and lets the leader, which alone holds some entries more, tell it where the
/// log ended; then the leader falls silent. Whether it came to that.
async fn told_by_a_leader_that_falls_silent(
    cluster: &mut Cluster,
    node: i32,
    third: i32,
    cut: Duration,
) -> bool {
    let (leader, _) = cluster.wait_leader().await;
    cluster.net.isolate(&[BrokerId(third)]);
    let mut under_way = Vec::new();
    for number in 0..4 {
        under_way.push(cluster.enqueue(leader, format!("torn {number}").as_bytes()).await.unwrap());
    }
    sleep(cut).await;
    cluster.power_cut(node).await;
    for number in 0..4 {
        under_way.push(cluster.enqueue(leader, format!("alone {number}").as_bytes()).await.unwrap());
    }
    sleep(Duration::from_millis(20)).await;
    let end = cluster.group(leader).log().bounds().last.unwrap();
    cluster.start(node).await;
    let far = LogId { term: Term(999), ..end };
    let deadline = Instant::now() + Duration::from_secs(1);
    while cluster.group(node).torn() && !cluster.group(node).may_vote(far) && Instant::now() < deadline {
        sleep(Duration::from_micros(50)).await;
    }
    cluster.net.heal();
    cluster.net.isolate(&[BrokerId(leader)]);
    // What was under way has arrived.
    sleep(Duration::from_millis(10)).await;
    let (own, others) = (cluster.group(node), cluster.group(third));
    let is_short = |group: &Partition| group.log().bounds().last.is_none_or(|last| last < end);
    own.torn() && own.may_vote(far) && is_short(own) && is_short(others)
}

/// Runs until a leader has fallen silent that alone reaches what a torn replica was told.
async fn with_a_silent_leader() -> (Cluster, i32, [i32; 2]) {
    for seed in 0..20 {
        let mut cluster = Cluster::new(3, seed, LogOptions::default()).await;
        cluster.append_all(0..5).await;
        let (leader, _) = cluster.wait_leader().await;
        let node = 1 + leader % 3;
        let third = 6 - leader - node;
        // When the batches are on the disk and not synced yet.
        let cut = Duration::from_micros(2_500 + 100 * seed);
        if told_by_a_leader_that_falls_silent(&mut cluster, node, third, cut).await {
            return (cluster, leader, [node, third]);
        }
    }
    panic!("it never came to that");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_told_where_the_log_ended_is_waited_for() {
    let (mut cluster, leader, others) = with_a_silent_leader().await;
    sleep(Duration::from_secs(150)).await;
    assert!(cluster.group(others[0]).torn() && cluster.group(others[0]).torn_for_long());
    assert!(
        others.iter().all(|node| cluster.group(*node).leadership().is_none()),
        "it may have been acknowledged"
    );
    cluster.net.heal();
    cluster.append(b"goes on").await;
    cluster.converged().await;
    let kept = cluster.values(leader);
    assert!(kept.iter().any(|value| *value.1 == *b"alone 3"), "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn where_a_lost_leader_said_that_the_log_ended_is_forgotten() {
    let (mut cluster, leader, others) = with_a_silent_leader().await;
    sleep(Duration::from_secs(5)).await;
    assert!(cluster.group(others[0]).torn());
    cluster.kill(leader).await;
    cluster.net.retire(cluster.node(leader).peer.incarnation);
    let began = Instant::now();
    cluster.new_leader(&others, Term(0)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    cluster.append(b"goes on").await;
    cluster.converged().await;
}

#[tokio::test(start_paused = true)]
async fn all_torn_at_once_they_tell_one_another() {
    for seed in 20..26 {
        let mut cluster = Cluster::new(3, seed, LogOptions::default()).await;
        cluster.append_all(0..20).await;
        let (leader, _) = cluster.wait_leader().await;
        let mut under_way = Vec::new();
        for number in 0..4 {
            under_way.push(cluster.enqueue(leader, format!("in flight {number}").as_bytes()).await.unwrap());
        }
        sleep(Duration::from_micros(1_200)).await;
        for node in 1..=3 {
            cluster.power_cut(node).await;
        }
        for node in 1..=3 {
            cluster.start(node).await;
        }
        let began = Instant::now();
        cluster.append(b"after").await;
        assert!(began.elapsed() < Duration::from_secs(10), "seed {seed}: {:?}", began.elapsed());
        cluster.converged().await;
        assert!(cluster.values(1).len() > 20, "seed {seed}");
        let whole = |cluster: &Cluster| cluster.running().all(|(_, group)| !group.torn()).then_some(());
        cluster.until("all tails are whole", whole).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_survivor_is_made_the_only_voter_and_takes_others_in() {
    let mut cluster = Cluster::new(3, 9, LogOptions::default()).await;
    cluster.append_all(0..10).await;
    cluster.converged().await;
    let (_, term) = cluster.wait_leader().await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    let data_dir = data_dir(cluster.node(1).disk.clone(), Path::new(ROOT)).await;
    let min_term = Term(term.get() + 5);
    let peer = cluster.node(1).peer;
    let other = crate::Peer { broker_id: BrokerId(1), ..cluster.node(2).peer };
    assert!(recovery::make_sole_voter(&data_dir, GROUP, replica(1), other, min_term).await.is_err());
    assert!(recovery::make_sole_voter(&data_dir, GROUP, replica(2), peer, min_term).await.is_err());
    for _ in 0..2 {
        let recovered =
            recovery::make_sole_voter(&data_dir, GROUP, replica(1), peer, min_term).await.unwrap();
        assert!(recovered.last.term > min_term && recovered.last > recovered.kept);
    }
    drop(data_dir);
    cluster.node(1).disk.power_cut();

    cluster.start(1).await;
    let (leader, term) = cluster.wait_leader().await;
    assert!(leader == 1 && term > min_term);
    cluster.append_all(10..15).await;
    assert_eq!(cluster.values(1).len(), 15);
    let peer = cluster.add_disk(4).await;
    cluster.start(4).await;
    cluster.group(1).add_learner(replica(4), peer).await.unwrap();
    assert_eq!(cluster.converged().await, Offset(15));
}
