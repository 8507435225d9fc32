//! The node's journal: its facts, and whether both copies tell the same.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use headwater_proto::types::GroupId;
use headwater_storage::journal::{self, Change, InspectedJournal};
use serde_json::{Value, json};

use super::printer::Printer;
use crate::exit::Failure;

const ATTEMPTS: u32 = 10;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// `all` prints every fact to people as well; machines get them in any case.
pub fn dump(directory: &Path, all: bool, printer: &mut Printer) -> Result<(), Failure> {
    let inspected = settled(directory).map_err(|e| Failure::file("read", directory.display(), &e))?;
    let found = match inspected {
        Ok(found) => found,
        Err(reason) => {
            let damage = [format!("{}: unreadable: {reason}", directory.display())];
            let data = json!({ "kind": "journal", "path": directory, "damage": damage });
            return printer.item(data, &damage, |page| page.line(format!("journal {}", directory.display())));
        }
    };
    let mut damage = Vec::new();
    for (name, sequence) in ["a", "b"].iter().zip(found.copies) {
        if !keeps_up(sequence, &found) {
            let state = sequence
                .map_or("is unreadable".to_string(), |s| format!("ends at frame {s} of {}", found.sequence));
            damage.push(format!("{}: copy {name} {state}; the next start repairs it", directory.display()));
        }
    }
    let facts: Vec<_> = found.facts.iter().filter_map(fact).collect();
    let data = json!({
        "kind": "journal",
        "path": directory,
        "generation": found.generation,
        "sequence": found.sequence,
        "facts": facts.iter().map(|f| json!({
            "group": f.group.map(|g| g.to_string()),
            "kind": f.kind,
            "name": f.name,
            "bytes": f.value.len(),
            "hex": hex(f.value),
        })).collect::<Vec<Value>>(),
        "damage": damage,
    });
    printer.item(data, &damage, |page| {
        page.line(format!(
            "journal {}: generation {}, {} frames, {} facts",
            directory.display(),
            found.generation,
            found.sequence,
            facts.len()
        ));
        if !all {
            return;
        }
        let rows = facts.iter().map(|f| {
            let owner = f.group.map_or_else(|| "(node)".to_string(), |g| g.to_string());
            vec![format!("  {owner}"), f.name.clone(), f.value.len().to_string(), hex(f.value)]
        });
        page.table(&["  OWNER", "FACT", ">BYTES", "VALUE"], rows);
    })
}

/// Reads the journal; again when its copies differ, since a broker that runs may have written between the reads.
fn settled(directory: &Path) -> io::Result<Result<InspectedJournal, String>> {
    let read = |name: &str| -> io::Result<Bytes> { std::fs::read(directory.join(name)).map(Bytes::from) };
    let mut inspected = journal::inspect(read)?;
    for _ in 1..ATTEMPTS {
        if inspected.as_ref().is_ok_and(|found| found.copies.iter().all(|copy| keeps_up(*copy, found))) {
            break;
        }
        std::thread::sleep(BETWEEN_ATTEMPTS);
        inspected = journal::inspect(read)?;
    }
    Ok(inspected)
}

/// A frame is written to one copy and then to the other: a crash between the two leaves one behind by one.
fn keeps_up(copy: Option<u64>, found: &InspectedJournal) -> bool {
    copy.is_some_and(|sequence| sequence + 1 >= found.sequence)
}

struct Fact<'a> {
    group: Option<GroupId>,
    kind: u8,
    name: String,
    value: &'a Bytes,
}

fn fact(change: &Change) -> Option<Fact<'_>> {
    match change {
        Change::Put { group, kind, value } => {
            Some(Fact { group: *group, kind: *kind, name: name(group.is_some(), *kind), value })
        }
        Change::RemoveGroup(_) => None,
    }
}

/// Names of the kinds, as `broker/docs/format.md` lists them.
fn name(of_group: bool, kind: u8) -> String {
    match (of_group, kind) {
        (false, 1) => "incarnation",
        (false, 2) => "clean stop",
        (false, 64) => "cluster",
        (false, 65) => "known brokers",
        (false, 66) => "rejoin",
        (true, 1) => "durable point",
        (true, 2) => "cut",
        (true, 3) => "purged",
        (true, 4) => "tail cut",
        (true, 5) => "damage",
        (true, 31) => "deleted",
        (true, 32) => "creation",
        (true, 33) => "vote",
        (true, 34) => "committed",
        (true, 48) => "recovered by force",
        (_, kind) => return format!("kind {kind}"),
    }
    .to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
