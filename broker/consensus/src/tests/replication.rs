//! Groups of several replicas: elections, replication, and what is left after failures.

use std::time::Duration;

use headwater_proto::types::{BrokerId, LogIndex, Offset};
use headwater_storage::log::LogOptions;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, replica};
use super::support::{log_id, small_segments};
use crate::ProposeError;
use crate::peer::RequestKind;

/// The brokers of three but one.
fn others(node: i32) -> Vec<i32> {
    (1..=3).filter(|other| *other != node).collect()
}

async fn three(seed: u64) -> Cluster {
    Cluster::new(3, seed, LogOptions::default()).await
}

#[tokio::test(start_paused = true)]
async fn one_of_three_is_elected_and_the_others_follow() {
    for seed in 0..5 {
        let mut cluster = three(seed).await;
        cluster.wait_leader().await;
        cluster.append_all(0..20).await;
        assert_eq!(cluster.converged().await, Offset(20));
        let values = cluster.values(1);
        assert_eq!(values.len(), 20);
        assert!((2..=3).all(|node| cluster.values(node) == values));
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_a_leader_and_travel_on_their_own() {
    let mut cluster = three(1).await;
    let leader = cluster.wait_leader().await;
    cluster.append_all(0..3).await;
    let (appends, votes) =
        (cluster.net.delivered(RequestKind::Append), cluster.net.delivered(RequestKind::PreVote));
    let heartbeats = cluster.net.delivered(RequestKind::Heartbeat);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.net.delivered(RequestKind::PreVote), votes);
    assert!(cluster.net.delivered(RequestKind::Append) <= appends + 4, "an idle group appends nothing");
    let beats = cluster.net.delivered(RequestKind::Heartbeat) - heartbeats;
    assert!((100..=250).contains(&beats), "{beats} heartbeats to two followers in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_down_catches_up() {
    let mut cluster = three(2).await;
    let (leader, _) = cluster.wait_leader().await;
    let down = others(leader)[0];
    cluster.append_all(0..5).await;
    cluster.kill(down).await;
    cluster.append_all(5..700).await;
    cluster.start(down).await;
    assert_eq!(cluster.converged().await, Offset(700));
    assert_eq!(cluster.values(down).len(), 700);
}

#[tokio::test(start_paused = true)]
async fn appends_are_bounded_by_bytes() {
    let mut cluster = three(3).await;
    let (leader, _) = cluster.wait_leader().await;
    let down = others(leader)[1];
    cluster.kill(down).await;
    for size in [400 << 10, 400 << 10, 400 << 10, 3 << 20, 10, 10] {
        cluster.append(&vec![7; size]).await;
    }
    cluster.start(down).await;
    cluster.converged().await;
    // One entry may be larger; nothing joins it then.
    let largest = cluster.net.largest(RequestKind::Append);
    assert!((3 << 20..(3 << 20) + 1_000).contains(&largest), "{largest}");
}

#[tokio::test(start_paused = true)]
async fn a_follower_behind_the_log_start_gets_a_snapshot_and_then_the_log() {
    for (seed, keep) in (0..4).map(|seed| (seed, seed % 2 == 0)) {
        let mut cluster = Cluster::new(3, seed, small_segments()).await;
        let (leader, _) = cluster.wait_leader().await;
        let down = others(leader)[0];
        // A log that lies behind, or none at all.
        if keep {
            cluster.append_all(0..5).await;
            cluster.converged().await;
        }
        cluster.power_cut(down).await;
        cluster.append_all(5..40).await;
        let group = cluster.group(leader);
        let at = group.log().entry(LogIndex(25)).unwrap().unwrap().log_id();
        timeout(Duration::from_secs(30), group.purge(at)).await.unwrap().unwrap();
        assert_eq!(group.log().bounds().purged, Some(at));
        cluster.append_all(40..45).await;

        cluster.start(down).await;
        cluster.converged().await;
        assert!(cluster.net.delivered(RequestKind::Snapshot) >= 1);
        assert_eq!(cluster.group(down).log().bounds().purged, Some(at));
        assert_eq!(cluster.values(down), cluster.values(leader));

        // What it installed lasts.
        cluster.power_cut(down).await;
        cluster.append_all(45..50).await;
        cluster.start(down).await;
        cluster.converged().await;
        assert_eq!(cluster.values(down), cluster.values(leader));
    }
}

/// Raft puts a purge off while a follower is being sent what is to go, and forgets it with its leadership.
#[tokio::test(start_paused = true)]
async fn a_purge_that_a_deposed_leader_put_off_bars_no_later_one() {
    let mut cluster = Cluster::new(3, 1, small_segments()).await;
    let (leader, term) = cluster.wait_leader().await;
    cluster.append_all(0..20).await;
    cluster.converged().await;
    let [cut, heir] = others(leader)[..] else { unreachable!() };
    cluster.net.cut(BrokerId(leader), BrokerId(cut));
    cluster.append_all(20..40).await;
    let group = cluster.group(leader);
    let entry = |index| group.log().entry(LogIndex(index)).unwrap().unwrap().log_id();
    let (first, later) = (entry(30), entry(35));
    timeout(Duration::from_secs(30), group.purge(first)).await.expect("it waits for ever").unwrap();
    assert_ne!(group.log().bounds().purged, Some(first), "nothing was put off");

    group.transfer_leadership(replica(heir), Duration::from_secs(5)).await.unwrap();
    assert!(cluster.new_leader(&[heir], term).await.1 > term);
    timeout(Duration::from_secs(30), group.purge(later)).await.unwrap().unwrap();
    assert_eq!(group.log().bounds().purged, Some(later));
}

/// Else the goal would move ahead of a slow follower with each round of retention, and nothing would ever go.
#[tokio::test(start_paused = true)]
async fn a_purge_that_was_put_off_is_done_before_the_next() {
    let mut cluster = Cluster::new(3, 1, small_segments()).await;
    let (leader, _) = cluster.wait_leader().await;
    cluster.append_all(0..20).await;
    cluster.converged().await;
    let cut = others(leader)[0];
    cluster.net.cut(BrokerId(leader), BrokerId(cut));
    cluster.append_all(20..40).await;
    let group = cluster.group(leader);
    let entry = |index| group.log().entry(LogIndex(index)).unwrap().unwrap().log_id();
    let (first, later) = (entry(30), entry(35));
    for upto in [first, later, later] {
        timeout(Duration::from_secs(30), group.purge(upto)).await.unwrap().unwrap();
        assert_ne!(group.log().bounds().purged, Some(upto), "nothing was put off");
    }
    cluster.net.heal();
    let purged = cluster.until("a purge", |_| group.log().bounds().purged).await;
    assert_eq!(purged, first);
    timeout(Duration::from_secs(30), group.purge(later)).await.unwrap().unwrap();
    assert_eq!(group.log().bounds().purged, Some(later));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_replaced_within_a_second_and_takes_nothing_along() {
    for seed in 0..10 {
        let mut cluster = three(seed).await;
        let (leader, term) = cluster.wait_leader().await;
        cluster.append_all(0..10).await;
        if seed % 2 == 0 {
            cluster.kill(leader).await
        } else {
            cluster.power_cut(leader).await
        };
        let dead = Instant::now();
        let (_, term) = cluster.new_leader(&others(leader), term).await;
        assert!(dead.elapsed() < Duration::from_millis(1_500), "seed {seed}: {:?}", dead.elapsed());
        cluster.append_all(10..20).await;
        cluster.start(leader).await;
        assert_eq!(cluster.converged().await, Offset(20));
        assert_eq!(cluster.leader().unwrap().1, term, "seed {seed}: who returns does not disturb");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_cut_off_does_not_disturb_the_others_when_it_returns() {
    let mut cluster = three(4).await;
    let (leader, term) = cluster.wait_leader().await;
    let lonely = others(leader)[0];
    cluster.net.isolate(&[BrokerId(lonely)]);
    cluster.append_all(0..5).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.group(lonely).state.shared.vote().unwrap().leader_id.term, term.get());
    cluster.net.heal();
    cluster.append_all(5..10).await;
    cluster.converged().await;
    assert_eq!(cluster.leader(), Some((leader, term)));
}

#[tokio::test(start_paused = true)]
async fn what_a_deposed_leader_had_to_itself_is_cut_off_for_good() {
    for seed in 0..5 {
        let mut cluster = three(seed).await;
        let (old, term) = cluster.wait_leader().await;
        cluster.append_all(0..10).await;
        cluster.net.isolate(&[BrokerId(old)]);
        let mut answers = Vec::new();
        // It has not noticed yet: it takes them, and can promise nothing.
        for number in 0..5 {
            let lost = cluster.enqueue(old, format!("lost {number}").as_bytes()).await.unwrap();
            answers.push(tokio::spawn(lost));
        }
        sleep(Duration::from_millis(50)).await;
        let end = cluster.group(old).log().bounds().last.unwrap();
        assert_eq!(cluster.group(old).progress().borrow().high_watermark, Offset(10));
        cluster.new_leader(&others(old), term).await;
        assert!(cluster.propose(old, b"late").await.is_err(), "seed {seed}: its lease is over");
        cluster.append_all(10..13).await;

        cluster.net.heal();
        assert_eq!(cluster.converged().await, Offset(13));
        assert!(cluster.group(old).log().entry(end.index).unwrap().is_none_or(|now| now.term > term));
        let kept = cluster.values(old);
        assert!(kept.iter().all(|(_, value)| value.starts_with(b"value")), "seed {seed}");
        let generations = cluster.node(old).disk.paths();
        assert!(generations.iter().any(|path| path.to_string_lossy().ends_with("1.log")), "{generations:?}");

        for answer in answers {
            assert!(matches!(answer.await.unwrap(), Err(ProposeError::Unknown { .. })), "seed {seed}");
        }

        // Nor does a restart bring it back.
        cluster.power_cut(old).await;
        cluster.append_all(13..15).await;
        cluster.start(old).await;
        assert_eq!(cluster.converged().await, Offset(15));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_refuses_in_time() {
    let mut cluster = three(6).await;
    let (leader, _) = cluster.wait_leader().await;
    cluster.append_all(0..3).await;
    cluster.net.isolate(&[BrokerId(leader)]);
    sleep(Duration::from_secs(2)).await;
    let refused = timeout(Duration::from_secs(1), cluster.propose(leader, b"too late")).await;
    assert!(matches!(refused, Ok(Err(ProposeError::Retry | ProposeError::NotLeader { .. }))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_the_power_of_all() {
    for seed in 0..10 {
        let mut cluster = three(seed).await;
        cluster.append_all(0..30).await;
        for node in 1..=3 {
            cluster.power_cut(node).await;
        }
        for node in 1..=3 {
            cluster.start(node).await;
        }
        cluster.append_all(30..35).await;
        assert_eq!(cluster.converged().await, Offset(35), "seed {seed}");
        let values = cluster.values(1).into_iter().map(|(_, value)| value);
        assert!(values.eq((0..35).map(|number| format!("value {number}"))), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_of_all_needs_no_vouching() {
    let mut cluster = three(8).await;
    cluster.append_all(0..10).await;
    for node in 1..=3 {
        cluster.stop(node).await;
    }
    for node in 1..=3 {
        cluster.start(node).await;
        assert!(!cluster.group(node).torn());
    }
    cluster.append_all(10..12).await;
    assert_eq!(cluster.converged().await, Offset(12));
}

#[tokio::test(start_paused = true)]
async fn a_learner_receives_everything_and_decides_nothing() {
    let mut cluster = three(9).await;
    let (leader, term) = cluster.wait_leader().await;
    cluster.append_all(0..10).await;
    let peer = cluster.add_disk(4).await;
    cluster.start(4).await;
    cluster.group(leader).add_learner(replica(4), peer).await.unwrap();
    assert_eq!(cluster.converged().await, Offset(10));
    assert_eq!(cluster.values(4), cluster.values(leader));

    // Two voters of three are gone, and two replicas are left.
    for node in others(leader) {
        cluster.kill(node).await;
    }
    let alone = timeout(Duration::from_secs(20), cluster.propose(leader, b"alone")).await;
    assert!(!matches!(alone, Ok(Ok(_))), "{alone:?}");
    sleep(Duration::from_secs(10)).await;
    // Nobody was elected, and who led does so no more.
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.group(4).role().term, term);
    for node in others(leader) {
        cluster.start(node).await;
    }
    cluster.append_all(10..12).await;
    cluster.converged().await;

    // As a voter it counts.
    let (leader, term) = cluster.wait_leader().await;
    cluster.group(leader).change_voters((1..=4).map(replica).collect()).await.unwrap();
    cluster.kill(leader).await;
    let left: Vec<_> = (1..=4).filter(|node| *node != leader).collect();
    cluster.new_leader(&left, term).await;
    cluster.append_all(12..14).await;
    cluster.converged().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_for_another_replica_of_the_broker_is_refused() {
    use crate::peer::{Body, CallError, GroupRequest, Lane, Refusal};
    let cluster = three(10).await;
    let (leader, _) = cluster.wait_leader().await;
    let messenger = cluster.net.messenger(BrokerId(leader));
    let request = GroupRequest {
        group: super::support::GROUP,
        from: replica(leader),
        target: replica(9),
        kind: RequestKind::Append,
        body: Body::default(),
    };
    let to = others(leader)[0];
    let peer = cluster.node(to).peer;
    let call = |request| messenger.call(peer, Lane::Append, request, Duration::from_secs(1));
    assert_eq!(call(request.clone()).await, Err(CallError::Refused(Refusal::NoSuchReplica)));
    let garbage = GroupRequest { target: replica(to), ..request };
    assert!(matches!(call(garbage).await, Err(CallError::Refused(Refusal::Malformed(_)))));
    assert_eq!(cluster.group(to).log().bounds().last.map(|last| last.index), Some(log_id(1, 2).index));
}
