//! Zstandard frames (RFC 8878).

use std::ops::RangeInclusive;

use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::compress_bound;

use super::{Failure, read_bounded};

/// Kafka's `compression.zstd.level`.
pub(super) const LEVELS: RangeInclusive<i32> = -131_072..=22;

const DEFAULT_LEVEL: i32 = 3;

/// The smallest and the largest window that the format's 64-bit decoder takes, as powers of two.
const WINDOW_LOGS: RangeInclusive<u32> = 10..=31;

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut encoder = Compressor::new(level.unwrap_or(DEFAULT_LEVEL)).map_err(|error| error.to_string())?;
    let start = out.len();
    out.resize(start + compress_bound(input.len()), 0);
    let length = encoder.compress_to_buffer(input, &mut out[start..]).map_err(|error| error.to_string())?;
    out.truncate(start + length);
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut decoder = Decoder::with_buffer(input)?;
    // A frame can ask for a window of any size, which is taken before the first byte of output.
    let window_log = limit.checked_next_power_of_two().map_or(*WINDOW_LOGS.end(), usize::ilog2);
    decoder.window_log_max(window_log.clamp(*WINDOW_LOGS.start(), *WINDOW_LOGS.end()))?;
    read_bounded(decoder, input.len(), limit)
}
