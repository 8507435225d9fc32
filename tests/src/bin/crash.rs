//! Kills a broker under load with SIGKILL, again and again, and checks that no acknowledged record was lost,
//! moved or doubled.
//!
//! `cargo run --release -p headwater-tests --bin crash -- --kills 200`

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use headwater_client::{Client, NewTopic, ProducerConfig};
use headwater_tests::load::Load;
use headwater_tests::process::{Addresses, BrokerProcess};
use headwater_tests::sim::world::SimEntropy;
use headwater_tests::workload::{Target, patiently};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "SIGKILLs a broker under load and checks the records")]
struct Args {
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Decides when each kill comes; the load's timing is the machine's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Longest time between a start and the next kill, in milliseconds.
    #[arg(long, default_value_t = 700)]
    interval_ms: u64,
}

const PRODUCERS: u32 = 4;
const READERS: u32 = 2;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    tokio::runtime::Runtime::new()?.block_on(run(args))
}

async fn run(args: Args) -> Result<ExitCode> {
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    let addresses = Addresses::free()?;
    let mut broker = BrokerProcess::start(&data_dir, addresses, &[])?;
    let [kept, trimmed] = [Target::new("kept", 6), Target::new("trimmed", 2)];
    let mut load = start_load(addresses, &kept, &trimmed).await?;

    let entropy = SimEntropy::new(args.seed);
    for kill in 1..=args.kills {
        tokio::time::sleep(Duration::from_millis(entropy.below(args.interval_ms))).await;
        broker.kill()?;
        broker = BrokerProcess::start(&data_dir, addresses, &[])?;
        if kill % 20 == 0 {
            println!("{kill} kills, {} records acknowledged", load.acked());
        }
    }
    load.end().await?;

    let verdict = check(&load, &kept, &trimmed).await?;
    // A clean restart must change nothing either.
    let status = broker.stop()?;
    if !status.success() {
        return Err(format!("the broker ended with {status} after SIGTERM").into());
    }
    let broker = BrokerProcess::start(&data_dir, addresses, &[])?;
    let again = check(&load, &kept, &trimmed).await?;
    drop(broker);
    Ok(if verdict && again { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Small segments, so that kills meet rolls; one topic loses its oldest records on request all the time.
async fn start_load(addresses: Addresses, kept: &Target, trimmed: &Target) -> Result<Load> {
    let mut load = Load::on(&addresses.grpc.to_string()).await?;
    for target in [kept, trimmed] {
        load.create(target, 1, &[("segment.bytes", "1048576")]).await?;
    }
    for _ in 0..PRODUCERS {
        let config = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
        load.produce(config, &[kept, trimmed], Duration::ZERO).await?;
    }
    for _ in 0..READERS {
        load.follow(kept).await?;
    }
    load.spawn(churn(load.connect().await?, trimmed.clone(), load.stopped()));
    Ok(load)
}

/// Metadata changes under way while the broker dies: topics come and go, records are deleted.
async fn churn(client: Client, trimmed: Target, stop: watch::Receiver<bool>) -> Result<()> {
    for round in 0.. {
        if *stop.borrow() {
            break;
        }
        let topic = format!("churn-{round}");
        // An unknown outcome, a topic that is there already or not any more: all are fine here, the broker's
        // next start is what is tested.
        let _ = client.admin().create_topics(vec![NewTopic::new(&*topic).partitions(2)], false).await;
        for partition in trimmed.all() {
            let _ = client.admin().delete_records(vec![(partition, Some(200 * round))]).await;
        }
        let _ = client.admin().delete_topics([topic]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn check(load: &Load, kept: &Target, trimmed: &Target) -> Result<bool> {
    let admin = load.client().admin();
    patiently(|| admin.describe_topics([kept.topic.to_string()])).await?;
    let (sound, starts) = load.verdict(&[kept.clone(), trimmed.clone()]).await?;
    let moved = starts.iter().find(|((topic, _), start)| *topic == *kept.topic && **start != 0);
    if let Some((partition, start)) = moved {
        println!("ANOMALY the log start of {partition:?} moved to {start} on its own");
    }
    Ok(sound && moved.is_none())
}
