//! Lines as values, with a key in front or in a field; and envelopes, one a line.

use std::io::{BufRead, BufReader, Read};

use bytes::Bytes;

use super::{InputError, InputFormat, InputRecord, Layout, RECORD_BYTES_MAX, RecordReader, fields};
use crate::envelope;

const READ_BYTES: usize = 256 << 10;

pub struct LineReader<'a> {
    source: BufReader<Box<dyn Read + 'a>>,
    name: String,
    layout: &'a Layout,
    line: Vec<u8>,
    number: u64,
}

impl<'a> LineReader<'a> {
    pub fn new(source: Box<dyn Read + 'a>, name: &str, layout: &'a Layout) -> Self {
        let source = BufReader::with_capacity(READ_BYTES, source);
        Self { source, name: name.to_string(), layout, line: Vec::new(), number: 0 }
    }

    /// Reads a line without its newline; false at the end. A last line needs no newline.
    fn next_line(&mut self) -> Result<bool, InputError> {
        self.line.clear();
        self.number += 1;
        let limit = RECORD_BYTES_MAX as u64 + 1;
        let read = (&mut self.source).take(limit).read_until(b'\n', &mut self.line);
        let read = read.map_err(|e| self.error(format!("cannot be read: {e}")))?;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if self.line.len() > RECORD_BYTES_MAX {
            return Err(self.error(format!("longer than {RECORD_BYTES_MAX} bytes")));
        }
        Ok(read > 0)
    }

    fn error(&self, reason: String) -> InputError {
        InputError { source_name: self.name.clone(), line: self.number, reason }
    }

    fn record(&self) -> Result<InputRecord, String> {
        if self.layout.format == InputFormat::Jsonl {
            return envelope::parse(&self.line);
        }
        if self.layout.key_field.is_some() || self.layout.value_field.is_some() {
            let picked = fields::pick(
                &self.line,
                self.layout.key_field.as_deref(),
                self.layout.value_field.as_deref(),
            )?;
            let value =
                if self.layout.value_field.is_some() { picked.value } else { Some(whole(&self.line)) };
            return Ok(InputRecord { key: picked.key, value, ..InputRecord::default() });
        }
        let (key, value) = match &self.layout.key_separator {
            Some(separator) => split(&self.line, separator),
            None => (None, whole(&self.line)),
        };
        Ok(InputRecord { key, value: Some(value), ..InputRecord::default() })
    }

    /// Blank lines carry nothing where lines are JSON; as plain lines they are empty values.
    fn skips_blank(&self) -> bool {
        self.layout.format == InputFormat::Jsonl
            || self.layout.key_field.is_some()
            || self.layout.value_field.is_some()
    }
}

impl RecordReader for LineReader<'_> {
    fn next_record(&mut self) -> Result<Option<(u64, InputRecord)>, InputError> {
        while self.next_line()? {
            if self.skips_blank() && self.line.trim_ascii().is_empty() {
                continue;
            }
            let record = self.record().map_err(|reason| self.error(reason))?;
            return Ok(Some((self.number, record)));
        }
        Ok(None)
    }
}

fn whole(line: &[u8]) -> Bytes {
    Bytes::copy_from_slice(line)
}

/// Key and value around the first separator; no key where there is none.
fn split(line: &[u8], separator: &[u8]) -> (Option<Bytes>, Bytes) {
    match line.windows(separator.len().max(1)).position(|window| window == separator) {
        Some(at) => (Some(whole(&line[..at])), whole(&line[at + separator.len()..])),
        None => (None, whole(line)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::super::tests::read_all;
    use super::*;

    fn values(text: &[u8], layout: &Layout) -> Vec<Vec<u8>> {
        let (records, error) = read_all(text, layout);
        assert_eq!(error, None);
        records.into_iter().map(|r| r.value.unwrap().to_vec()).collect()
    }

    #[test]
    fn a_key_is_taken_from_in_front_of_the_separator() {
        let layout = Layout { key_separator: Some(b"::".to_vec()), ..Layout::default() };
        let (records, _) = read_all(b"k::v::w\nno key\n::empty key\n", &layout);
        let pairs: Vec<_> = records.iter().map(|r| (r.key.as_deref(), r.value.as_deref().unwrap())).collect();
        assert_eq!(
            pairs,
            [
                (Some(b"k".as_slice()), b"v::w".as_slice()),
                (None, b"no key".as_slice()),
                (Some(b"".as_slice()), b"empty key".as_slice())
            ]
        );
    }

    #[test]
    fn a_key_field_leaves_the_line_as_it_is() {
        let layout = Layout { key_field: Some("tailnum".into()), ..Layout::default() };
        let (records, error) = read_all(b"{\"tailnum\": \"N1\" }\n\n{\"tailnum\":null}\nnot json\n", &layout);
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].key.as_deref(), Some(b"N1".as_slice()));
        assert_eq!(records[0].value.as_deref(), Some(b"{\"tailnum\": \"N1\" }".as_slice()));
        assert_eq!(records[1].key, None);
        assert_eq!(error.unwrap().line, 4, "blank lines count");
    }

    #[test]
    fn an_envelope_a_line() {
        let layout = Layout { format: InputFormat::Jsonl, ..Layout::default() };
        let (records, error) = read_all(b"{\"key\":\"a\",\"value\":\"b\"}\n \n{\"value\":1}", &layout);
        assert_eq!(error, None);
        assert_eq!(records[1].value.as_deref(), Some(b"1".as_slice()));
    }

    #[test]
    fn a_line_beyond_the_limit_is_an_error_and_not_memory() {
        let endless = std::io::repeat(b'x').take(RECORD_BYTES_MAX as u64 * 2);
        let layout = Layout::default();
        let mut reader = LineReader::new(Box::new(endless), "endless", &layout);
        assert!(reader.next_record().unwrap_err().reason.contains("longer than"));
    }

    proptest! {
        #[test]
        fn lines_come_back_as_they_were(lines in proptest::collection::vec("[^\n]*", 0..20), last_newline: bool) {
            let mut text = lines.join("\n");
            // An empty last line without its newline is no line.
            if last_newline && !lines.is_empty() || lines.last().is_some_and(String::is_empty) {
                text.push('\n');
            }
            let expected: Vec<_> = lines.iter().map(|l| l.clone().into_bytes()).collect();
            prop_assert_eq!(values(text.as_bytes(), &Layout::default()), expected);
        }
    }
}
