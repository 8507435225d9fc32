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
    next_offset: i64,
    last_index: Option<u64>,
    max_timestamp: i64,
}

pub fn dump(segment: &InspectedSegment, detail: Detail, printer: &mut Printer) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::file("read", segment.path.display(), &e);
    let mut batches = segment.batches().map_err(failed)?;
    let mut counts = Counts { next_offset: segment.base_offset.0, max_timestamp: -1, ..Counts::default() };
    let mut damage = Vec::new();
    let mut rows = Vec::new();
    let partition = segment.header.as_ref().map_or(-1, |header| header.group.partition.0);
    for batch in &mut batches {
        let row = Row::of(&batch, partition, detail);
        counts.add(&batch);
        damage.extend(flaws(&batch).chain(row.flaw.clone()).map(|flaw| place(segment, &batch, &flaw)));
        if detail >= Detail::Batches {
            rows.push(row);
        }
    }
    let tail = end(segment, &batches, &counts, &mut damage).map_err(failed)?;
    print(segment, &counts, &batches, &rows, tail.as_deref(), &damage, printer)
}

impl Counts {
    fn add(&mut self, batch: &InspectedBatch) {
        let header = &batch.header;
        self.batches += 1;
        self.control += u64::from(header.attributes.is_control());
        self.records += i64::from(header.record_count.max(0));
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
fn end(
    segment: &InspectedSegment,
    batches: &Batches,
    counts: &Counts,
    damage: &mut Vec<String>,
) -> std::io::Result<Option<String>> {
    let at = format!("{} at byte {}", segment.path.display(), batches.position());
    if segment.entries_hold()? == Some(false) {
        damage.push(format!(
            "{}: the index's checksum does not hold",
            segment.path.with_extension("index").display()
        ));
    }
    if let Some(footer) = &segment.footer {
        if counts.batches != u64::from(footer.entry_count) || batches.position() != footer.data_bytes {
            damage.push(format!(
                "{at}: {} of {} batches can be read, {} of {}",
                counts.batches,
                footer.entry_count,
                bytes(batches.position()),
                bytes(footer.data_bytes)
            ));
        }
        return Ok(None);
    }
    let leftover = batches.leftover_bytes();
    if batches.is_indexed() {
        damage.push(format!("{at}: the index knows a batch here, but none can be read"));
    } else if leftover > 0 {
        return Ok(Some(format!(
            "ends in {} that are no whole batch: torn by a crash (the next start cuts them off), or being written now",
            bytes(leftover)
        )));
    }
    Ok(None)
}

fn print(
    segment: &InspectedSegment,
    counts: &Counts,
    batches: &Batches,
    rows: &[Row],
    tail: Option<&str>,
    damage: &[String],
    printer: &mut Printer,
) -> Result<(), Failure> {
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
        "data_bytes": batches.position(),
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
            bytes(batches.position()),
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
