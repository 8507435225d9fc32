//! Where consumed records are written, one at a time, in the form asked for.

use std::io::{self, Write};

use crate::envelope::{Received, value_text};
use crate::exit::Failure;
use crate::output::Format;
use crate::position::rfc3339;
use crate::template::Template;

enum Layout {
    Values,
    Template(Template),
    Format(Format),
}

/// Writes records; the reader of the output may go away at any time.
pub struct Sink<W: Write> {
    out: W,
    layout: Layout,
    count: u64,
}

impl<W: Write> Sink<W> {
    pub fn new(out: W, format: Option<Format>, template: Option<Template>) -> Self {
        let layout = match (template, format) {
            (Some(template), _) => Layout::Template(template),
            (None, Some(format)) => Layout::Format(format),
            (None, None) => Layout::Values,
        };
        Self { out, layout, count: 0 }
    }

    pub fn write(&mut self, record: &Received<'_>) -> Result<(), Failure> {
        let first = self.count == 0;
        self.count += 1;
        self.write_record(record, first).map_err(|e| Failure::stdout(&e))
    }

    fn write_record(&mut self, record: &Received<'_>, first: bool) -> io::Result<()> {
        let out = &mut self.out;
        match &self.layout {
            Layout::Values => {
                out.write_all(record.value.unwrap_or_default())?;
                out.write_all(b"\n")
            }
            Layout::Template(template) => template.write(record, out),
            Layout::Format(Format::Jsonl) => {
                serde_json::to_writer(&mut *out, record)?;
                out.write_all(b"\n")
            }
            Layout::Format(Format::Json) => {
                out.write_all(if first { b"[\n  " } else { b",\n  " })?;
                serde_json::to_writer(out, record).map_err(Into::into)
            }
            Layout::Format(Format::Yaml) => {
                let text = serde_yaml_ng::to_string(record).map_err(io::Error::other)?;
                write!(out, "---\n{text}")
            }
            Layout::Format(Format::Table) => {
                if first {
                    writeln!(
                        out,
                        "{:>9}  {:>12}  {:<24}  {:<20}  VALUE",
                        "PARTITION", "OFFSET", "TIMESTAMP", "KEY"
                    )?;
                }
                writeln!(
                    out,
                    "{:>9}  {:>12}  {:<24}  {:<20}  {}",
                    record.partition,
                    record.offset,
                    rfc3339(record.timestamp),
                    printable(record.key),
                    printable(record.value),
                )
            }
        }
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|e| Failure::stdout(&e))
    }

    /// Closes what was opened.
    pub fn finish(mut self) -> Result<(), Failure> {
        if matches!(self.layout, Layout::Format(Format::Json)) {
            let end: &[u8] = if self.count == 0 { b"[]\n" } else { b"\n]\n" };
            self.out.write_all(end).map_err(|e| Failure::stdout(&e))?;
        }
        self.flush()
    }
}

/// One line of a table must stay one line, whatever a record holds.
fn printable(bytes: Option<&[u8]>) -> String {
    let text = match bytes {
        None => "-".into(),
        Some(_) => value_text(bytes),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(format: Option<Format>, values: &[&[u8]]) -> String {
        let mut out = Vec::new();
        let mut sink = Sink::new(&mut out, format, None);
        for (offset, value) in (0..).zip(values) {
            let record = Received {
                topic: "t",
                partition: 0,
                offset,
                timestamp: 0,
                key: None,
                value: Some(value),
                headers: Vec::new(),
            };
            sink.write(&record).unwrap();
        }
        sink.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_lines() {
        assert_eq!(written(None, &[b"a", b"", b"b"]), "a\n\nb\n");
        assert_eq!(written(None, &[]), "");
    }

    #[test]
    fn json_is_one_array_however_many_records_there_are() {
        for values in [&[][..], &[b"a".as_slice()], &[b"a", b"\xff"]] {
            let text = written(Some(Format::Json), values);
            let parsed: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(parsed.len(), values.len());
        }
    }

    #[test]
    fn jsonl_and_yaml_are_a_document_a_record() {
        assert_eq!(written(Some(Format::Jsonl), &[b"a", b"b"]).lines().count(), 2);
        let yaml = written(Some(Format::Yaml), &[b"a", b"b"]);
        assert_eq!(yaml.matches("---\n").count(), 2);
        assert!(yaml.contains("value: a\n"));
    }

    #[test]
    fn a_row_of_a_table_is_one_line() {
        let table = written(Some(Format::Table), &[b"a\nb\x1b[31m"]);
        assert_eq!(table.lines().count(), 2);
        assert!(!table.contains('\x1b'));
    }
}
