//! Simulated runs of a whole cluster, or of one broker: one seed, many seeds, planted bugs, or power cuts at write
//! points all over one seed.
//!
//! `cargo run --profile sim -p headwater-tests --bin sim -- --seed 7`

use std::collections::VecDeque;
use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_core::mutant::Mutant;
use headwater_tests::sim::alone;
use headwater_tests::sim::cluster::{self, coverage::Coverage};
use headwater_tests::sim::world::now_micros;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser, Clone)]
#[command(about = "Runs brokers and their clients in simulated time")]
struct Args {
    /// Runs this one and prints a digest of its history: the same each time.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this many seeds, from `--seed` on, each in a process of its own.
    #[arg(long)]
    seeds: Option<u64>,
    /// Runs at the same time; as many as there are cores by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// A third of the load: what a check before each change can wait for. Rare faults may stay away.
    #[arg(long)]
    short: bool,
    /// Plants each bug in turn and looks for it, in up to 200 seeds: fails when one is not found.
    #[arg(long)]
    mutants: bool,
    /// Plants this bug.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Aims the faults at the bug, and does not plant it.
    #[arg(long, requires = "mutant")]
    unplanted: bool,
    /// One broker alone, with power cuts and crashes.
    #[arg(long)]
    alone: bool,
    /// One broker alone: runs `--seed` once without faults, then once for each of this many of its write points
    /// (evenly spread; `all` for every one), with the power cut right after it.
    #[arg(long, value_name = "N|all")]
    power_cuts: Option<String>,
    /// One broker alone: cuts the power after this write point of `--seed`.
    #[arg(long)]
    cut_after: Option<u64>,
    /// No faults at all.
    #[arg(long)]
    calm: bool,
    /// Simulated milliseconds of load.
    #[arg(long)]
    load_ms: Option<u64>,
    /// Prints what the brokers log (RUST_LOG decides how much).
    #[arg(long)]
    logs: bool,
}

const LOAD_MS: u64 = 60_000;
const SHORT_LOAD_MS: u64 = 20_000;
const ALONE_LOAD_MS: u64 = 15_000;
/// Power-cut runs are many: a short load, in which segments roll, are deleted and topics change.
const CUT_LOAD_MS: u64 = 500;
/// Seeds in which a planted bug must show.
const MUTANT_SEEDS: u64 = 200;
/// A run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_secs(300);
/// What a full run must have been through.
const OPERATIONS_MIN: u64 = 5_000;
const KINDS_MIN: usize = 5;
/// Begins the line in which a run tells what it has been through.
const COVERAGE: &str = "coverage ";
const COMMAND: &str = "cargo run --profile sim -p headwater-tests --bin sim --";

fn mutant(name: &str) -> std::result::Result<Mutant, String> {
    let names: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    name.parse().map_err(|()| format!("one of {}", names.join(", ")))
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let succeeded = if args.mutants {
        mutants(&args)?
    } else if args.seeds.is_some() {
        sweep_seeds(&args)?
    } else if let Some(points) = &args.power_cuts {
        power_cuts(&args, points)?
    } else {
        if args.logs {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_timer(SimulatedTime)
                .with_ansi(false)
                .init();
        }
        if args.alone || args.cut_after.is_some() { one_alone(&args)? } else { one(&args)? }
    };
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Log lines carry the time of the simulation.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{:>10.6}", Duration::from_micros(now_micros()).as_secs_f64())
    }
}

/// One run of a cluster.
fn one(args: &Args) -> Result<bool> {
    plant(args.mutant.filter(|_| !args.unplanted))?;
    let load_ms = args.load_ms.unwrap_or(if args.short { SHORT_LOAD_MS } else { LOAD_MS });
    let load = Duration::from_millis(load_ms);
    let full = !args.short && !args.calm && args.load_ms.is_none() && args.mutant.is_none();
    let operations = if full { OPERATIONS_MIN } else { 0 };
    let plan = cluster::Plan { seed: args.seed, load, operations, mutant: args.mutant, calm: args.calm };
    let outcome = cluster::run(&plan);
    println!(
        "seed {} digest {:016x}: {}, {} brokers, {} operations, {} records acknowledged, {} kinds of fault, \
         {:.1} s simulated, {}",
        args.seed,
        outcome.digest,
        outcome.profile,
        outcome.brokers,
        outcome.operations,
        outcome.acked,
        outcome.coverage.kinds(),
        outcome.simulated.as_secs_f64(),
        outcome.findings,
    );
    println!("{COVERAGE}{}", outcome.coverage);
    outcome.violations.iter().for_each(|violation| println!("VIOLATION {violation}"));
    outcome.findings.lines().for_each(|line| println!("ANOMALY {line}"));
    if full
        && outcome.is_good()
        && (outcome.operations < OPERATIONS_MIN || outcome.coverage.kinds() < KINDS_MIN)
    {
        println!(
            "VIOLATION too little happened: a full run has {OPERATIONS_MIN} operations and {KINDS_MIN} kinds of fault"
        );
        return Ok(false);
    }
    Ok(outcome.is_good())
}

