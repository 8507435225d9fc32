//! Kills the broker that leads most partitions, under load, again and again: how long until each of them takes
//! writes again, and was anything lost or doubled?
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin failover -- --kills 50`

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_client::{Client, ClientConfig, NewTopic, Producer, ProducerConfig, ProducerRecord};
use headwater_tests::history::Recorder;
use headwater_tests::local_cluster::LocalCluster;
use headwater_tests::workload::{self, Target, patiently};
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
/// The longest wait for anything; past it the run has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// When the newest acknowledged probe of a partition was sent.
type Probed = watch::Receiver<Instant>;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(run(args))
}

async fn run(args: Args) -> Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let mut cluster = LocalCluster::start(dir.path(), BROKERS, &[])?;
    let client = connect(&cluster).await?;
    let (loaded, probed) = (Target::new("loaded", PARTITIONS), Target::new("probed", PARTITIONS));
    for target in [&loaded, &probed] {
        create(&client, target).await?;
    }
    let recorder = Recorder::real_time();
    let (stop, stopped) = watch::channel(false);
    let mut load = Vec::new();
    for number in 0..PRODUCERS {
        let producer = connect(&cluster).await?.producer(ProducerConfig::default()).await?;
        let (targets, recorder) = (vec![loaded.clone()], recorder.clone());
        let pace = Duration::from_millis(1);
        load.push(tokio::spawn(workload::produce(
            producer,
            number,
            targets,
            recorder,
            stopped.clone(),
            pace,
        )));
    }
    let mut probes: Vec<Probed> = Vec::new();
    for partition in 0..PARTITIONS {
        let config = ProducerConfig { linger: Duration::ZERO, ..ProducerConfig::default() };
        let producer = connect(&cluster).await?.producer(config).await?;
        let (seen, newest) = watch::channel(Instant::now());
        load.push(tokio::spawn(probe(producer, probed.clone(), partition, seen, stopped.clone())));
        probes.push(newest);
    }

    let mut stalls = Vec::new();
    for kill in 1..=args.kills {
        settled(&client, &[&loaded, &probed]).await?;
        let (victim, led) = most_leading(&client, &probed).await?;
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
    stop.send(true)?;
    for task in load {
        task.await?;
    }
    let sound = check(&client, &recorder, &loaded).await?;
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

async fn connect(cluster: &LocalCluster) -> Result<Client> {
    Ok(Client::connect(ClientConfig::new(cluster.bootstrap().split(','))).await?)
}

async fn create(client: &Client, target: &Target) -> Result<()> {
    let topic = NewTopic::new(&*target.topic).partitions(target.partitions);
    let topic = NewTopic { replicas: Some(BROKERS as i32), ..topic };
    for (_, created) in client.admin().create_topics(vec![topic], false).await? {
        created?;
    }
    Ok(())
}

/// Writes a record to one partition at a time, and tells when each that was acknowledged was sent.
async fn probe(
    producer: Producer,
    target: Target,
    partition: i32,
    seen: watch::Sender<Instant>,
    stop: watch::Receiver<bool>,
) {
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
}

/// How long after `killed` a record was acknowledged that was sent after it. The record under way at the kill is
/// what waits longest, and a client sends the next one behind it.
async fn writes_again(probe: &mut Probed, killed: Instant) -> Result<Duration> {
    let sent_after = probe.wait_for(|sent| *sent > killed);
    tokio::time::timeout(PATIENCE, sent_after).await.map_err(|_| "writes did not go on within 60 s")??;
    Ok(killed.elapsed())
}

/// Waits until every replica is in sync.
async fn settled(client: &Client, targets: &[&Target]) -> Result<()> {
    let started = Instant::now();
    loop {
        let names = targets.iter().map(|target| target.topic.to_string());
        let topics = patiently(|| async { client.admin().describe_topics(names.clone()).await }).await?;
        let whole = topics.iter().all(|(_, topic)| {
            topic.as_ref().is_ok_and(|topic| {
                topic.partitions.iter().all(|p| p.leader_id.is_some() && p.in_sync.len() == BROKERS)
            })
        });
        if whole {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("replicas are not in sync after 60 s: {topics:?}").into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
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

async fn check(client: &Client, recorder: &Recorder, target: &Target) -> Result<bool> {
    let (findings, _) = workload::conclude(client, std::slice::from_ref(target), recorder).await?;
    println!("{} records acknowledged, {findings}", recorder.note(|history| history.acked_count()));
    findings.lines().for_each(|line| println!("  {line}"));
    Ok(findings.is_empty())
}
