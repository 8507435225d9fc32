//! One segment: its batches walked from the first to the last, each checked.

use headwater_storage::inspect::{Batches, IndexState, InspectedBatch, InspectedSegment};
use serde_json::{Value, json};

use super::Detail;
use super::batches::{Row, headings};
use super::printer::Printer;
use crate::exit::Failure;
use crate::output::{bytes, counted, grouped};
use crate::position::rfc3339;

/// What the walk has counted.
#[derive(Debug, Default)]
struct Counts {
    batches: u64,
    control: u64,
    records: i64,
    /// Where the last batch ends.
    data_bytes: u64,
    next_offset: i64,
    last_index: Option<u64>,
    max_timestamp: i64,
}

/// What is found on the way.
#[derive(Debug, Default)]
struct Found {
    counts: Counts,
    rows: Vec<Row>,
    damage: Vec<String>,
}

pub fn dump(segment: &InspectedSegment, detail: Detail, printer: &mut Printer) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::file("read", segment.path.display(), &e);
    let mut batches = segment.batches().map_err(failed)?;
    let counts = Counts { next_offset: segment.base_offset.0, max_timestamp: -1, ..Counts::default() };
    let mut found = Found { counts, ..Found::default() };
    // One is held back: only of the last one is it a question whether it was ever finished.
    let mut last = batches.next();
    while let Some(batch) = last.take() {
        last = batches.next();
        if last.is_some() || !is_unfinished(segment, &batch, &batches).map_err(failed)? {
            found.take(segment, &batch, detail);
        }
    }
    let tail = end(segment, &batches, &mut found).map_err(failed)?;
    print(segment, &found, tail.as_deref(), printer)
}

/// Whether the last batch of a segment was still being written: by a broker that crashed, or that runs.
fn is_unfinished(
    segment: &InspectedSegment,
    batch: &InspectedBatch,
    batches: &Batches,
) -> std::io::Result<bool> {
    let unproven = segment.footer.is_none() && batch.index_state == IndexState::Absent && !batch.crc_holds;
    Ok(unproven && batches.leftover_bytes()? == 0)
}

impl Found {
    fn take(&mut self, segment: &InspectedSegment, batch: &InspectedBatch, detail: Detail) {
        let partition = segment.header.as_ref().map_or(-1, |header| header.group.partition.0);
        let row = Row::of(batch, partition, detail);
        self.counts.add(batch);
        self.damage.extend(flaws(batch).chain(row.flaw.clone()).map(|flaw| place(segment, batch, &flaw)));
        if detail >= Detail::Batches {
            self.rows.push(row);
        }
    }
}

impl Counts {
    fn add(&mut self, batch: &InspectedBatch) {
        let header = &batch.header;
        self.batches += 1;
        self.control += u64::from(header.attributes.is_control());
        self.records += i64::from(header.record_count.max(0));
        self.data_bytes = batch.position + batch.bytes.len() as u64;
        self.next_offset = header.base_offset + header.offset_count();
        self.last_index = batch.index.map(|index| index.0);
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }
}

fn flaws(batch: &InspectedBatch) -> impl Iterator<Item = String> {
    let header = &batch.header;
    let short = header.size_bytes().is_none_or(|size| size != batch.bytes.len());
    let crc = !short && !batch.crc_holds;
    [
        short.then(|| "the file ends within the batch".to_string()),
        crc.then(|| "the CRC does not hold: its records are not what was produced".to_string()),
        (!batch.follows)
            .then(|| format!("base offset {} does not follow what is before it", header.base_offset)),
        (batch.index_state == IndexState::Contradicts).then(|| "the index says otherwise".to_string()),
    ]
    .into_iter()
    .flatten()
}

fn place(segment: &InspectedSegment, batch: &InspectedBatch, flaw: &str) -> String {
    let index = batch.index.map_or_else(String::new, |index| format!(", log index {index}"));
    format!(
        "{} at byte {} (offset {}{index}): {flaw}",
        segment.path.display(),
        batch.position,
        batch.header.base_offset
    )
}

/// Whether the segment ends as it should; what is only unfinished is returned as a remark.
fn end(segment: &InspectedSegment, batches: &Batches, found: &mut Found) -> std::io::Result<Option<String>> {
    let Found { counts, damage, .. } = found;
    let at = format!("{} at byte {}", segment.path.display(), counts.data_bytes);
    if segment.entries_hold()? == Some(false) {
        let index = segment.path.with_extension("index");
        damage.push(format!("{}: the index's checksum does not hold", index.display()));
    }
    if let Some(footer) = &segment.footer {
        if counts.batches != u64::from(footer.entry_count) || batches.position() != footer.data_bytes {
            damage.push(format!(
                "{at}: {} of {} batches can be read, {} of {}",
                counts.batches,
                footer.entry_count,
                bytes(counts.data_bytes),
                bytes(footer.data_bytes)
            ));
        }
        return Ok(None);
    }
    let unfinished = batches.position() - counts.data_bytes + batches.leftover_bytes()?;
    if batches.is_indexed() {
        damage.push(format!("{at}: the index knows a batch here, but none can be read"));
    } else if unfinished > 0 {
        return Ok(Some(format!(
            "ends in {} that are no whole batch: torn by a crash (the next start cuts them off), or being written now",
            bytes(unfinished)
        )));
    }
    Ok(None)
}

fn print(
    segment: &InspectedSegment,
    found: &Found,
    tail: Option<&str>,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let Found { counts, rows, damage } = found;
    let header = segment.header.as_ref();
    let mut data = json!({
        "kind": "segment",
        "file": segment.path,
        "group": header.map(|h| h.group.to_string()),
        "generation": segment.generation,
        "base_offset": segment.base_offset.0,
        "next_offset": counts.next_offset,
        "first_log_index": header.map(|h| h.first_index.0),
        "last_log_index": counts.last_index,
        "sealed": segment.footer.is_some(),
        "batches": counts.batches,
        "control_batches": counts.control,
        "records": counts.records,
        "data_bytes": counts.data_bytes,
        "file_bytes": segment.file_bytes,
        "max_timestamp": counts.max_timestamp,
        "tail": tail,
        "damage": damage,
    });
    if let (Value::Object(data), false) = (&mut data, rows.is_empty()) {
        data.insert("batch_list".to_string(), rows.iter().map(|row| row.data.clone()).collect());
    }
    printer.item(data, damage, |page| {
        let state = if segment.footer.is_some() { "sealed" } else { "active" };
        page.line(format!("segment {} ({state})", segment.path.display()));
        let group = header.map_or_else(
            || "index file missing or of another log".to_string(),
            |h| format!("group {}", h.group),
        );
        let indexes = match (header, counts.last_index) {
            (Some(h), Some(last)) => format!(", log index {} to {last}", h.first_index),
            _ => String::new(),
        };
        page.line(format!(
            "  {group}{indexes}, offsets {} up to {}",
            grouped(segment.base_offset.0),
            grouped(counts.next_offset)
        ));
        let latest = if counts.max_timestamp < 0 {
            String::new()
        } else {
            format!(", latest {}", rfc3339(counts.max_timestamp))
        };
        page.line(format!(
            "  {} batches ({} control), {}, {} of a file of {}{latest}",
            grouped(counts.batches),
            grouped(counts.control),
            counted(counts.records.unsigned_abs(), "record"),
            bytes(counts.data_bytes),
            bytes(segment.file_bytes),
        ));
        if !rows.is_empty() {
            page.table(&headings(), rows.iter().flat_map(Row::lines));
        }
        if let Some(tail) = tail {
            page.line(format!("  {tail}"));
        }
    })
}