#[cfg(feature = "mutants")]
#[expect(clippy::unnecessary_wraps, reason = "as the other one")]
fn plant(mutant: Option<Mutant>) -> Result<()> {
    headwater_core::mutant::plant(mutant);
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn plant(mutant: Option<Mutant>) -> Result<()> {
    match mutant {
        None => Ok(()),
        Some(_) => Err("planted bugs are compiled in with --features mutants only".into()),
    }
}

/// One run of a broker alone.
fn one_alone(args: &Args) -> Result<bool> {
    let faultless = args.calm || args.cut_after.is_some();
    let load_ms = args.load_ms.unwrap_or(if faultless { CUT_LOAD_MS } else { ALONE_LOAD_MS });
    let plan = alone::Plan {
        seed: args.seed,
        load: Duration::from_millis(load_ms),
        cut_after_operation: args.cut_after,
        random_faults: !faultless,
    };
    let outcome = alone::run(&plan)?;
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
    outcome.anomalies.iter().take(20).for_each(|anomaly| println!("ANOMALY {anomaly}"));
    Ok(outcome.anomalies.is_empty() && outcome.acked > 0)
}

/// Arguments that a run of many shares with its parent.
fn shared(args: &Args) -> Vec<String> {
    let mut shared = Vec::new();
    let flags = [
        ("--short", args.short),
        ("--alone", args.alone),
        ("--calm", args.calm),
        ("--unplanted", args.unplanted),
    ];
    for (flag, given) in flags {
        shared.extend(given.then(|| flag.to_owned()));
    }
    shared.extend(args.mutant.iter().flat_map(|mutant| ["--mutant".to_owned(), mutant.to_string()]));
    shared.extend(args.load_ms.iter().flat_map(|load_ms| ["--load-ms".to_owned(), load_ms.to_string()]));
    shared
}

fn seed_run(args: &Args, seed: u64) -> Vec<String> {
    [vec!["--seed".to_owned(), seed.to_string()], shared(args)].concat()
}

fn sweep_seeds(args: &Args) -> Result<bool> {
    let seeds = args.seeds.unwrap_or(1);
    let runs = (args.seed..args.seed + seeds).map(|seed| seed_run(args, seed)).collect();
    let swept = sweep(runs, args.jobs, false)?;
    if args.alone {
        return Ok(swept.failed.is_empty());
    }
    println!("{}", swept.coverage.table());
    let missing = swept.coverage.missing();
    // A few seeds can't meet everything, and a short load is no full run.
    if args.short || args.mutant.is_some() || seeds < 100 || missing.is_empty() {
        return Ok(swept.failed.is_empty());
    }
    println!("FAILED: these never happened: {}", missing.join(", "));
    Ok(false)
}

/// Plants one bug after the other, and looks for each until it is found: a run that fails, and does not fail without
/// the bug.
fn mutants(args: &Args) -> Result<bool> {
    if !cfg!(feature = "mutants") {
        return Err("planted bugs are compiled in with --features mutants only".into());
    }
    let mut escaped = Vec::new();
    for mutant in Mutant::ALL {
        let args = Args { mutant: Some(*mutant), ..args.clone() };
        let runs = (args.seed..args.seed + MUTANT_SEEDS).map(|seed| seed_run(&args, seed)).collect();
        let swept = sweep(runs, args.jobs, true)?;
        match swept.failed.first() {
            Some(found) => {
                println!("{mutant}: found after {} runs: {}", swept.runs, found.reason);
                println!("    {}", repeat(&found.run));
                let sound = [found.run.clone(), vec!["--unplanted".to_owned()]].concat();
                if !child(&sound)?.good {
                    println!("    FAILED, it fails without the bug, too: {}", repeat(&sound));
                    escaped.push(mutant.name());
                }
            }
            None => {
                println!("{mutant}: ESCAPED {} runs", swept.runs);
                escaped.push(mutant.name());
            }
        }
    }
    println!("{} planted, {} escaped {}", Mutant::ALL.len(), escaped.len(), escaped.join(", "));
    Ok(escaped.is_empty())
}

fn power_cuts(args: &Args, points: &str) -> Result<bool> {
    let calm = alone::Plan {
        seed: args.seed,
        load: Duration::from_millis(args.load_ms.unwrap_or(CUT_LOAD_MS)),
        cut_after_operation: None,
        random_faults: false,
    };
    let operations = alone::run(&calm)?.operations;
    let wanted = if points == "all" { operations } else { points.parse::<u64>()?.clamp(1, operations) };
    println!("{operations} write points without a fault, cutting after {wanted} of them");
    let runs = (0..wanted).map(|i| {
        let point = 1 + i * operations / wanted;
        let cut = vec!["--cut-after".to_owned(), point.to_string()];
        [seed_run(args, args.seed), cut].concat()
    });
    Ok(sweep(runs.collect(), args.jobs, false)?.failed.is_empty())
}

/// A run that failed.
struct Failed {
    run: Vec<String>,
    reason: String,
}

#[derive(Default)]
struct Swept {
    runs: usize,
    failed: Vec<Failed>,
    coverage: Coverage,
}

/// Runs this program once for each list of arguments, as many at a time as there are jobs. With `hunt`, failures are
/// what is looked for: the first one ends it. One that only hangs has found nothing.
fn sweep(runs: Vec<Vec<String>>, jobs: Option<usize>, hunt: bool) -> Result<Swept> {
    let jobs = jobs.map_or_else(|| std::thread::available_parallelism().map(usize::from), Ok)?.max(1);
    let waiting = Mutex::new(VecDeque::from(runs));
    let swept = Mutex::new(Swept::default());
    let next = || {
        let enough = hunt && !locked(&swept).failed.is_empty();
        if enough { None } else { locked(&waiting).pop_front() }
    };
    let work = || -> Result<()> {
        while let Some(run) = next() {
            let ended = child(&run)?;
            settle(run, ended, hunt, &mut locked(&swept));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })?;
    let swept = swept.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !hunt {
        println!("{} runs, {} failed", swept.runs, swept.failed.len());
        swept.failed.iter().for_each(|failed| println!("repeat with: {}", repeat(&failed.run)));
    }
    Ok(swept)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn repeat(run: &[String]) -> String {
    let features = if run.iter().any(|argument| argument == "--mutant") { " --features mutants" } else { "" };
    let (program, arguments) = (COMMAND.strip_suffix(" --").unwrap_or(COMMAND), run.join(" "));
    format!("{program}{features} -- {arguments}")
}

/// How a child ended.
struct Ended {
    good: bool,
    hung: bool,
    status: String,
    stdout: String,
    stderr: String,
}

fn child(run: &[String]) -> Result<Ended> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(run)
        .env("RUST_BACKTRACE", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let begun = Instant::now();
    let mut hung = false;
    while child.try_wait()?.is_none() {
        if begun.elapsed() > RUN_MAX {
            hung = true;
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    let status = if hung { format!("hung for {RUN_MAX:?}") } else { output.status.to_string() };
    Ok(Ended {
        good: output.status.success(),
        hung,
        status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn settle(run: Vec<String>, ended: Ended, hunt: bool, swept: &mut Swept) {
    swept.runs += 1;
    let coverage = ended.stdout.lines().find_map(|line| line.strip_prefix(COVERAGE)?.parse().ok());
    swept.coverage.merge(&coverage.unwrap_or_default());
    if ended.good || hunt && ended.hung {
        return;
    }
    if !hunt {
        println!("FAILED {}: {}", run.join(" "), ended.status);
        ended.stdout.lines().filter(|line| !line.starts_with(COVERAGE)).for_each(|line| println!("  {line}"));
        ended.stderr.lines().take(40).for_each(|line| println!("  {line}"));
    }
    let told = |line: &&str| {
        line.starts_with("VIOLATION") || line.starts_with("ANOMALY") || line.contains("panicked")
    };
    let reason =
        ended.stdout.lines().chain(ended.stderr.lines()).find(told).unwrap_or(&ended.status).to_owned();
    swept.failed.push(Failed { run, reason });
}
