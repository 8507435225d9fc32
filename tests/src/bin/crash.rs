//! Kills a broker under load with SIGKILL, again and again, and checks that no acknowledged record was lost,
//! moved or doubled.
//!
//! `cargo run --release -p headwater-tests --bin crash -- --kills 200`

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use headwater_client::{Client, ClientConfig, NewTopic, ProducerConfig};
use headwater_tests::history::Recorder;
use headwater_tests::process::{Addresses, BrokerProcess};
use headwater_tests::sim::world::SimEntropy;
use headwater_tests::workload::{self, Target, patiently};
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
    let client = connect(addresses).await?;
    // Small segments, so that kills meet rolls; one topic loses its oldest records on request all the time.
    let kept = Target::new("kept", 6);
    let trimmed = Target::new("trimmed", 2);
    for target in [&kept, &trimmed] {
        let topic =
            NewTopic::new(&*target.topic).partitions(target.partitions).config("segment.bytes", "1048576");
        created(&client, topic).await?;
    }

    let recorder = Recorder::real_time();
    let (stop, stopped) = watch::channel(false);
    let mut load = Vec::new();
    for number in 0..PRODUCERS {
        let producer = client_producer(addresses).await?;
        let targets = vec![kept.clone(), trimmed.clone()];
        let run =
            workload::produce(producer, number, targets, recorder.clone(), stopped.clone(), Duration::ZERO);
        load.push(tokio::spawn(run));
    }
    let mut readers = Vec::new();
    for number in 0..READERS {
        let reader = connect(addresses).await?;
        readers.push(tokio::spawn(workload::follow(
            reader,
            number,
            kept.clone(),
            recorder.clone(),
            stopped.clone(),
        )));
    }
    let churn = tokio::spawn(churn(connect(addresses).await?, trimmed.clone(), stopped));

    let entropy = SimEntropy::new(args.seed);
    for kill in 1..=args.kills {
        tokio::time::sleep(Duration::from_millis(entropy.below(args.interval_ms))).await;
        broker.kill()?;
        broker = BrokerProcess::start(&data_dir, addresses, &[])?;
        if kill % 20 == 0 {
            println!("{kill} kills, {} records acknowledged", recorder.note(|history| history.acked_count()));
        }
    }
    stop.send(true)?;
    for producer in load {
        producer.await?;
    }
    for reader in readers {
        reader.await??;
    }
    churn.await??;

    let verdict = check(&client, &recorder, &kept, &trimmed).await?;
    // A clean restart must change nothing either.
    let status = broker.stop()?;
    if !status.success() {
        return Err(format!("the broker ended with {status} after SIGTERM").into());
    }
    let broker = BrokerProcess::start(&data_dir, addresses, &[])?;
    let again = check(&client, &recorder, &kept, &trimmed).await?;
    drop(broker);
    Ok(if verdict && again { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn connect(addresses: Addresses) -> Result<Client> {
    Ok(Client::connect(ClientConfig::new([addresses.grpc.to_string()])).await?)
}

async fn client_producer(addresses: Addresses) -> Result<headwater_client::Producer> {
    let config = ProducerConfig { linger: Duration::from_millis(1), ..ProducerConfig::default() };
    Ok(connect(addresses).await?.producer(config).await?)
}

async fn created(client: &Client, topic: NewTopic) -> Result<()> {
    for (_, result) in client.admin().create_topics(vec![topic], false).await? {
        result?;
    }
    Ok(())
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

async fn check(client: &Client, recorder: &Recorder, kept: &Target, trimmed: &Target) -> Result<bool> {
    let admin = client.admin();
    patiently(|| admin.describe_topics([kept.topic.to_string()])).await?;
    let (findings, starts) = workload::conclude(client, &[kept.clone(), trimmed.clone()], recorder).await?;
    if let Some((partition, start)) =
        starts.iter().find(|((topic, _), start)| *topic == *kept.topic && **start != 0)
    {
        println!("ANOMALY the log start of {partition:?} moved to {start} on its own");
        return Ok(false);
    }
    let acked = recorder.note(|history| history.acked_count());
    println!("{acked} records acknowledged, {findings}");
    findings.lines().for_each(|line| println!("ANOMALY {line}"));
    Ok(findings.is_empty() && acked > 0)
}
