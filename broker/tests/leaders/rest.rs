//! Groups that rest.

use std::time::Duration;

use headwater_proto::v1;
use tokio::time::Instant;

use crate::harness::{Trio, eventually};

const PARTITIONS: i32 = 12;

async fn resting() -> Trio {
    let trio = Trio::start(|config| config.cluster.quiesce_after_ms = 1_000).await;
    trio.create("t", PARTITIONS).await;
    all_rest(&trio).await;
    trio
}

async fn all_rest(trio: &Trio) {
    eventually("all partitions rest on all brokers", || async {
        let status = trio.calls(1).await.status().await;
        status.brokers.iter().all(|broker| broker.quiet >= PARTITIONS.unsigned_abs())
    })
    .await;
}

#[tokio::test]
async fn a_group_that_rests_is_written_and_read_at_once() {
    let trio = resting().await;
    for partition in 0..PARTITIONS {
        let leader = trio.leader(1, "t", usize::try_from(partition).unwrap(), -1).await;
        let mut led = trio.calls(leader).await;
        let started = Instant::now();
        assert_eq!(led.produce("t", partition, "a").await.error, None);
        let latest = led.latest("t", partition).await;
        assert_eq!((latest.error, latest.offset), (None, 1));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    all_rest(&trio).await;
    let before = trio.calls(1).await.partitions("t").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(trio.calls(2).await.partitions("t").await, before, "nobody campaigns while the leaders rest");
}

#[tokio::test]
async fn the_groups_of_a_dead_leader_wake_and_elect_others() {
    let mut trio = resting().await;
    let before = trio.calls(1).await.partitions("t").await;
    let dead = 3;
    let led = before.iter().filter(|partition| partition.leader_id == dead).count();
    assert!(led > 0, "{before:?}");
    trio.kill(dead);
    let killed = Instant::now();
    for partition in &before {
        let leader = trio.leader(1, "t", usize::try_from(partition.partition).unwrap(), dead).await;
        assert_eq!(trio.calls(leader).await.produce("t", partition.partition, "a").await.error, None);
    }
    println!("{led} resting groups had other leaders and were written after {:?}", killed.elapsed());
    trio.boot(dead).await;
    eventually("everything is whole again", || async {
        trio.calls(1).await.partitions("t").await.iter().all(|partition| partition.in_sync.len() == 3)
    })
    .await;
    all_rest(&trio).await;
}

/// CPU seconds of this process so far.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<f64>().unwrap();
    (ticks(14) + ticks(15)) / 100.0
}

fn rss_anon_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

/// What idle partitions cost: `cargo test -p headwater-broker --test leaders -- --ignored --nocapture idle`, with the
/// number of partitions in `PARTITIONS` (1,000 unless set). All three brokers are in this process.
#[tokio::test]
#[ignore = "a measurement"]
async fn idle_partitions_cost_little() {
    let partitions = std::env::var("PARTITIONS").map_or(1_000, |text| text.parse().unwrap());
    let trio = Trio::start(|config| config.topics.partitions_max = 100_000).await;
    let (started, mut created) = (Instant::now(), 0);
    while created < partitions {
        let count = (partitions - created).min(250);
        let topic =
            v1::NewTopic { name: format!("t{created}"), partitions: count, replicas: 3, configs: vec![] };
        let request = v1::CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        trio.calls(1).await.admin.create_topics(request).await.unwrap();
        created += count;
        eventually("all rest", || async {
            let status = trio.calls(1).await.status().await;
            let quiet: Vec<_> = status.brokers.iter().map(|broker| broker.quiet).collect();
            let (leaderless, lacking) = (status.leaderless, status.under_replicated);
            println!(
                "{:?}: {leaderless} without leader, {lacking} lack a replica, quiet: {quiet:?}",
                started.elapsed()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
            leaderless == 0 && lacking == 0 && quiet.iter().all(|quiet| *quiet >= created.unsigned_abs())
        })
        .await;
    }
    println!("{partitions} partitions created in {:?}", started.elapsed());
    let (before, from) = (cpu_s(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let share = (cpu_s() - before) / from.elapsed().as_secs_f64() * 100.0;
    let mb = rss_anon_mb();
    println!("{:.2} % of a core and {} MB for each broker at rest", share / 3.0, mb / 3);
}
