//! Escapes that people type in flags.

/// Resolves `\t \n \r \0 \\ \{ \}`, `\xHH`; the error names the escape that is none.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' {
            out.push(escape(&mut chars)?);
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(out)
}

/// The byte that an escape stands for; `rest` begins behind its backslash.
pub fn escape(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('t') => Ok(b'\t'),
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some(c @ ('\\' | '{' | '}')) => Ok(c as u8),
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(&digits, 16)
                .ok()
                .filter(|_| hex)
                .ok_or_else(|| format!("`\\x{digits}` is not \\xHH"))
        }
        Some(c) => Err(format!("`\\{c}` is no escape: there are \\t \\n \\r \\0 \\\\ \\{{ \\}} \\xHH")),
        None => Err("a backslash ends the text: write \\\\ for itself".to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_become_bytes() {
        assert_eq!(unescape(r"a\tb\n\\\x00\xff\{é").unwrap(), b"a\tb\n\\\x00\xff{\xc3\xa9");
        for bad in [r"\", r"\q", r"\x", r"\x1", r"\xg0", r"\x+1"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_without_backslashes_is_itself(text in "[^\\\\]*") {
            prop_assert_eq!(unescape(&text).unwrap(), text.as_bytes());
        }

        #[test]
        fn every_byte_can_be_written_as_hex(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text: String = bytes.iter().map(|b| format!("\\x{b:02x}")).collect();
            prop_assert_eq!(unescape(&text).unwrap(), bytes);
        }
    }
}
