//! Kills the broker that leads most partitions, under load, again and again: how long until each of them takes
//! writes again, and was anything lost or doubled?
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin failover -- --kills 50`

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_client::{Client, Producer, ProducerConfig, ProducerRecord};
use headwater_tests::load::Load;
use headwater_tests::local_cluster::LocalCluster;
use headwater_tests::workload::{Target, patiently};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "SIGKILLs leaders under load and measures how long writes stop")]
struct Args {
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// A kill after which writes stop for longer fails the run.
    #[arg(long, default_value_t = 2_000)]
    limit_ms: u64,
}

const BROKERS: usize = 3;
const PARTITIONS: i32 = 12;
const PRODUCERS: u32 = 2;
/// How often each partition is written to, to see when it stops and goes on.
const PROBE_PAUSE: Duration = Duration::from_millis(10);
/// Writes go on within this time, or the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the newest acknowledged probe of a partition was sent.
type Probed = watch::Receiver<Instant>;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(run(args))
}

async fn run(args: Args) -> Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let mut cluster = LocalCluster::start(dir.path(), BROKERS, &[])?;
    let (loaded, probed) = (Target::new("loaded", PARTITIONS), Target::new("probed", PARTITIONS));
    let mut load = Load::on(&cluster.bootstrap()).await?;
    for target in [&loaded, &probed] {
        load.create(target, BROKERS, &[]).await?;
    }
    for _ in 0..PRODUCERS {
        load.produce(ProducerConfig::default(), &[&loaded], Duration::from_millis(1)).await?;
    }
    let mut probes: Vec<Probed> = Vec::new();
    for partition in 0..PARTITIONS {
        probes.push(start_probe(&mut load, &probed, partition).await?);
    }

    let mut stalls = Vec::new();
    for kill in 1..=args.kills {
        load.in_sync(&[&loaded, &probed], BROKERS).await?;
        let (victim, led) = most_leading(load.client(), &probed).await?;
        let killed = Instant::now();
        cluster.kill(victim)?;
        let mut longest = Duration::ZERO;
        for partition in led {
            longest = longest.max(writes_again(&mut probes[partition as usize], killed).await?);
        }
        println!("kill {kill}: broker {victim}: {} ms", longest.as_millis());
        stalls.push(longest);
        cluster.spawn(victim)?;
        cluster.wait_ready(victim)?;
    }
    load.end().await?;
    let (sound, _) = load.verdict(&[loaded]).await?;
    Ok(if report(&mut stalls, args.limit_ms) && sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(stalls: &mut [Duration], limit_ms: u64) -> bool {
    stalls.sort();
    let millis = |at: usize| stalls.get(at).map_or(0, Duration::as_millis);
    let late = stalls.iter().filter(|stall| stall.as_millis() > u128::from(limit_ms)).count();
    println!(
        "{} kills: writes went on after {} ms (median), {} ms (90 %), {} ms (longest); {late} above {limit_ms} ms",
        stalls.len(),
        millis(stalls.len() / 2),
        millis(stalls.len() * 9 / 10),
        millis(stalls.len().saturating_sub(1)),
    );
    late == 0
}

async fn start_probe(load: &mut Load, target: &Target, partition: i32) -> Result<Probed> {
    let config = ProducerConfig { linger: Duration::ZERO, ..ProducerConfig::default() };
    let producer = load.connect().await?.producer(config).await?;
    let (seen, newest) = watch::channel(Instant::now());
    load.spawn(probe(producer, target.clone(), partition, seen, load.stopped()));
    Ok(newest)
}

/// Writes a record to one partition at a time, and tells when each that was acknowledged was sent.
async fn probe(
    producer: Producer,
    target: Target,
    partition: i32,
    seen: watch::Sender<Instant>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    while !*stop.borrow() {
        let sent = Instant::now();
        let record = ProducerRecord::new(Arc::clone(&target.topic), "probe").partition(partition);
        if let Ok(delivery) = producer.send(record).await
            && delivery.await.is_ok()
        {
            seen.send_replace(sent);
        }
        tokio::time::sleep(PROBE_PAUSE).await;
    }
    Ok(())
}

/// How long after `killed` a record was acknowledged that was sent after it. The record under way at the kill is
/// what waits longest, and a client sends the next one behind it.
async fn writes_again(probe: &mut Probed, killed: Instant) -> Result<Duration> {
    let sent_after = probe.wait_for(|sent| *sent > killed);
    tokio::time::timeout(PATIENCE, sent_after).await.map_err(|_| "writes did not go on within 60 s")??;
    Ok(killed.elapsed())
}

/// The broker that leads most partitions of the target, and those.
async fn most_leading(client: &Client, target: &Target) -> Result<(usize, Vec<i32>)> {
    let topics =
        patiently(|| async { client.admin().describe_topics([target.topic.to_string()]).await }).await?;
    let mut led = vec![Vec::new(); BROKERS + 1];
    for (_, topic) in topics {
        for partition in topic?.partitions {
            if let Some(leader) = partition.leader_id.and_then(|id| led.get_mut(id as usize)) {
                leader.push(partition.partition);
            }
        }
    }
    let most = led.into_iter().enumerate().max_by_key(|(_, led)| led.len());
    most.filter(|(_, led)| !led.is_empty()).ok_or_else(|| "no partition has a leader".into())
}
