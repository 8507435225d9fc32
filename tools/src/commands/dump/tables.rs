//! State tables: what a state machine knew at a point of its log.

use std::io;
use std::path::Path;

use bytes::Bytes;
use headwater_storage::inspect;
use serde_json::json;

use super::printer::Printer;
use crate::exit::Failure;
use crate::output::bytes;

pub fn dump(path: &Path, printer: &mut Printer) -> Result<(), Failure> {
    let content = match std::fs::read(path) {
        // A broker that runs keeps only the newest ones.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        content => content.map_err(|e| Failure::file("read", path.display(), &e))?,
    };
    let file_bytes = content.len() as u64;
    let found = inspect::tables(&Bytes::from(content));
    let damage: Vec<String> = match found {
        Some(_) => Vec::new(),
        None => vec![format!("{}: not whole; a start passes it over and replays more", path.display())],
    };
    let at = found.as_ref().map(|(id, _)| id);
    let data = json!({
        "kind": "tables",
        "file": path,
        "term": at.map(|id| id.term.0),
        "log_index": at.map(|id| id.index.0),
        "content_bytes": found.as_ref().map(|(_, content)| content.len()),
        "file_bytes": file_bytes,
        "damage": damage,
    });
    printer.item(data, &damage, |page| {
        page.line(format!("tables {}", path.display()));
        if let Some((id, content)) = &found {
            let size = bytes(content.len() as u64);
            page.line(format!("  state after log index {} of term {}, {size}", id.index, id.term));
        }
    })
}
