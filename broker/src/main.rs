//! The `headwater` binary: the one place that builds the real environment.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::{ExitCode, exit};
use std::sync::Arc;

use clap::Parser;
use headwater_broker::config::{Cli, Config, Effective};
use headwater_broker::env::{OsEntropy, SystemClock, TcpNetwork};
use headwater_broker::{
    Broker, EntranceError, Env, IdentityError, MetadataRecoveryError, NodeError, StartError,
    recover_metadata, telemetry,
};
use headwater_storage::data_dir::OpenError;
use headwater_storage::disk::RealDisk;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// A flag, a variable or the file is wrong; also clap's own code for usage errors.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A value that is no text stays visible as such, so that its setting is refused and not ignored.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let effective = match Effective::load(&cli, &environment, |path| std::fs::read_to_string(path)) {
        Ok(effective) => effective,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    if cli.print_config {
        return print(&effective.to_string());
    }
    if let Err(error) = telemetry::init(&effective.config.log) {
        return fail(&error, EXIT_CONFIG);
    }
    raise_file_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if effective.config.broker.worker_threads > 0 {
        runtime.worker_threads(effective.config.broker.worker_threads);
    }
    match runtime.enable_all().build() {
        Ok(runtime) if cli.recover_metadata => runtime.block_on(recover(&effective.config, cli.accept_loss)),
        Ok(runtime) => runtime.block_on(run(effective.config)),
        Err(error) => fail(&format!("cannot start the runtime: {error}"), 1),
    }
}

/// A reader that has seen enough, as `head` has, is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error, 1),
        _ => ExitCode::SUCCESS,
    }
}

async fn run(config: Config) -> ExitCode {
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else {
        return fail(&"cannot listen for signals", 1);
    };
    let env = match environment(&config) {
        Ok(env) => env,
        Err(code) => return code,
    };
    let mut stopped = async || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    let broker = tokio::select! {
        started = Broker::start(config, env) => match started {
            Ok(broker) => broker,
            Err(error) => return fail(&error, exit_code(&error)),
        },
        // Nothing was served yet, so there is nothing to drain.
        signal = stopped() => exit(128 + signal.as_raw_value()),
    };
    let code = tokio::select! {
        signal = stopped() => {
            tracing::info!(signal = signal.as_raw_value(), "draining; a second signal exits at once");
            ExitCode::SUCCESS
        }
        error = broker.failed() => fail(&error, exit_code_of(&error)),
    };
    tokio::select! {
        () = broker.shutdown() => code,
        signal = stopped() => exit(128 + signal.as_raw_value()),
    }
}

fn environment(config: &Config) -> Result<Env, ExitCode> {
    match OsEntropy::new() {
        Ok(entropy) => Ok(Env {
            disk: Arc::new(RealDisk::new()),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(entropy),
            network: Arc::new(TcpNetwork::from_listener(config.broker.peer_addr)),
        }),
        Err(error) => Err(fail(&format!("the operating system gives no randomness: {error}"), 1)),
    }
}

/// Goes on with what this directory holds of the cluster's metadata, and says what that means.
async fn recover(config: &Config, accept_loss: bool) -> ExitCode {
    let env = match environment(config) {
        Ok(env) => env,
        Err(code) => return code,
    };
    match recover_metadata(config, &env, accept_loss).await {
        Ok(outlook) => print(&format!("{outlook}\n")),
        Err(MetadataRecoveryError::Node(error)) => fail(&error, exit_code_of(&error)),
        Err(error) => fail(&error, 1),
    }
}

/// See `--help`.
fn exit_code(error: &StartError) -> u8 {
    match error {
        StartError::Bind { .. } => 3,
        StartError::Node(error) => exit_code_of(error),
    }
}

fn exit_code_of(error: &NodeError) -> u8 {
    match error {
        NodeError::DataDir(OpenError::InUse { .. }) => 4,
        NodeError::DataDir(OpenError::WrongVersion { .. }) => 5,
        NodeError::Identity(error) | NodeError::Entrance(EntranceError::Identity(error)) => match error {
            IdentityError::OtherBroker { .. } => EXIT_CONFIG,
            IdentityError::Unreadable => 5,
            IdentityError::Journal(_) => 6,
        },
        NodeError::Entrance(_) => 7,
        NodeError::DataDir(_)
        | NodeError::JournalFailed { .. }
        | NodeError::Leftovers(_)
        | NodeError::Metadata(_)
        | NodeError::MetadataDamaged { .. }
        | NodeError::MetadataFailed { .. } => 6,
        NodeError::Register(_) | NodeError::GivenUp | NodeError::MetadataRotten => 1,
    }
}

fn fail(error: &dyn Display, code: u8) -> ExitCode {
    eprintln!("headwater: {error}");
    ExitCode::from(code)
}

/// Every partition has a few files, and the customary soft limit is 1,024. Without the right to raise it the broker runs
/// all the same, and opens and closes files more often.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, limit = limit.current, "cannot raise the limit on open files");
        }
    }
}
