//! Places in a log as people name them: `start`, `end`, `end-10`, an offset, a time, `2h-ago`.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Whole numbers from here on are milliseconds since 1970 (1973 and later), below it offsets.
const FIRST_EPOCH_MS: i64 = 100_000_000_000;

/// A place in every partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Start,
    End,
    /// So many records before the end.
    BeforeEnd(i64),
    Offset(i64),
    /// Milliseconds since the epoch: the first record of that time or later.
    Time(i64),
    /// So many milliseconds before now.
    Ago(i64),
}

/// What `--help` says about places.
pub const PLACES_HELP: &str = "\
Places (--from, --until, --before):
  start, end          the first record, or behind the last one
  end-N               N records before the end of each partition
  N, offset:N         an offset (a whole number of 12 digits or more is a time)
  2026-01-31T10:00Z   a time in RFC 3339 (UTC where no zone is given; a date alone is its midnight)
  1767225600000, ms:N a time in milliseconds since 1970
  2h-ago, 1d12h-ago   before now, in w, d, h, m, s, ms";

/// Reads a place; the error says what would be one.
pub fn parse(text: &str) -> Result<Place, String> {
    match text {
        "start" | "earliest" | "beginning" => return Ok(Place::Start),
        "end" | "latest" => return Ok(Place::End),
        _ => {}
    }
    let explained =
        || format!("`{text}` is no place: try start, end, end-10, an offset, 2026-01-31T10:00:00Z or 2h-ago");
    if let Some(records) = text.strip_prefix("end-") {
        return whole(records).map(Place::BeforeEnd).ok_or_else(explained);
    }
    if let Some(offset) = text.strip_prefix("offset:") {
        return whole(offset).map(Place::Offset).ok_or_else(explained);
    }
    if let Some(time) = text.strip_prefix("ms:") {
        return whole(time).map(Place::Time).ok_or_else(explained);
    }
    if let Some(age) = text.strip_suffix("-ago") {
        return age_ms(age).map(Place::Ago).ok_or_else(explained);
    }
    if let Some(number) = whole(text) {
        return Ok(if number < FIRST_EPOCH_MS { Place::Offset(number) } else { Place::Time(number) });
    }
    time_ms(text).map(Place::Time).ok_or_else(explained)
}

impl Place {
    /// The same place with `Ago` counted back from `now_ms`.
    #[must_use]
    pub fn at(self, now_ms: i64) -> Self {
        match self {
            Self::Ago(ms) => Self::Time(now_ms.saturating_sub(ms).max(0)),
            place => place,
        }
    }
}

fn whole(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

/// `1d12h` in milliseconds; each unit a whole number.
pub fn age_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = whole(&rest[..digits])?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(unit_ms)?)?;
    }
    Some(total)
}

fn time_ms(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    let civil = text.parse::<DateTime>().ok()?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// Milliseconds since the epoch in RFC 3339, UTC; the bare number where that says no time.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| format!("{t:.3}"))
}

/// The wall clock.
#[must_use]
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// `90 s`, `2 h`... of a configuration or a flag.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let ms = age_ms(text).ok_or_else(|| format!("`{text}` is no duration: try 500ms, 30s, 5m or 1h"))?;
    SignedDuration::from_millis(ms).try_into().map_err(|_| format!("`{text}` is too long"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_a_place_is_read() {
        let cases = [
            ("start", Place::Start),
            ("end", Place::End),
            ("end-10", Place::BeforeEnd(10)),
            ("0", Place::Offset(0)),
            ("99999999999", Place::Offset(99_999_999_999)),
            ("100000000000", Place::Time(100_000_000_000)),
            ("offset:1767225600000", Place::Offset(1_767_225_600_000)),
            ("1767225600000", Place::Time(1_767_225_600_000)),
            ("ms:5", Place::Time(5)),
            ("2026-01-01T00:00:00Z", Place::Time(1_767_225_600_000)),
            ("2026-01-01T01:00:00+01:00", Place::Time(1_767_225_600_000)),
            ("2026-01-01T00:00", Place::Time(1_767_225_600_000)),
            ("2026-01-01", Place::Time(1_767_225_600_000)),
            ("2h-ago", Place::Ago(7_200_000)),
            ("1d12h-ago", Place::Ago(129_600_000)),
            ("250ms-ago", Place::Ago(250)),
        ];
        for (text, place) in cases {
            assert_eq!(parse(text), Ok(place), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "-1",
            "2h",
            "h-ago",
            "-ago",
            "2x-ago",
            "end-",
            "end-x",
            "offset:-1",
            "yesterday",
            "1.5",
            "+3",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("99999999999999999999").is_err());
        assert!(parse("9999999999999999w-ago").is_err());
    }

    #[test]
    fn ago_counts_back_from_now_and_never_before_1970() {
        assert_eq!(Place::Ago(1_000).at(5_000), Place::Time(4_000));
        assert_eq!(Place::Ago(10_000).at(5_000), Place::Time(0));
        assert_eq!(Place::End.at(5_000), Place::End);
    }

    #[test]
    fn a_time_is_printed_in_utc_with_milliseconds() {
        assert_eq!(rfc3339(1_767_225_600_123), "2026-01-01T00:00:00.123Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }
}
