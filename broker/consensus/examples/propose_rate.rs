//! How many proposals a second one group, or many groups side by side, get through a disk with fsync.
//!
//! `cargo run --release -p headwater-consensus --example propose_rate -- [seconds] [in flight] [groups]`
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use headwater_consensus::{Group, GroupHost, GroupSpec, Peer, Proposal, RaftSettings};
use headwater_core::{PartitionState, Stamp};
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::types::{BrokerId, GroupId, PartitionId, ReplicaId, TopicId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::RealDisk;
use headwater_storage::log::LogOptions;
use tokio::time::Instant;

fn record() -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(0, None, Some(&[7; 100]), &[]).unwrap();
    builder.build().unwrap()
}

async fn start(data_dir: &Arc<DataDir>, partition: i32) -> Arc<Group<PartitionState>> {
    let replica_id = ReplicaId(partition as u64 + 1);
    let peer = Peer { broker_id: BrokerId(0), incarnation: data_dir.incarnation() };
    let spec = GroupSpec {
        id: GroupId { topic_id: TopicId([1; 16]), partition: PartitionId(partition) },
        replica_id,
        voters: BTreeMap::from([(replica_id, peer)]),
        initialize: true,
    };
    let (options, settings) = (LogOptions::default(), RaftSettings::default());
    let machine = PartitionState::default();
    let seed = partition as u64;
    Box::pin(Group::start(spec, GroupHost::alone(data_dir.clone()), options, settings, seed, machine))
        .await
        .unwrap()
}

/// Keeps `in_flight` proposals under way until the time is over; returns how many were answered.
async fn load(group: Arc<Group<PartitionState>>, in_flight: usize, until: Instant) -> u64 {
    let term = group.wait_leader().await.unwrap().term;
    let batch = record();
    let mut under_way = FuturesUnordered::new();
    let (mut n, mut answered) = (0, 0);
    while Instant::now() < until {
        while under_way.len() < in_flight {
            let stamp = Stamp { term, session: 0, n };
            under_way.push(group.propose(Proposal::new(stamp, batch.clone())).await.unwrap());
            n += 1;
        }
        under_way.next().await.unwrap().unwrap();
        answered += 1;
    }
    answered
}

/// CPU seconds that this process has used, and its resident anonymous memory in MB.
fn usage() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    (ticks / 100.0, anonymous.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024)
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().unwrap());
    let seconds = arguments.next().unwrap_or(5);
    let in_flight = arguments.next().unwrap_or(256) as usize;
    let groups = arguments.next().unwrap_or(1);
    let directory = tempfile::tempdir_in(".").unwrap();
    let mut next = 0;
    let mut entropy = || {
        next += 1;
        next
    };
    let disk = Arc::new(RealDisk::new());
    let path = directory.path().join("data");
    let data_dir = DataDir::open(disk, &path, &mut entropy).await.unwrap();

    let began = Instant::now();
    let mut starting: FuturesUnordered<_> = (0..groups).map(|n| start(&data_dir, n as i32)).collect();
    let mut started = Vec::new();
    while let Some(group) = starting.next().await {
        started.push(group);
    }
    drop(starting);
    for group in &started {
        group.wait_leader().await.unwrap();
    }
    println!("{groups} groups lead after {:.3} s, {} MB", began.elapsed().as_secs_f64(), usage().1);

    let cpu = usage().0;
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("idle: {:.2} % of a core", (usage().0 - cpu) / 5.0 * 100.0);

    let (cpu, until) = (usage().0, Instant::now() + Duration::from_secs(seconds));
    let loads: Vec<_> = started
        .iter()
        .map(|group| tokio::spawn(load(group.clone(), in_flight.div_ceil(groups as usize), until)))
        .collect();
    let mut answered = 0;
    for load in loads {
        answered += load.await.unwrap();
    }
    let cpu = usage().0 - cpu;
    println!(
        "{} proposals/s, {:.1} us CPU each, {in_flight} in flight, {} MB",
        answered / seconds,
        cpu / answered as f64 * 1e6,
        usage().1
    );
}
