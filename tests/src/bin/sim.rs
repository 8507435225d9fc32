//! Simulated runs: one seed, many seeds, or the power cut at write points all over one seed.
//!
//! `cargo run --release -p headwater-tests --bin sim -- --seed 7`

use std::error::Error;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use headwater_tests::sim::scenario::{self, Plan};

#[derive(Parser, Clone)]
#[command(about = "Runs the broker and its clients in simulated time")]
struct Args {
    /// Runs this one and prints a digest of its history: the same each time.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this many seeds, from `--seed` on, each in a process of its own.
    #[arg(long)]
    seeds: Option<u64>,
    /// Runs `--seed` once without faults, then once for each of this many of its write points (evenly spread;
    /// `all` for every one), with the power cut right after it.
    #[arg(long, value_name = "N|all")]
    power_cuts: Option<String>,
    /// Cuts the power after this write point of `--seed`.
    #[arg(long)]
    cut_after: Option<u64>,
    /// No faults at all.
    #[arg(long)]
    calm: bool,
    /// Simulated milliseconds of load.
    #[arg(long)]
    load_ms: Option<u64>,
    /// Prints what the broker logs (RUST_LOG decides how much).
    #[arg(long)]
    logs: bool,
}

const SEED_LOAD_MS: u64 = 15_000;
/// Power-cut runs are many: a short load, in which segments roll, are deleted and topics change.
const CUT_LOAD_MS: u64 = 500;

fn main() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let args = Args::parse();
    if let Some(seeds) = args.seeds {
        let runs = (args.seed..args.seed + seeds).map(|seed| vec!["--seed".to_owned(), seed.to_string()]);
        return sweep(runs.collect());
    }
    if let Some(points) = &args.power_cuts {
        return power_cuts(&args, points);
    }
    one(&args)
}

fn one(args: &Args) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    if args.logs {
        tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    }
    let faultless = args.calm || args.cut_after.is_some();
    let load_ms = args.load_ms.unwrap_or(if faultless { CUT_LOAD_MS } else { SEED_LOAD_MS });
    let plan = Plan {
        seed: args.seed,
        load: Duration::from_millis(load_ms),
        cut_after_operation: args.cut_after,
        random_faults: !faultless,
    };
    let outcome = scenario::run(&plan)?;
    println!(
        "seed {} digest {:016x}: {} records acknowledged, {} write points, {} power cuts, {} crashes, {:.1} s simulated, \
         {} anomalies",
        args.seed,
        outcome.digest,
        outcome.acked,
        outcome.operations,
        outcome.power_cuts,
        outcome.crashes,
        outcome.simulated.as_secs_f64(),
        outcome.anomalies.len()
    );
    for anomaly in outcome.anomalies.iter().take(20) {
        println!("ANOMALY {anomaly}");
    }
    let good = outcome.anomalies.is_empty() && outcome.acked > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn power_cuts(args: &Args, points: &str) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let calm = Plan {
        seed: args.seed,
        load: Duration::from_millis(args.load_ms.unwrap_or(CUT_LOAD_MS)),
        cut_after_operation: None,
        random_faults: false,
    };
    let operations = scenario::run(&calm)?.operations;
    let wanted = if points == "all" { operations } else { points.parse::<u64>()?.clamp(1, operations) };
    println!("{operations} write points without a fault, cutting after {wanted} of them");
    let runs = (0..wanted).map(|i| {
        let point = 1 + i * operations / wanted;
        let mut run =
            vec!["--seed".to_owned(), args.seed.to_string(), "--cut-after".to_owned(), point.to_string()];
        run.extend(args.load_ms.iter().flat_map(|load_ms| ["--load-ms".to_owned(), load_ms.to_string()]));
        run
    });
    sweep(runs.collect())
}

/// Runs this program once for each list of arguments, as many at a time as there are cores.
fn sweep(runs: Vec<Vec<String>>) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let me = std::env::current_exe()?;
    let cores = std::thread::available_parallelism()?.get();
    let total = runs.len();
    let mut failed = Vec::new();
    let mut under_way: Vec<(Vec<String>, Child)> = Vec::new();
    for run in runs {
        if under_way.len() == cores {
            settle(under_way.remove(0), &mut failed)?;
        }
        let child = Command::new(&me).args(&run).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        under_way.push((run, child));
    }
    for run in under_way {
        settle(run, &mut failed)?;
    }
    println!("{total} runs, {} failed", failed.len());
    for run in &failed {
        println!("repeat with: cargo run --release -p headwater-tests --bin sim -- {}", run.join(" "));
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn settle(
    (run, child): (Vec<String>, Child),
    failed: &mut Vec<Vec<String>>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let output = child.wait_with_output()?;
    if !output.status.success() {
        println!("FAILED {}: {}", run.join(" "), output.status);
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        failed.push(run);
    }
    Ok(())
}
