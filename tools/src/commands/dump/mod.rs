//! `streamctl dump`: a broker's files, verified and printed offline.
//!
//! Invariants: nothing is written, locked or repaired; what is damaged is named with its place, and makes
//! the command fail.

mod batches;
mod journal;
mod printer;
mod segment;
mod tables;

use std::io;
use std::path::{Path, PathBuf};

use headwater_proto::types::GroupId;
use headwater_storage::disk::OfflineDisk;
use headwater_storage::inspect;

use printer::Printer;

use crate::exit::{Exit, Failure};
use crate::output::Output;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
PATH is a data directory, one group in its `groups`, a .log, .index or .tables file, or a `journal` directory.
Nothing is written; the broker may be running (its newest batches may then be missing, or unfinished).
Damage is listed, and makes the exit code 1.

Examples:
  streamctl dump ./headwater-data
  streamctl dump ./headwater-data/groups/*-0/00000000000000000000.1.log
  streamctl dump ./headwater-data -o jsonl | jq 'select(.damage != [])'
  streamctl dump ./headwater-data/groups/*-0/00000000000000000000.1.log --records | less")]
pub struct DumpArgs {
    /// A data directory, or a file in one.
    path: PathBuf,
    /// Print every batch and every fact of the journal; those of a single file are always printed.
    #[arg(long)]
    batches: bool,
    /// Print every batch and its records.
    #[arg(long)]
    records: bool,
}

/// How much of a segment is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    Segments,
    Batches,
    Records,
}

pub fn run(args: &DumpArgs, output: Output) -> Result<(), Failure> {
    let path = args.path.as_path();
    let metadata = std::fs::metadata(path).map_err(|e| Failure::file("read", path.display(), &e))?;
    let single = metadata.is_file();
    let detail = match (args.records, args.batches || single) {
        (true, _) => Detail::Records,
        (false, true) => Detail::Batches,
        (false, false) => Detail::Segments,
    };
    let mut printer = Printer::new(output);
    if single {
        file(path, detail, &mut printer)?;
    } else {
        directory(path, detail, &mut printer)?;
    }
    printer.finish(path)
}

fn file(path: &Path, detail: Detail, printer: &mut Printer) -> Result<(), Failure> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("log" | "index") => segments(path, detail, printer),
        Some("tables") => tables::dump(path, printer),
        _ => Err(unknown(path)),
    }
}

fn directory(path: &Path, detail: Detail, printer: &mut Printer) -> Result<(), Failure> {
    let names = names(path)?;
    let has = |name: &str| names.iter().any(|n| n == name);
    if has("format") && has("groups") {
        let format = std::fs::read_to_string(path.join("format"))
            .map_err(|e| Failure::file("read", path.join("format").display(), &e))?;
        printer.data_directory(path, format.trim())?;
        journal::dump(&path.join("journal"), detail > Detail::Segments, printer)?;
        let groups = path.join("groups");
        for name in self::names(&groups)? {
            if name.parse::<GroupId>().is_ok() {
                group(&groups.join(name), detail, printer)?;
            }
        }
        return Ok(());
    }
    if has("0.a") || has("0.b") {
        return journal::dump(path, true, printer);
    }
    if names.iter().any(|name| name.ends_with(".log")) || is_group(path) {
        return group(path, detail, printer);
    }
    Err(unknown(path))
}

fn is_group(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<GroupId>().is_ok())
}

fn group(path: &Path, detail: Detail, printer: &mut Printer) -> Result<(), Failure> {
    segments(path, detail, printer)?;
    for name in names(path)?.iter().filter(|name| name.ends_with(".tables")) {
        tables::dump(&path.join(name), printer)?;
    }
    Ok(())
}

fn segments(path: &Path, detail: Detail, printer: &mut Printer) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::file("read", path.display(), &e);
    for found in inspect::segments(&OfflineDisk, path).map_err(failed)? {
        segment::dump(&found, detail, printer)?;
    }
    Ok(())
}

fn names(path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |e: io::Error| Failure::file("read", path.display(), &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn unknown(path: &Path) -> Failure {
    Failure::new(Exit::Usage, format!("{} is nothing that a broker wrote", path.display())).hint(
        "name a data directory, a directory in its `groups`, a .log, .index or .tables file, or its `journal`",
    )
}
