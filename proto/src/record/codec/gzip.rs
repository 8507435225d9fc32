//! gzip (RFC 1952), one or more members, as `java.util.zip` reads them.

use std::io::Write;
use std::ops::RangeInclusive;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{Failure, read_bounded};

/// Kafka's `compression.gzip.level`.
pub(super) const LEVELS: RangeInclusive<i32> = 1..=9;

const DEFAULT_LEVEL: i32 = 6;

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let level = level.unwrap_or(DEFAULT_LEVEL).unsigned_abs();
    let mut encoder = GzEncoder::new(out, flate2::Compression::new(level));
    encoder.write_all(input).and_then(|()| encoder.finish().map(drop)).map_err(|error| error.to_string())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    read_bounded(MultiGzDecoder::new(input), input.len(), limit)
}
