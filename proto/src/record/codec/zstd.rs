//! Zstandard frames (RFC 8878).

use std::ops::RangeInclusive;

use zstd::bulk::Compressor;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{compress_bound, get_frame_content_size};

use super::{Failure, read_bounded};

/// Kafka's `compression.zstd.level`.
pub(super) const LEVELS: RangeInclusive<i32> = -131_072..=22;

const DEFAULT_LEVEL: i32 = 3;

/// Windows that are always granted, as a power of two: RFC 8878 asks every decoder for 8 MiB, and a
/// stream of few bytes, written without knowing how many will come, asks for 2 MiB.
const WINDOW_LOG_GRANTED: u32 = 23;

/// The largest window of the format's 64-bit decoder, as a power of two.
const WINDOW_LOG_MAX: u32 = 31;

pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut encoder = Compressor::new(level.unwrap_or(DEFAULT_LEVEL)).map_err(|error| error.to_string())?;
    let start = out.len();
    out.resize(start + compress_bound(input.len()), 0);
    let length = encoder.compress_to_buffer(input, &mut out[start..]).map_err(|error| error.to_string())?;
    out.truncate(start + length);
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    if get_frame_content_size(input).is_ok_and(|size| size.is_some_and(|size| size > limit as u64)) {
        return Err(Failure::TooLarge);
    }
    let mut decoder = Decoder::with_buffer(input)?;
    // A frame can ask for a window of any size, which is taken before the first byte of output.
    let window_log = limit.checked_next_power_of_two().map_or(WINDOW_LOG_MAX, usize::ilog2);
    decoder.window_log_max(window_log.clamp(WINDOW_LOG_GRANTED, WINDOW_LOG_MAX))?;
    read_bounded(decoder, input.len(), limit)
}
