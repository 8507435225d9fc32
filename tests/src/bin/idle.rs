//! Three brokers that hold many partitions with nothing to do: what each costs.
//!
//! `cargo build --release && cargo run --release -p headwater-tests --bin idle -- --partitions 1000`

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_tests::local_cluster::LocalCluster;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures what idle partitions cost: three brokers, three replicas each")]
struct Args {
    #[arg(long, default_value_t = 1_000)]
    partitions: u64,
    /// Seconds of the measurement.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Directory on the disk to use; emptied of what the run wrote.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

const BROKERS: u64 = 3;
/// Of one topic.
const PARTITIONS_MAX: u64 = 1_000;
/// Past it the cluster will not come to rest any more.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let args = Args::parse();
    let dir = tempfile::tempdir_in(&args.dir)?;
    let cluster = LocalCluster::start(dir.path(), BROKERS as usize, &[])?;
    let begun = Instant::now();
    let mut created = 0;
    while created < args.partitions {
        let partitions = PARTITIONS_MAX.min(args.partitions - created);
        let (topic, count) = (format!("idle-{created}"), partitions.to_string());
        let create = ["topic", "create", &topic, "--partitions", &count, "--replicas", "3"];
        cluster.streamctl(&[&create[..], &["--timeout", "120s"]].concat())?;
        created += partitions;
    }
    wait_for_rest(&cluster, args.partitions)?;
    println!(
        "{} partitions x {BROKERS} replicas: at rest after {:.1} s",
        args.partitions,
        begun.elapsed().as_secs_f64()
    );

    let processes = || cluster.ids().filter_map(|id| Some((id, cluster.process(id)?)));
    let before =
        processes().map(|(_, process)| process.cpu_seconds()).collect::<std::io::Result<Vec<_>>>()?;
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let seconds = begun.elapsed().as_secs_f64();
    for ((id, process), before) in processes().zip(before) {
        println!(
            "broker {id}: {:.2} % of a core, RssAnon {} MB",
            100.0 * (process.cpu_seconds()? - before) / seconds,
            process.memory_bytes("RssAnon")? / 1_000_000,
        );
    }
    Ok(())
}

/// Waits until all replicas are in sync and all groups are quiet.
fn wait_for_rest(cluster: &LocalCluster, partitions: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = cluster.streamctl(&["cluster", "status"])?;
        let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or_default();
        let brokers = status["brokers"].as_array().map_or(&[][..], Vec::as_slice);
        let at_rest =
            |broker: &Value| number(broker, "out_of_sync") == 0 && number(broker, "quiet") >= partitions;
        if brokers.len() as u64 == BROKERS
            && number(&status, "leaderless") == 0
            && brokers.iter().all(at_rest)
        {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("not at rest after {PATIENCE:?}: {status}").into());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
