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
use headwater_client::ProducerConfig;
use headwater_tests::chaos::disk::SmallDisk;
use headwater_tests::chaos::faults::{Fault, Faults};
use headwater_tests::chaos::links::{Links, own_ip};
use headwater_tests::load::Load;
use headwater_tests::local_cluster::{LocalCluster, Node};
use headwater_tests::process::Addresses;
use headwater_tests::sim::world::SimEntropy;
use headwater_tests::workload::Target;

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

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let sound = tokio::runtime::Runtime::new()?.block_on(run(&args));
    if !matches!(sound, Ok(true)) {
        let Args { minutes, seed, .. } = args;
        println!(
            "repeat with: cargo run --release -p headwater-tests --bin chaos -- --minutes {minutes} --seed {seed}"
        );
    }
    Ok(if sound? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether nothing went wrong.
async fn run(args: &Args) -> Result<bool> {
    let mut dir = tempfile::tempdir()?;
    dir.disable_cleanup(args.keep);
    println!("seed {}; brokers under {}", args.seed, dir.path().display());
    let mut faults = start(dir.path(), args.seed).await?;
    let kept = Target::new("kept", 6);
    let mut load = Load::on(&faults.cluster.bootstrap()).await?;
    load.create(&kept, BROKERS, &[("segment.bytes", "1048576")]).await?;
    for _ in 0..PRODUCERS {
        let config = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
        load.produce(config, &[&kept], PACE).await?;
    }
    for _ in 0..READERS {
        load.follow(&kept).await?;
    }
    load.list(&kept).await?;

    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    while Instant::now() < end {
        let fault = faults.draw(&args.only);
        let begun = Instant::now();
        faults.run(fault).await?;
        let mended = Instant::now();
        load.in_sync(&[&kept], BROKERS).await.map_err(|error| format!("after {fault:?}: {error}"))?;
        println!(
            "{fault:?} for {} ms, in sync after {} ms more; {} acknowledged",
            (mended - begun).as_millis(),
            mended.elapsed().as_millis(),
            load.acked()
        );
    }
    load.end().await?;
    println!("{:?}", faults.counts);
    let (sound, _) = load.verdict(&[kept]).await?;
    Ok(sound)
}

/// The brokers, and what can be done to them.
async fn start(dir: &Path, seed: u64) -> Result<Faults> {
    let links = Links::new(seed);
    let small_disk = SmallDisk::mount(&data_dir(dir, BROKERS), SMALL_DISK_MIB)?;
    if small_disk.is_none() {
        println!("no full disk: this process may not mount a file system");
    }
    let mut nodes = Vec::new();
    for id in 1..=BROKERS {
        nodes.push(node(id, dir, &links).await?);
    }
    let cluster = tokio::task::block_in_place(|| LocalCluster::start_nodes(nodes))?;
    Ok(Faults { cluster, links, small_disk, entropy: SimEntropy::new(seed), counts: Default::default() })
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
