//! `--template '{key}\t{value}'`: a line for each record, as the caller lays it out.

use std::io::{self, Write};

use crate::envelope::{Received, value_text};
use crate::position::rfc3339;
use crate::text::escape;

/// What `--help` says about templates.
pub const TEMPLATE_HELP: &str = "\
Templates (--template):
  {topic} {partition} {offset} {key} {value} {headers} {header:NAME}
  {timestamp} (RFC 3339) {timestamp_ms} {key:base64} {value:base64} {key:len} {value:len}
  \\t \\n \\r \\0 \\xHH \\\\ \\{ \\} are escapes; a newline follows each record unless the template ends with \\c";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampMs,
    Key(Shape),
    Value(Shape),
    Headers,
    Header(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Raw,
    Base64,
    Len,
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl std::str::FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, newline) = match text.strip_suffix("\\c") {
            // An escaped backslash before the `c` is a literal `\c`.
            Some(start) if trailing_backslashes(start).is_multiple_of(2) => (start, false),
            _ => (text, true),
        };
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => literal.push(escape(&mut chars)?),
                '{' => {
                    let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
                    // `take_while` ate the brace if there was one.
                    if !text[..text.len() - chars.as_str().len()].ends_with('}') {
                        return Err(format!("`{{{name}` has no closing brace: write \\{{ for a brace"));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(field(&name)?);
                }
                '}' => return Err("a closing brace without an opening one: write \\}".to_string()),
                c => literal.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if newline {
            literal.push(b'\n');
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }
}

fn trailing_backslashes(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

fn field(name: &str) -> Result<Part, String> {
    Ok(match name {
        "topic" => Part::Topic,
        "partition" => Part::Partition,
        "offset" => Part::Offset,
        "timestamp" => Part::Timestamp,
        "timestamp_ms" => Part::TimestampMs,
        "key" => Part::Key(Shape::Raw),
        "key:base64" => Part::Key(Shape::Base64),
        "key:len" => Part::Key(Shape::Len),
        "value" => Part::Value(Shape::Raw),
        "value:base64" => Part::Value(Shape::Base64),
        "value:len" => Part::Value(Shape::Len),
        "headers" => Part::Headers,
        _ => match name.strip_prefix("header:") {
            Some(header) if !header.is_empty() => Part::Header(header.to_string()),
            _ => {
                return Err(format!(
                    "`{{{name}}}` is no field of a record; `streamctl consume --help` lists them"
                ));
            }
        },
    })
}

impl Template {
    /// Writes one record. Absent keys and values are empty; their length is -1.
    pub fn write(&self, record: &Received<'_>, out: &mut impl Write) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Literal(bytes) => out.write_all(bytes)?,
                Part::Topic => out.write_all(record.topic.as_bytes())?,
                Part::Partition => write!(out, "{}", record.partition)?,
                Part::Offset => write!(out, "{}", record.offset)?,
                Part::Timestamp => out.write_all(rfc3339(record.timestamp).as_bytes())?,
                Part::TimestampMs => write!(out, "{}", record.timestamp)?,
                Part::Key(shape) => shape.write(record.key, out)?,
                Part::Value(shape) => shape.write(record.value, out)?,
                Part::Headers => write_headers(record, out)?,
                Part::Header(name) => {
                    let found = record.headers.iter().rev().find(|(key, _)| *key == name.as_bytes());
                    out.write_all(found.and_then(|(_, value)| *value).unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }
}

impl Shape {
    fn write(self, bytes: Option<&[u8]>, out: &mut impl Write) -> io::Result<()> {
        match (self, bytes) {
            (Self::Raw, bytes) => out.write_all(bytes.unwrap_or_default()),
            (Self::Base64, bytes) => {
                out.write_all(crate::envelope::base64(bytes.unwrap_or_default()).as_bytes())
            }
            (Self::Len, Some(bytes)) => write!(out, "{}", bytes.len()),
            (Self::Len, None) => out.write_all(b"-1"),
        }
    }
}

fn write_headers(record: &Received<'_>, out: &mut impl Write) -> io::Result<()> {
    for (n, (key, value)) in record.headers.iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        write!(out, "{comma}{}={}", String::from_utf8_lossy(key), value_text(*value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, record: &Received<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        template.parse::<Template>().unwrap().write(record, &mut out).unwrap();
        out
    }

    fn record<'a>(headers: &'a [(&'a [u8], Option<&'a [u8]>)]) -> Received<'a> {
        Received {
            topic: "flights",
            partition: 3,
            offset: 42,
            timestamp: 1_767_225_600_000,
            key: Some(b"N1\xff"),
            value: Some(b"v"),
            headers: headers.to_vec(),
        }
    }

    #[test]
    fn fields_and_escapes_are_filled_in() {
        let headers: [(&[u8], Option<&[u8]>); 3] = [(b"a", Some(b"1")), (b"b", None), (b"a", Some(b"2"))];
        let record = record(&headers);
        assert_eq!(render(r"{key}\t{value}", &record), b"N1\xff\tv\n");
        assert_eq!(render(r"{topic}/{partition}@{offset} \{x\}\c", &record), b"flights/3@42 {x}");
        assert_eq!(
            render("{timestamp}|{timestamp_ms}", &record),
            b"2026-01-01T00:00:00.000Z|1767225600000\n"
        );
        assert_eq!(render("{header:a}{header:none}{header:b}|{headers}", &record), b"2|a=1,b=,a=2\n");
        assert_eq!(render("{key:base64} {key:len}", &record), b"TjH/ 3\n");
        assert_eq!(render(r"\\c", &record), b"\\c\n", "an escaped backslash is no \\c");
    }

    #[test]
    fn a_null_is_empty_and_has_no_length() {
        let record = Received { key: None, value: None, ..record(&[]) };
        assert_eq!(render("[{key}][{value}][{key:len}]", &record), b"[][][-1]\n");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for bad in ["{", "{key", "}", "{}", "{nothing}", "{header:}", r"\q", r"{key}\"] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn literal_text_comes_out_as_it_is(text in "[^\\\\{}]*") {
            prop_assert_eq!(render(&text, &record(&[])), format!("{text}\n").into_bytes());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[\\\\{}a-z:é]{0,24}") {
            let _ = text.parse::<Template>();
        }

        #[test]
        fn any_bytes_of_a_record_come_out_unchanged(key: Vec<u8>, value: Vec<u8>) {
            let record = Received { key: Some(&key), value: Some(&value), ..record(&[]) };
            let mut expected = key.clone();
            expected.push(0);
            expected.extend_from_slice(&value);
            prop_assert_eq!(render(r"{key}\0{value}\c", &record), expected);
        }
    }
}
