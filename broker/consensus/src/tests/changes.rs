//! Members that come, go and are replaced, and leadership that is handed over.

use std::collections::BTreeSet;
use std::time::Duration;

use headwater_proto::types::{BrokerId, Offset, ReplicaId, Term};
use headwater_storage::log::LogOptions;
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, replica};
use crate::{ConsensusError, Proposal, ProposeError};

async fn three(seed: u64) -> Cluster {
    Cluster::new(3, seed, LogOptions::default()).await
}

fn replicas(nodes: impl IntoIterator<Item = i32>) -> BTreeSet<ReplicaId> {
    nodes.into_iter().map(replica).collect()
}

async fn join(cluster: &mut Cluster, node: i32) {
    let peer = cluster.add_disk(node).await;
    cluster.start(node).await;
    let (leader, _) = cluster.wait_leader().await;
    cluster.group(leader).add_learner(replica(node), peer).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_replaced_and_every_step_may_be_repeated() {
    let mut cluster = three(1).await;
    let (leader, _) = cluster.wait_leader().await;
    cluster.append_all(0..10).await;
    let old = if leader == 1 { 2 } else { 1 };
    join(&mut cluster, 4).await;
    let group = cluster.group(leader).clone();
    let peer = cluster.node(4).peer;
    group.add_learner(replica(4), peer).await.unwrap();
    assert_eq!(group.membership().learners(), replicas([4]));
    let elsewhere = crate::Peer { broker_id: BrokerId(9), ..peer };
    let refused = group.add_learner(replica(4), elsewhere).await;
    assert!(matches!(refused, Err(ConsensusError::InvalidRequest(_))), "{refused:?}");
    let refused = group.change_voters(replicas([leader, 8])).await;
    assert!(matches!(refused, Err(ConsensusError::InvalidRequest(_))), "{refused:?}");
    let refused = group.remove_learner(replica(old)).await;
    assert!(matches!(refused, Err(ConsensusError::InvalidRequest(_))), "{refused:?}");

    let voters = replicas((1..=4).filter(|node| *node != old));
    for _ in 0..2 {
        group.change_voters(voters.clone()).await.unwrap();
        let members = group.membership();
        assert!(members.is_settled());
        assert_eq!(members.voters(), voters);
        assert_eq!(members.learners(), BTreeSet::new(), "who lost its vote has left");
    }
    assert_eq!(group.followers().keys().copied().collect::<BTreeSet<_>>(), {
        let mut others = voters.clone();
        others.remove(&replica(leader));
        others
    });
    cluster.stop(old).await;
    cluster.append_all(10..20).await;
    assert_eq!(cluster.converged().await, Offset(20));

    join(&mut cluster, 5).await;
    for _ in 0..2 {
        group.remove_learner(replica(5)).await.unwrap();
    }
    assert!(!group.membership().peers.contains_key(&replica(5)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_may_be_removed_by_itself() {
    let mut cluster = three(2).await;
    let (leader, term) = cluster.wait_leader().await;
    cluster.append_all(0..5).await;
    let rest: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    cluster.group(leader).change_voters(replicas(rest.clone())).await.unwrap();
    let (successor, _) = cluster.new_leader(&rest, term).await;
    assert_ne!(successor, leader);
    cluster.stop(leader).await;
    cluster.append_all(5..10).await;
    assert_eq!(cluster.converged().await, Offset(10));
}

#[tokio::test(start_paused = true)]
async fn one_voter_grows_to_three_and_shrinks_again() {
    let mut cluster = Cluster::new(1, 3, LogOptions::default()).await;
    cluster.append_all(0..5).await;
    join(&mut cluster, 2).await;
    join(&mut cluster, 3).await;
    cluster.group(1).change_voters(replicas(1..=3)).await.unwrap();
    cluster.append_all(5..10).await;
    cluster.converged().await;
    let (_, term) = cluster.wait_leader().await;
    cluster.kill(1).await;
    let (leader, _) = cluster.new_leader(&[2, 3], term).await;
    cluster.append_all(10..15).await;
    cluster.start(1).await;
    assert_eq!(cluster.converged().await, Offset(15));
    cluster.group(leader).change_voters(replicas([leader])).await.unwrap();
    for node in (1..=3).filter(|node| *node != leader) {
        cluster.stop(node).await;
    }
    cluster.append_all(15..20).await;
    assert_eq!(cluster.converged().await, Offset(20));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_its_leader_did_not_finish_is_finished_by_the_next() {
    for seed in 0..6 {
        let mut cluster = three(seed).await;
        let (leader, term) = cluster.wait_leader().await;
        cluster.append_all(0..5).await;
        join(&mut cluster, 4).await;
        cluster.converged().await;
        let gone = if leader == 1 { 2 } else { 1 };
        let voters = replicas((1..=4).filter(|node| *node != gone));
        let group = cluster.group(leader).clone();
        let change = tokio::spawn({
            let (group, voters) = (group.clone(), voters.clone());
            async move { group.change_voters(voters).await }
        });
        // Somewhere between the two steps, or before, or behind them.
        sleep(Duration::from_millis(seed)).await;
        cluster.power_cut(leader).await;
        assert!(!matches!(change.await.unwrap(), Err(ConsensusError::InvalidRequest(_))));
        let others: Vec<_> = (1..=4).filter(|node| *node != leader).collect();
        let (next, _) = cluster.new_leader(&others, term).await;
        cluster.start(leader).await;
        cluster.append(b"x").await;
        let done = timeout(Duration::from_secs(30), async {
            loop {
                let (next, _) = cluster.wait_leader().await;
                match cluster.group(next).change_voters(voters.clone()).await {
                    Ok(()) => break next,
                    Err(error) => {
                        assert!(!matches!(error, ConsensusError::InvalidRequest(_)), "seed {seed}: {error}");
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        let done = done.await.unwrap_or_else(|_| panic!("seed {seed}: not finished, {next} led"));
        let members = cluster.group(done).membership();
        assert!(members.is_settled() && members.voters() == voters, "seed {seed}: {members:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_at_once() {
    let mut cluster = three(4).await;
    let (mut leader, _) = cluster.wait_leader().await;
    cluster.append_all(0..5).await;
    for round in 0..4 {
        let to = 1 + leader % 3;
        let began = tokio::time::Instant::now();
        let group = cluster.group(leader).clone();
        group.transfer_leadership(replica(to), Duration::from_secs(5)).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(300), "round {round}: {:?}", began.elapsed());
        let (now, _) = cluster.until("the target leads", |c| c.leader().filter(|(l, _)| *l == to)).await;
        assert_eq!(now, to);
        cluster.append_all(round * 3..round * 3 + 3).await;
        leader = to;
    }
    let refused = cluster.group(leader).transfer_leadership(replica(7), Duration::from_secs(1)).await;
    assert!(matches!(refused, Err(ConsensusError::InvalidRequest(_))), "{refused:?}");
    let follower = 1 + leader % 3;
    let refused = cluster.group(follower).transfer_leadership(replica(leader), Duration::from_secs(1)).await;
    assert!(matches!(refused, Err(ConsensusError::NotLeader { .. })), "{refused:?}");
}

/// Its broker hears that the old leader leads no more before it hears of the new one.
#[tokio::test(start_paused = true)]
async fn who_campaigns_behind_its_own_vote_unseats_nobody() {
    let mut cluster = three(7).await;
    cluster.append_all(0..3).await;
    for _ in 0..10 {
        let (leader, term) = cluster.wait_leader().await;
        cluster.converged().await;
        let (to, third) = (1 + leader % 3, 1 + (leader + 1) % 3);
        let group = cluster.group(leader).clone();
        let transfer =
            tokio::spawn(async move { group.transfer_leadership(replica(to), Duration::from_secs(5)).await });
        let voted = |c: &Cluster| (c.group(third).observe().term > term).then_some(());
        cluster.until("the third has voted", voted).await;
        cluster.group(third).campaign().await;
        transfer.await.unwrap().unwrap();
        sleep(Duration::from_millis(200)).await;
        assert_eq!(cluster.leader(), Some((to, Term(term.get() + 1))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_never_wins_bars_nobody() {
    let mut cluster = three(5).await;
    let (leader, term) = cluster.wait_leader().await;
    cluster.append_all(0..5).await;
    cluster.converged().await;
    let to = 1 + leader % 3;
    // It hears, and is not heard.
    for other in (1..=3).filter(|other| *other != to) {
        cluster.net.cut(BrokerId(to), BrokerId(other));
    }
    let group = cluster.group(leader).clone();
    let transfer = tokio::spawn({
        let group = group.clone();
        async move { group.transfer_leadership(replica(to), Duration::from_secs(2)).await }
    });
    sleep(Duration::from_millis(500)).await;
    let meanwhile =
        group.propose(Proposal::new(super::support::stamp(term.get(), 9, 0), super::support::batch(b"v")));
    assert!(matches!(meanwhile.await, Err(ProposeError::Retry)), "nothing is appended during a transfer");
    let outcome = transfer.await.unwrap();
    assert!(
        matches!(outcome, Err(ConsensusError::TimedOut | ConsensusError::NotLeader { .. })),
        "{outcome:?}"
    );
    cluster.net.heal();
    cluster.append_all(5..10).await;
    assert_eq!(cluster.converged().await, Offset(10));
}

#[tokio::test(start_paused = true)]
async fn the_leaders_disk_alone_is_enough_for_who_asks_no_more() {
    let mut cluster = three(6).await;
    let (leader, term) = cluster.wait_leader().await;
    cluster.append_all(0..2).await;
    for other in (1..=3).filter(|other| *other != leader) {
        cluster.net.isolate(&[BrokerId(other)]);
    }
    let stamp = super::support::stamp(term.get(), 9, 0);
    let (proposal, durable) = Proposal::new(stamp, super::support::batch(b"v")).watched();
    let pending = cluster.group(leader).propose(proposal).await.unwrap();
    assert_eq!(timeout(Duration::from_millis(100), durable).await.unwrap(), Ok(Offset(2)));
    assert!(timeout(Duration::from_millis(100), pending).await.is_err(), "it is not committed");

    // One that is stored as void is not there.
    cluster.net.heal();
    cluster.append(b"w").await;
    let (leader, term) = cluster.wait_leader().await;
    let stamp = super::support::stamp(term.get(), 99, 5);
    let (proposal, durable) = Proposal::new(stamp, super::support::batch(b"v")).watched();
    let pending = cluster.group(leader).propose(proposal).await.unwrap();
    assert!(durable.await.is_err());
    assert!(matches!(pending.await, Err(ProposeError::Retry)));
}
