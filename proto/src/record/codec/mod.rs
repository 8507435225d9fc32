//! The four codecs of the record batch, each bounded.
//!
//! Invariants: output never passes the caller's limit, and memory is taken as output appears, never
//! by what a stream declares unless that is within the limit and within what its bytes can hold.
//! Beside the output a decoder holds at most its window (zstd: the limit rounded up to a power of two, or
//! 8 MiB; lz4: 12 MiB; gzip: 32 KiB).

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use std::io::{self, Read};

use bytes::Bytes;

use super::{Compression, RecordError};

/// Output that compressed records usually come to, in multiples of their size.
const USUAL_RATIO: usize = 4;

/// Appends the compressed `input` to `out`. `None` is Kafka's default level of the codec.
///
/// # Errors
/// [`RecordError::CompressionLevel`] for a level that the codec does not have.
pub fn compress(
    compression: Compression,
    level: Option<i32>,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), RecordError> {
    check_level(compression, level)?;
    match compression {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => gzip::compress(level, input, out),
        Compression::Snappy => snappy::compress(input, out),
        Compression::Lz4 => lz4::compress(input, out),
        Compression::Zstd => zstd::compress(level, input, out),
    }
    .map_err(|reason| RecordError::Codec { compression, reason })
}

/// Decompresses `input` whole; without compression it is returned as it is.
///
/// # Errors
/// [`RecordError::DecompressedTooLarge`] as soon as output passes `limit` bytes,
/// [`RecordError::Codec`] for a malformed stream, an incomplete one, or one with bytes behind it.
pub fn decompress(compression: Compression, input: Bytes, limit: usize) -> Result<Bytes, RecordError> {
    match compression {
        Compression::None if input.len() > limit => Err(Failure::TooLarge),
        Compression::None => return Ok(input),
        Compression::Gzip => gzip::decompress(&input, limit),
        Compression::Snappy => snappy::decompress(&input, limit),
        Compression::Lz4 => lz4::decompress(&input, limit),
        Compression::Zstd => zstd::decompress(&input, limit),
    }
    .map(Bytes::from)
    .map_err(|failure| match failure {
        Failure::TooLarge => RecordError::DecompressedTooLarge { limit },
        Failure::Malformed(reason) => RecordError::Codec { compression, reason },
    })
}

/// Whether the codec has this compression level; `None`, its default, it always has.
///
/// # Errors
/// [`RecordError::CompressionLevel`].
pub fn check_level(compression: Compression, level: Option<i32>) -> Result<(), RecordError> {
    let Some(level) = level else { return Ok(()) };
    let known = match compression {
        Compression::None | Compression::Snappy | Compression::Lz4 => false,
        Compression::Gzip => gzip::LEVELS.contains(&level),
        Compression::Zstd => zstd::LEVELS.contains(&level),
    };
    if known { Ok(()) } else { Err(RecordError::CompressionLevel { compression, level }) }
}

/// Why a codec gave up.
enum Failure {
    TooLarge,
    Malformed(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

fn malformed(reason: impl ToString) -> Failure {
    Failure::Malformed(reason.to_string())
}

/// Reads all that `reader` gives, at most `limit` bytes, in a buffer that doubles from what
/// `input_bytes` of compressed records usually come to.
fn read_bounded(mut reader: impl Read, input_bytes: usize, limit: usize) -> Result<Vec<u8>, Failure> {
    // One byte above the limit tells "too large" from "just fits".
    let capacity_max = limit.saturating_add(1);
    let mut out = Vec::new();
    let mut capacity = input_bytes.saturating_mul(USUAL_RATIO);
    loop {
        capacity = capacity.clamp(1, capacity_max);
        let room = capacity - out.len();
        out.reserve_exact(room);
        let read = reader.by_ref().take(room as u64).read_to_end(&mut out)?;
        if out.len() > limit {
            return Err(Failure::TooLarge);
        }
        if read < room {
            return Ok(out);
        }
        capacity = capacity.saturating_mul(2);
    }
}
