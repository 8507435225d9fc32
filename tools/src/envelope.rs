//! A record as a JSON object, out of `consume -o jsonl` and into `produce --format jsonl`.
//!
//! Invariant: what the one writes, the other reads back byte for byte. Bytes that are not UTF-8 travel as
//! base64, marked by a field of the same name with `_encoding` behind it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::input::InputRecord;

const BASE64: &str = "base64";

/// A record as it came from the broker.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

#[derive(Debug, Serialize)]
struct Envelope<'a> {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    headers: Vec<HeaderOut<'a>>,
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct HeaderOut<'a> {
    key: Cow<'a, str>,
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
}

impl Serialize for Received<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, key_encoding) = encoded(self.key);
        let (value, value_encoding) = encoded(self.value);
        let headers = self.headers.iter().map(|(key, value)| {
            let (value, value_encoding) = encoded(*value);
            HeaderOut { key: String::from_utf8_lossy(key), value, value_encoding }
        });
        Envelope {
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key,
            key_encoding,
            headers: headers.collect(),
            value,
            value_encoding,
        }
        .serialize(serializer)
    }
}

fn encoded(bytes: Option<&[u8]>) -> (Option<Cow<'_, str>>, Option<&'static str>) {
    match bytes.map(std::str::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(Cow::Borrowed(text)), None),
        Some(Err(_)) => (bytes.map(|b| Cow::Owned(base64(b))), Some(BASE64)),
    }
}

/// Bytes as text for people: base64 where they are not UTF-8, nothing where there are none.
#[must_use]
pub fn value_text(bytes: Option<&[u8]>) -> Cow<'_, str> {
    encoded(bytes).0.unwrap_or_default()
}

#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[derive(Debug, Deserialize)]
struct EnvelopeIn<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_encoding: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_encoding: Option<Cow<'a, str>>,
    #[serde(default)]
    headers: Vec<HeaderIn<'a>>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(default)]
    partition: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct HeaderIn<'a> {
    key: String,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_encoding: Option<Cow<'a, str>>,
}

/// Reads an envelope. A key or value that is not a string is taken as the JSON text that it is.
pub fn parse(line: &[u8]) -> Result<InputRecord, String> {
    const SHAPE: &str = "not an envelope {\"key\":..,\"value\":..,\"headers\":[..],\"timestamp\":..}";
    // Serde would read the fields of an array by their positions.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(format!("{SHAPE}: not a JSON object"));
    }
    let envelope: EnvelopeIn<'_> =
        serde_json::from_slice(line).map_err(|e| format!("{SHAPE}: {}", reason(&e)))?;
    let headers = envelope.headers.into_iter().map(|header| {
        let value = decoded("header value", header.value, header.value_encoding.as_deref())?;
        Ok((header.key, value))
    });
    Ok(InputRecord {
        key: decoded("key", envelope.key, envelope.key_encoding.as_deref())?,
        value: decoded("value", envelope.value, envelope.value_encoding.as_deref())?,
        headers: headers.collect::<Result<_, String>>()?,
        timestamp: envelope.timestamp,
        partition: envelope.partition,
    })
}

/// The reason without serde's "at line 1": the reader knows the line.
pub fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, place)) if !reason.is_empty() => {
            let column = place.rsplit_once("column ").map_or("", |(_, column)| column);
            format!("{reason} at column {column}")
        }
        _ => text,
    }
}

fn decoded(what: &str, value: Option<&RawValue>, encoding: Option<&str>) -> Result<Option<Bytes>, String> {
    let Some(value) = value else { return Ok(None) };
    let bytes = json_bytes(value);
    match (encoding, bytes) {
        (_, None) => Ok(None),
        (None, bytes) => Ok(bytes),
        (Some(BASE64), Some(text)) => {
            let bytes = STANDARD.decode(&text).map_err(|e| format!("the {what} is not base64: {e}"))?;
            Ok(Some(Bytes::from(bytes)))
        }
        (Some(other), _) => Err(format!("the {what} has the encoding `{other}`; there is only base64")),
    }
}

/// A JSON string's content, any other value's own text, nothing for null.
#[must_use]
pub fn json_bytes(value: &RawValue) -> Option<Bytes> {
    let text = value.get();
    if text == "null" {
        return None;
    }
    if text.starts_with('"')
        && let Ok(content) = serde_json::from_str::<Cow<'_, str>>(text)
    {
        return Some(Bytes::from(content.into_owned()));
    }
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn line(record: &Received<'_>) -> String {
        serde_json::to_string(record).unwrap()
    }

    #[test]
    fn an_envelope_has_the_documented_fields_in_their_order() {
        let record = Received {
            topic: "t",
            partition: 1,
            offset: 2,
            timestamp: 3,
            key: Some(b"k"),
            value: Some(b"\xff\x00"),
            headers: vec![(b"h", None)],
        };
        assert_eq!(
            line(&record),
            r#"{"partition":1,"offset":2,"timestamp":3,"key":"k","headers":[{"key":"h","value":null}],"value":"/wA=","value_encoding":"base64"}"#
        );
    }

    #[test]
    fn a_json_value_is_taken_as_its_text_and_null_as_no_value() {
        let record = parse(br#"{"key":7,"value":{"a": [1, 2.50]},"unknown":1}"#).unwrap();
        assert_eq!(record.key.as_deref(), Some(b"7".as_slice()));
        assert_eq!(record.value.as_deref(), Some(br#"{"a": [1, 2.50]}"#.as_slice()));
        assert_eq!(parse(br#"{"value":null}"#).unwrap().value, None);
        assert_eq!(parse(br#"{"key":"a\u0000\"b"}"#).unwrap().key.as_deref(), Some(b"a\0\"b".as_slice()));
    }

    #[test]
    fn a_broken_envelope_says_why() {
        for (line, why) in [
            ("[1]", "not an envelope"),
            ("{nonsense}", "column"),
            (r#"{"value":"!","value_encoding":"base64"}"#, "not base64"),
            (r#"{"value":"a","value_encoding":"rot13"}"#, "rot13"),
            (r#"{"headers":[{"value":"x"}]}"#, "key"),
        ] {
            let said = parse(line.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }

    proptest! {
        #[test]
        fn what_consume_writes_produce_reads_back(
            key: Option<Vec<u8>>,
            value: Option<Vec<u8>>,
            headers in proptest::collection::vec((".*", any::<Option<Vec<u8>>>()), 0..3),
            timestamp in 0..i64::MAX,
            partition in 0..i32::MAX,
        ) {
            let received = Received {
                topic: "t",
                partition,
                offset: 9,
                timestamp,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: headers.iter().map(|(k, v)| (k.as_bytes(), v.as_deref())).collect(),
            };
            let read = parse(line(&received).as_bytes()).unwrap();
            prop_assert_eq!(read.key.as_deref(), key.as_deref());
            prop_assert_eq!(read.value.as_deref(), value.as_deref());
            prop_assert_eq!(read.timestamp, Some(timestamp));
            prop_assert_eq!(read.partition, Some(partition));
            let read_headers: Vec<_> = read.headers.iter().map(|(k, v)| (k.clone(), v.as_ref().map(|v| v.to_vec()))).collect();
            prop_assert_eq!(read_headers, headers);
        }
    }
}
