//! Snappy in the block stream of xerial's `SnappyOutputStream`, as Kafka's Java client and most
//! others write it, and as one raw block, as librdkafka writes it. Both are read, the stream is
//! written.
//!
//! Sources: <https://github.com/google/snappy/blob/main/format_description.txt>,
//! <https://github.com/xerial/snappy-java> (`SnappyOutputStream`).

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Failure, malformed};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";

/// Version of the stream, and the oldest that can read it.
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];

/// Bytes of a stream's header.
const HEAD_BYTES: usize = MAGIC.len() + VERSIONS.len();

/// Uncompressed bytes of one block of the stream; xerial's default.
const BLOCK_BYTES: usize = 32 << 10;

/// No block grows more than this: its densest element copies 64 bytes and takes 3.
const RATIO_MAX: usize = 22;

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSIONS);
    let mut encoder = Encoder::new();
    for block in input.chunks(BLOCK_BYTES) {
        let length_at = out.len();
        let block_at = length_at + 4;
        out.resize(block_at + max_compress_len(block.len()), 0);
        let length = encoder.compress(block, &mut out[block_at..]).map_err(|error| error.to_string())?;
        out.truncate(block_at + length);
        // At most `max_compress_len` of 32 KiB.
        out[length_at..block_at].copy_from_slice(&(length as u32).to_be_bytes());
    }
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    if !input.starts_with(&MAGIC) {
        let size = block_size(input)?;
        let mut out = zeroed(size, limit)?;
        return decompress_block(input, &mut out).map(|()| out);
    }
    // All blocks declare their sizes up front, so that memory is taken once, and checked first.
    let mut size = 0;
    for block in Blocks(input) {
        size += block_size(block?)?;
    }
    let mut out = zeroed(size, limit)?;
    let mut at = 0;
    for block in Blocks(input) {
        let block = block?;
        let end = at + block_size(block)?;
        decompress_block(block, &mut out[at..end])?;
        at = end;
    }
    Ok(out)
}

/// The size that a block declares, if its bytes can hold as much.
fn block_size(block: &[u8]) -> Result<usize, Failure> {
    let size = decompress_len(block).map_err(malformed)?;
    if size > block.len().saturating_mul(RATIO_MAX) {
        return Err(malformed(format!("{} bytes cannot hold {size}", block.len())));
    }
    Ok(size)
}

fn decompress_block(block: &[u8], out: &mut [u8]) -> Result<(), Failure> {
    let length = Decoder::new().decompress(block, out).map_err(malformed)?;
    if length == out.len() { Ok(()) } else { Err(malformed("a block is shorter than it declares")) }
}

fn zeroed(size: usize, limit: usize) -> Result<Vec<u8>, Failure> {
    if size > limit { Err(Failure::TooLarge) } else { Ok(vec![0; size]) }
}

/// The blocks of a stream, or of several one after the other.
struct Blocks<'a>(&'a [u8]);

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<&'a [u8], Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.0.starts_with(&MAGIC) {
            // The versions are not checked: none but the first was ever written.
            let Some(rest) = self.0.get(HEAD_BYTES..) else {
                return Some(Err(malformed("the stream ends in its header")));
            };
            self.0 = rest;
        }
        if self.0.is_empty() {
            return None;
        }
        let block = self.0.split_first_chunk().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        let Some((block, rest)) = block else {
            return Some(Err(malformed("a block runs past the end")));
        };
        self.0 = rest;
        Some(Ok(block))
    }
}
