//! Records out of lines, JSON Lines, envelopes and CSV.
//!
//! Invariants: memory is bounded by the longest record allowed; a record is handed on as soon as
//! the input has no more bytes at the moment, so that `tail -f | streamctl produce` never lags.

mod csv;
mod feed;
mod fields;
mod lines;

use std::fmt;
use std::io::Read;

use bytes::Bytes;

pub use feed::{Chunk, FeedOptions, feed};

/// Longest line or row. The broker's own limit is far below; this one bounds our memory.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// A record as the user gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputRecord {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the epoch; now, when there is none.
    pub timestamp: Option<i64>,
    pub partition: Option<i32>,
}

/// How to read the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum InputFormat {
    /// Each line is a value.
    #[default]
    Lines,
    /// Each line is an envelope, as `consume -o jsonl` writes it.
    Jsonl,
    /// The first row names the columns; each other row becomes a JSON object.
    Csv,
}

/// What becomes key and value.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub format: InputFormat,
    /// Field (of a JSON object) or column that holds the key.
    pub key_field: Option<String>,
    /// Field or column that is the value; else the whole line or row.
    pub value_field: Option<String>,
    /// What stands between key and value on a line.
    pub key_separator: Option<Vec<u8>>,
}

/// Where in the input something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InputError {
    pub source_name: String,
    /// From 1; 0 when the source as a whole is meant.
    pub line: u64,
    pub reason: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.source_name, self.reason),
            line => write!(f, "{} line {line}: {}", self.source_name, self.reason),
        }
    }
}

/// One source of records.
trait RecordReader {
    /// The next record with its line, `None` at the end. Stops for good at the first error.
    fn next_record(&mut self) -> Result<Option<(u64, InputRecord)>, InputError>;
}

fn open<'a>(source: Box<dyn Read + 'a>, name: &str, layout: &'a Layout) -> Box<dyn RecordReader + 'a> {
    match layout.format {
        InputFormat::Csv => Box::new(csv::CsvReader::new(source, name, layout)),
        InputFormat::Lines | InputFormat::Jsonl => Box::new(lines::LineReader::new(source, name, layout)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Everything in `text`, and the error that ended it.
    pub fn read_all(text: &[u8], layout: &Layout) -> (Vec<InputRecord>, Option<InputError>) {
        let mut reader = open(Box::new(text), "test", layout);
        let mut records = Vec::new();
        loop {
            match reader.next_record() {
                Ok(Some((_, record))) => records.push(record),
                Ok(None) => return (records, None),
                Err(e) => return (records, Some(e)),
            }
        }
    }

    #[test]
    fn an_error_names_source_and_line() {
        let error = InputError { source_name: "a.csv".into(), line: 3, reason: "broken".into() };
        assert_eq!(error.to_string(), "a.csv line 3: broken");
        assert_eq!(InputError { line: 0, ..error }.to_string(), "a.csv: broken");
    }
}
