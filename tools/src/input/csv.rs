//! CSV with a header row: each row becomes a JSON object with the columns in their order.

use std::io::Read;

use bytes::Bytes;

use super::{InputError, InputRecord, Layout, RECORD_BYTES_MAX, RecordReader};

pub struct CsvReader<'a> {
    rows: ::csv::Reader<Box<dyn Read + 'a>>,
    name: String,
    layout: &'a Layout,
    columns: Option<Columns>,
    row: ::csv::StringRecord,
}

struct Columns {
    names: Vec<String>,
    key: Option<usize>,
    value: Option<usize>,
}

impl<'a> CsvReader<'a> {
    pub fn new(source: Box<dyn Read + 'a>, name: &str, layout: &'a Layout) -> Self {
        let rows = ::csv::ReaderBuilder::new().buffer_capacity(256 << 10).from_reader(source);
        Self { rows, name: name.to_string(), layout, columns: None, row: ::csv::StringRecord::new() }
    }

    fn error(&self, line: u64, reason: String) -> InputError {
        InputError { source_name: self.name.clone(), line, reason }
    }

    fn csv_error(&self, error: &::csv::Error) -> InputError {
        let line = error.position().map_or(0, ::csv::Position::line);
        let reason = match error.kind() {
            ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} cells, but the header row has {expected_len}")
            }
            ::csv::ErrorKind::Utf8 { err, .. } => format!("not UTF-8: {err}"),
            ::csv::ErrorKind::Io(e) => format!("cannot be read: {e}"),
            _ => error.to_string(),
        };
        self.error(line, reason)
    }

    fn columns(&mut self) -> Result<(), InputError> {
        let names: Vec<String> = match self.rows.headers() {
            Ok(row) => row.iter().map(String::from).collect(),
            Err(e) => return Err(self.csv_error(&e)),
        };
        let find = |wanted: &Option<String>| match wanted {
            None => Ok(None),
            Some(wanted) => names.iter().position(|name| name == wanted).map(Some).ok_or_else(|| {
                self.error(1, format!("no column `{wanted}`; the columns are {}", names.join(", ")))
            }),
        };
        // An empty input has no header row and no rows either.
        let (key, value) = if names.is_empty() {
            (None, None)
        } else {
            (find(&self.layout.key_field)?, find(&self.layout.value_field)?)
        };
        self.columns = Some(Columns { names, key, value });
        Ok(())
    }
}

impl RecordReader for CsvReader<'_> {
    fn next_record(&mut self) -> Result<Option<(u64, InputRecord)>, InputError> {
        if self.columns.is_none() {
            self.columns()?;
        }
        let more = self.rows.read_record(&mut self.row).map_err(|e| self.csv_error(&e))?;
        let Some(columns) = self.columns.as_ref().filter(|_| more) else { return Ok(None) };
        let line = self.row.position().map_or(0, ::csv::Position::line);
        if self.row.as_slice().len() > RECORD_BYTES_MAX {
            return Err(self.error(line, format!("longer than {RECORD_BYTES_MAX} bytes")));
        }
        let cell = |at: usize| self.row.get(at).map(|cell| Bytes::copy_from_slice(cell.as_bytes()));
        let value = match columns.value {
            Some(at) => cell(at),
            None => Some(object(&columns.names, &self.row)),
        };
        // As in JSON, where a missing key is null: an empty cell is no key.
        let key = columns.key.and_then(cell).filter(|key| !key.is_empty());
        Ok(Some((line, InputRecord { key, value, ..InputRecord::default() })))
    }
}

/// `{"column":"cell",...}`. Cells stay text: what looks like a number may be a code with leading zeros.
fn object(names: &[String], row: &::csv::StringRecord) -> Bytes {
    let mut text = String::with_capacity(row.as_slice().len() * 2 + 2);
    text.push('{');
    for (n, (name, cell)) in names.iter().zip(row).enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::Value::from(name.as_str()).to_string());
        text.push(':');
        text.push_str(&serde_json::Value::from(cell).to_string());
    }
    text.push('}');
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::tests::read_all;
    use super::super::{InputFormat, Layout};

    fn layout(key: Option<&str>, value: Option<&str>) -> Layout {
        Layout {
            format: InputFormat::Csv,
            key_field: key.map(String::from),
            value_field: value.map(String::from),
            ..Layout::default()
        }
    }

    #[test]
    fn a_row_is_an_object_with_the_columns_in_order() {
        let text = b"id,name\n1,\"a, \"\"b\"\"\nc\"\n,x\n";
        let (records, error) = read_all(text, &layout(Some("id"), None));
        assert_eq!(error, None);
        assert_eq!(records[0].key.as_deref(), Some(b"1".as_slice()));
        assert_eq!(records[0].value.as_deref(), Some(br#"{"id":"1","name":"a, \"b\"\nc"}"#.as_slice()));
        assert_eq!(records[1].key, None, "an empty cell is no key");
        let (records, _) = read_all(text, &layout(None, Some("name")));
        assert_eq!(records[1].value.as_deref(), Some(b"x".as_slice()));
    }

    #[test]
    fn a_bad_row_ends_the_input_and_names_its_line() {
        let (records, error) = read_all(b"a,b\n1,2\n3\n", &layout(None, None));
        assert_eq!(records.len(), 1);
        let error = error.unwrap();
        assert_eq!((error.line, error.reason.as_str()), (3, "1 cells, but the header row has 2"));
        let (_, error) = read_all(b"a,b\n1,\xff\n", &layout(None, None));
        assert!(error.unwrap().reason.contains("UTF-8"));
        let (_, error) = read_all(b"a,b\n1,2\n", &layout(Some("c"), None));
        assert!(error.unwrap().reason.contains("the columns are a, b"));
    }

    #[test]
    fn an_empty_input_has_no_records() {
        assert_eq!(read_all(b"", &layout(Some("id"), None)), (vec![], None));
        assert_eq!(read_all(b"id\n", &layout(Some("id"), None)), (vec![], None));
    }

    proptest! {
        #[test]
        fn every_cell_survives(rows in proptest::collection::vec(("\\PC*", "[a-z\"',\n]*"), 1..10)) {
            let mut writer = ::csv::Writer::from_writer(Vec::new());
            writer.write_record(["a", "b"]).unwrap();
            for (a, b) in &rows {
                writer.write_record([a, b]).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let (records, error) = read_all(&text, &layout(None, None));
            prop_assert_eq!(error, None);
            let read: Vec<(String, String)> = records
                .iter()
                .map(|r| {
                    let object: serde_json::Value = serde_json::from_slice(r.value.as_ref().unwrap()).unwrap();
                    (object["a"].as_str().unwrap().to_string(), object["b"].as_str().unwrap().to_string())
                })
                .collect();
            prop_assert_eq!(read, rows);
        }
    }
}
