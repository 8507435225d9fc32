//! `streamctl`: the command-line tool of Headwater.
//!
//! A command reads arguments, asks the client library, and reports through [`output`]; how it ends is
//! an exit code of [`exit`]. Must not: hold logic that the client or the broker should have, or write
//! to a data directory (`dump` reads only).

mod cli;
mod commands;
mod connect;
mod envelope;
mod exit;
mod input;
mod output;
mod position;
mod progress;
mod settings;
mod template;
mod text;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output};
use crate::settings::{ConfigFile, Settings};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let mut format = cli.global.output.unwrap_or_default();
    match run(cli, &mut format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            Output::failure(format, &failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Help and version are no errors; everything else that the grammar refuses is.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone, as in `streamctl --help | head`, has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ if wants_json(std::env::args_os()) => {
            let text = error.to_string();
            let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Output::failure(Format::Json, &Failure::usage(message).hint("see --help"));
            ExitCode::from(Exit::Usage as u8)
        }
        _ => {
            let _ = error.print();
            ExitCode::from(Exit::Usage as u8)
        }
    }
}

/// Whether errors were asked for as JSON on a command line that could not be parsed.
fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let json = |value: &str| matches!(value, "json" | "jsonl");
    args.iter().enumerate().any(|(n, arg)| match arg.as_str() {
        "-o" | "--output" => args.get(n + 1).is_some_and(|value| json(value)),
        arg => arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o")).is_some_and(json),
    })
}

fn run(cli: Cli, format: &mut Format) -> Result<(), Failure> {
    let quiet = cli.global.quiet;
    let command = match cli.command {
        // What needs no settings must work with broken ones.
        Command::Completion(args) => return commands::completion::run(&args),
        Command::Dump(args) => return commands::dump::run(&args, Output { format: *format, quiet }),
        Command::Context(command) => {
            return commands::context::run(command, &cli.global, Output { format: *format, quiet });
        }
        command => command,
    };
    let file = ConfigFile::load(&ConfigFile::path()?)?;
    let settings = Settings::resolve(&cli.global, &file, |name| std::env::var(name).ok())?;
    *format = settings.output.value;
    let output = Output { format: *format, quiet };
    let runtime = runtime(if matches!(command, Command::Bench(_)) { 2 } else { 1 })?;
    let result = runtime.block_on(async {
        match command {
            Command::Topic(command) => commands::topic::run(command, &settings, output).await,
            Command::Records(command) => commands::records::run(command, &settings, output).await,
            Command::Produce(args) => commands::produce::run(args, &settings, output).await,
            Command::Consume(args) => {
                commands::consume::run(args, &settings, output, cli.global.output).await
            }
            Command::Bench(command) => commands::bench::run(command, &settings, output).await,
            Command::Cluster(command) => commands::cluster::run(command, &settings, output).await,
            Command::Partition(command) => commands::partition::run(command, &settings, output).await,
            Command::Leader(command) => commands::leader::run(command, &settings, output).await,
            Command::Node(command) => commands::node::run(command, &settings, output).await,
            Command::Context(_) | Command::Completion(_) | Command::Dump(_) => Ok(()),
        }
    });
    // A thread that still waits for standard input must not keep us here.
    runtime.shutdown_background();
    result
}

/// One thread does for everything but the benchmarks, whose load must not be what limits them.
fn runtime(workers: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        workers => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            // Sockets and timers are looked at after so many polls of tasks; by default 61, each of which may
            // fill a whole batch, so that answers would wait for tens of milliseconds.
            builder.worker_threads(workers).event_interval(4);
            builder
        }
    };
    builder.enable_all().build().map_err(|e| Failure::new(Exit::Failure, format!("cannot start: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognized_on_a_line_that_is_not_understood() {
        let wants = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(wants("streamctl topic -o json nonsense"));
        assert!(wants("streamctl --output=jsonl"));
        assert!(wants("streamctl -ojson"));
        assert!(!wants("streamctl -o table topic nonsense json"));
        assert!(!wants("streamctl -o"));
    }
}
