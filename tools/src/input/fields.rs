//! Single fields out of a JSON object, without building the object.

use std::fmt;

use bytes::Bytes;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::envelope::{json_bytes, reason};

/// The values of the fields asked for; `None` where a field is missing or null.
pub struct Fields {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

/// Reads a line that must be one JSON object. Of a repeated field the last one counts.
pub fn pick(line: &[u8], key_field: Option<&str>, value_field: Option<&str>) -> Result<Fields, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let wanted = Wanted { key_field, value_field };
    let fields = deserializer
        .deserialize_map(wanted)
        .map_err(|e| format!("not a JSON object, so it has no field `{}`: {}", wanted.name(), reason(&e)))?;
    deserializer.end().map_err(|e| format!("more than one JSON object: {}", reason(&e)))?;
    Ok(fields)
}

#[derive(Clone, Copy)]
struct Wanted<'a> {
    key_field: Option<&'a str>,
    value_field: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn name(&self) -> &'a str {
        self.key_field.or(self.value_field).unwrap_or_default()
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields { key: None, value: None };
        while let Some((is_key, is_value)) = map.next_key_seed(Name(self))? {
            if !is_key && !is_value {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let bytes = json_bytes(map.next_value::<&RawValue>()?);
            if is_key {
                fields.key.clone_from(&bytes);
            }
            if is_value {
                fields.value = bytes;
            }
        }
        Ok(fields)
    }
}

/// Compares a field's name where it stands, so that most names are never copied.
struct Name<'a>(Wanted<'a>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = (bool, bool);

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = (bool, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok((self.0.key_field == Some(name), self.0.value_field == Some(name)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn key(line: &str, field: &str) -> Result<Option<Vec<u8>>, String> {
        pick(line.as_bytes(), Some(field), None).map(|f| f.key.map(|k| k.to_vec()))
    }

    #[test]
    fn a_field_is_text_or_its_json_and_missing_or_null_is_none() {
        assert_eq!(key(r#"{"a":1,"k":"x\ty"}"#, "k").unwrap().as_deref(), Some(b"x\ty".as_slice()));
        assert_eq!(key(r#"{"k":1.50}"#, "k").unwrap().as_deref(), Some(b"1.50".as_slice()));
        assert_eq!(key(r#"{"k":null}"#, "k").unwrap(), None);
        assert_eq!(key(r#"{"o":{"k":"inner"}}"#, "k").unwrap(), None);
        assert_eq!(
            key(r#"{"\u006b":"escaped name"}"#, "k").unwrap().as_deref(),
            Some(b"escaped name".as_slice())
        );
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for bad in ["", "[]", "3", "{", r#"{"k":"a"} x"#, r#"{"k":1}{"k":2}"#, "\u{feff}{}"] {
            assert!(key(bad, "k").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives_as_a_key(text: String, other: String) {
            prop_assume!(other != "k");
            let line = serde_json::json!({ "k": text, other.as_str(): [1, {"k": 2}] }).to_string();
            prop_assert_eq!(key(&line, "k").unwrap(), Some(text.into_bytes()));
        }

        #[test]
        fn no_line_makes_it_panic(line: Vec<u8>) {
            let _ = pick(&line, Some("k"), Some("v"));
        }
    }
}
