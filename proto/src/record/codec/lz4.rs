//! The LZ4 frame format, one frame of independent 64 KiB blocks as Kafka's Java client writes it; it
//! refuses linked blocks, so none are written, but they are read.
//!
//! Source: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>.

use std::io::{self, Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::{Failure, malformed, read_bounded};

/// The legacy and skippable formats begin otherwise, and are not Kafka's.
const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(input).map_err(|error| error.to_string())?;
    encoder.finish().map(drop).map_err(|error| error.to_string())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    if !input.starts_with(&MAGIC) {
        return Err(malformed("no LZ4 frame"));
    }
    let mut frame = Frame { rest: input, cut_off: false };
    let out = read_bounded(FrameDecoder::new(&mut frame), input.len(), limit)?;
    if frame.cut_off {
        return Err(malformed("the frame ends before its end mark"));
    }
    if !frame.rest.is_empty() {
        return Err(malformed(format!("{} bytes follow the frame", frame.rest.len())));
    }
    Ok(out)
}

/// The input, which remembers whether more was asked for than it had: the decoder takes input that
/// ends between two blocks for a whole frame.
struct Frame<'a> {
    rest: &'a [u8],
    cut_off: bool,
}

impl Read for Frame<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cut_off |= buffer.len() > self.rest.len();
        self.rest.read(buffer)
    }
}
