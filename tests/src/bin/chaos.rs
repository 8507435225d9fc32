//! Three broker processes under load, broken in every way that this machine allows, and the checker of the simulation.
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin chaos -- --minutes 30`
//!
//! Kills, pauses, restarts, dark, one-way, flapping, slow and lossy links between the brokers (through proxies), and,
//! where this process may mount a small file system for one broker, a full disk. The seed decides the faults; the
//! timing is the machine's.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_client::{Client, ClientConfig, NewTopic, ProducerConfig};
use headwater_tests::chaos::disk::SmallDisk;
use headwater_tests::chaos::faults::{Fault, Faults};
use headwater_tests::chaos::links::{Links, own_ip};
use headwater_tests::history::Recorder;
use headwater_tests::local_cluster::{LocalCluster, Node};
use headwater_tests::process::Addresses;
use headwater_tests::sim::world::SimEntropy;
use headwater_tests::workload::{self, Target, patiently};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Breaks three broker processes and their links under load, and checks the records")]
struct Args {
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
    /// Keep the data and the logs of the brokers.
    #[arg(long)]
    keep: bool,
}

const BROKERS: usize = 3;
const PRODUCERS: u32 = 4;
const READERS: u32 = 2;
const PACE: Duration = Duration::from_millis(4);
/// Of the broker whose disk is filled: more than a run writes.
const SMALL_DISK_MIB: u64 = 3_072;
/// All replicas are in sync again this long after the last fault, or the run has failed.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(run(args))
}

async fn run(args: Args) -> Result<ExitCode> {
    let mut dir = tempfile::tempdir()?;
    dir.disable_cleanup(args.keep);
    println!("seed {}; brokers under {}", args.seed, dir.path().display());
    let links = Links::new(args.seed);
    let small_disk = SmallDisk::mount(&data_dir(dir.path(), BROKERS), SMALL_DISK_MIB)?;
    if small_disk.is_none() {
        println!("no full disk: this process may not mount a file system");
    }
    let mut nodes = Vec::new();
    for id in 1..=BROKERS {
        nodes.push(node(id, dir.path(), &links).await?);
    }
    let cluster = tokio::task::block_in_place(|| LocalCluster::start_nodes(nodes))?;
    let bootstrap = cluster.bootstrap();
    let entropy = SimEntropy::new(args.seed);
    let mut faults = Faults { cluster, links, small_disk, entropy, counts: Default::default() };

    let client = connect(&bootstrap).await?;
    let kept = Target::new("kept", 6);
    create(&client, &kept).await?;
    let recorder = Recorder::real_time();
    let (stop, stopped) = watch::channel(false);
    let mut load = Vec::new();
    for number in 0..PRODUCERS {
        let config = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
        let producer = connect(&bootstrap).await?.producer(config).await?;
        let targets = vec![kept.clone()];
        let produce = workload::produce(producer, number, targets, recorder.clone(), stopped.clone(), PACE);
        load.push(tokio::spawn(produce));
    }
    let mut readers = Vec::new();
    for number in 0..READERS {
        let reader = connect(&bootstrap).await?;
        let follow = workload::follow(reader, number, kept.clone(), recorder.clone(), stopped.clone());
        readers.push(tokio::spawn(follow));
    }

    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    while Instant::now() < end {
        let fault = faults.draw(&args.only);
        let begun = Instant::now();
        faults.run(fault).await?;
        let mended = Instant::now();
        recovered(&client, &kept).await.map_err(|error| format!("after {fault:?}: {error}"))?;
        let acked = recorder.note(|history| history.acked_count());
        println!(
            "{fault:?} for {} ms, in sync after {} ms more; {acked} acknowledged",
            (mended - begun).as_millis(),
            mended.elapsed().as_millis()
        );
    }
    stop.send(true)?;
    for task in load {
        task.await?;
    }
    for reader in readers {
        reader.await??;
    }
    let (findings, _) = workload::conclude(&client, std::slice::from_ref(&kept), &recorder).await?;
    let acked = recorder.note(|history| history.acked_count());
    println!("{:?}\n{acked} records acknowledged, {findings}", faults.counts);
    findings.lines().for_each(|line| println!("ANOMALY {line}"));
    let sound = findings.is_empty() && acked > 0;
    if !sound {
        let Args { minutes, seed, .. } = args;
        println!(
            "repeat with: cargo run --release -p headwater-tests --bin chaos -- --minutes {minutes} --seed {seed}"
        );
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A broker that its peers reach through the links, and that they know by its own address.
async fn node(id: usize, dir: &Path, links: &Links) -> Result<Node> {
    let mut addresses = Addresses::free()?;
    addresses.peer = SocketAddr::new(own_ip(id), addresses.peer.port());
    let advertised_peer = links.open(id, addresses.peer).await?;
    let config = dir.join(format!("node-{id}.toml"));
    std::fs::write(&config, format!("peer_advertised_addr = \"{advertised_peer}\"\n"))?;
    let flags = vec!["--config".to_owned(), config.display().to_string()];
    Ok(Node { data_dir: data_dir(dir, id), addresses, advertised_peer, flags })
}

fn data_dir(dir: &Path, id: usize) -> PathBuf {
    dir.join(format!("node-{id}"))
}

async fn connect(bootstrap: &str) -> Result<Client> {
    Ok(Client::connect(ClientConfig::new(bootstrap.split(','))).await?)
}

async fn create(client: &Client, target: &Target) -> Result<()> {
    let topic =
        NewTopic::new(&*target.topic).partitions(target.partitions).config("segment.bytes", "1048576");
    let topic = NewTopic { replicas: Some(BROKERS as i32), ..topic };
    for (_, created) in client.admin().create_topics(vec![topic], false).await? {
        created?;
    }
    Ok(())
}

/// Waits until every replica is in sync.
async fn recovered(client: &Client, target: &Target) -> Result<()> {
    let started = Instant::now();
    loop {
        let admin = client.admin();
        let topics = patiently(|| async { admin.describe_topics([target.topic.to_string()]).await }).await?;
        let whole = topics.iter().all(|(_, topic)| {
            let in_sync = |topic: &headwater_client::Topic| {
                topic.partitions.iter().all(|p| p.leader_id.is_some() && p.in_sync.len() == BROKERS)
            };
            topic.as_ref().is_ok_and(in_sync)
        });
        if whole {
            return Ok(());
        }
        if started.elapsed() > RECOVERY_MAX {
            return Err(format!("not in sync after {RECOVERY_MAX:?}: {topics:?}").into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
