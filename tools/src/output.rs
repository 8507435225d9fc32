//! The single place where a result becomes text.
//!
//! Invariants: `json`, `jsonl` and `yaml` print the same fields, numbers raw; only `table` is for
//! people, and only on a terminal, without NO_COLOR, does it carry colour. Results go to standard
//! output, everything else to standard error.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: aligned columns.
    #[default]
    Table,
    /// One JSON document, indented.
    Json,
    /// One JSON document a line; a list gives a line for each of its items.
    Jsonl,
    Yaml,
}

/// Where a command prints, and how.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    pub quiet: bool,
}

impl Output {
    /// Prints a result: `data` to machines, what `human` writes to people.
    pub fn report<T: Serialize>(&self, data: &T, human: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        let text = match self.format {
            Format::Table => {
                let mut page = Page { text: String::new(), bold: colour(&io::stdout()) };
                human(&mut page);
                page.text
            }
            _ => machine(self.format, data)?,
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| Failure::stdout(&e))
    }

    /// Prints a failure on standard error, as JSON where results are JSON.
    pub fn failure(format: Format, failure: &Failure) {
        if failure.is_quiet() {
            return;
        }
        let text = match format {
            Format::Json | Format::Jsonl => failure.to_json().to_string(),
            Format::Table | Format::Yaml => {
                let (start, end) = if colour(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
                let hint = failure.hint.as_ref().map_or_else(String::new, |hint| format!("\n  hint: {hint}"));
                format!("{start}error:{end} {}{hint}", failure.message)
            }
        };
        // Nothing is left to do when standard error is gone as well.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Tells a person on standard error; silent with --quiet and for machines.
    pub fn note(&self, text: impl Display) {
        if !self.quiet && self.format == Format::Table {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

fn machine<T: Serialize>(format: Format, data: &T) -> Result<String, Failure> {
    let failed = |e: &dyn Display| Failure::new(Exit::Failure, format!("cannot encode the result: {e}"));
    let value = serde_json::to_value(data).map_err(|e| failed(&e))?;
    Ok(match format {
        Format::Json => format!("{value:#}\n"),
        Format::Jsonl => match value {
            serde_json::Value::Array(items) => {
                items.iter().fold(String::new(), |text, item| text + &format!("{item}\n"))
            }
            value => format!("{value}\n"),
        },
        Format::Yaml | Format::Table => serde_yaml_ng::to_string(&value).map_err(|e| failed(&e))?,
    })
}

/// Whether a stream may carry colour: <https://no-color.org>.
pub fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text for people.
#[derive(Debug)]
pub struct Page {
    text: String,
    bold: bool,
}

impl Page {
    pub fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.text, "{text}");
    }

    /// `name: value` lines with the values aligned.
    pub fn fields(&mut self, fields: &[(&str, String)]) {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
        for (name, value) in fields {
            let _ = writeln!(self.text, "{:width$} {value}", format!("{name}:"));
        }
    }

    /// Columns under a heading each; a column whose heading starts with `>` is flushed right.
    pub fn table(&mut self, headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|h| h.trim_start_matches('>')));
        for row in rows {
            table.add_row(row);
        }
        for (heading, column) in headings.iter().zip(table.column_iter_mut()) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for (n, line) in table.lines().enumerate() {
            let line = line.trim_end();
            let _ = if n == 0 && self.bold {
                writeln!(self.text, "\x1b[1m{line}\x1b[0m")
            } else {
                writeln!(self.text, "{line}")
            };
        }
    }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn grouped(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in powers of ten, as disks are sold and as the benchmarks count.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// "1 record", "2 records".
#[must_use]
pub fn counted(count: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(336_776), "336,776");
        assert_eq!(grouped(-1_234_567), "-1,234,567");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bytes_move_to_the_next_unit_instead_of_showing_a_thousand() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_949), "999.9 kB");
        assert_eq!(bytes(999_950), "1.0 MB");
        assert_eq!(bytes(12_345_678), "12.3 MB");
    }

    #[test]
    fn a_list_is_one_document_in_json_and_one_line_an_item_in_jsonl() {
        let list = [serde_json::json!({"a": 1}), serde_json::json!({"a": 2})];
        assert_eq!(machine(Format::Jsonl, &list).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(machine(Format::Yaml, &list).unwrap(), "- a: 1\n- a: 2\n");
        let json: serde_json::Value = serde_json::from_str(&machine(Format::Json, &list).unwrap()).unwrap();
        assert_eq!(json, serde_json::json!([{"a": 1}, {"a": 2}]));
    }

    #[test]
    fn a_table_is_aligned_without_trailing_blanks() {
        let mut page = Page { text: String::new(), bold: false };
        page.table(
            &["NAME", ">SIZE"],
            [vec!["a".into(), "1".into()], vec!["long name".into(), "1,000".into()]],
        );
        assert_eq!(page.text, "NAME        SIZE\na              1\nlong name  1,000\n");
    }
}
