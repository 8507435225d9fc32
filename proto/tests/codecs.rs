//! Streams that other implementations may write and Headwater does not: read, or refused by name.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use bytes::Bytes;
use headwater_proto::record::codec::{compress, decompress};
use headwater_proto::record::{Compression, RecordError};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

const LIMIT: usize = 4 << 20;

fn packed(codec: Compression, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, None, plain, &mut out).unwrap();
    out
}

/// 300 KB that compress well, but not to nothing.
fn plain() -> Vec<u8> {
    (0..30_000).flat_map(|n| format!("line {n:05}").into_bytes()).collect()
}

fn reason(codec: Compression, stream: Vec<u8>) -> String {
    match decompress(codec, stream.into(), LIMIT) {
        Err(RecordError::Codec { compression, reason }) if compression == codec => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn streams_one_after_the_other_are_one() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Zstd] {
        let both = [packed(codec, b"first, "), packed(codec, b"second")].concat();
        assert_eq!(decompress(codec, both.into(), LIMIT).unwrap(), &b"first, second"[..], "{codec:?}");
    }
}

#[test]
fn bytes_behind_a_stream_are_refused() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let stream = [&packed(codec, b"records")[..], b"more"].concat();
        assert!(!reason(codec, stream).is_empty());
    }
    assert_eq!(
        reason(
            Compression::Lz4,
            [packed(Compression::Lz4, b"one"), packed(Compression::Lz4, b"two")].concat()
        ),
        "18 bytes follow the frame"
    );
}

#[test]
fn lz4_is_read_in_every_shape_of_its_frame() {
    let plain = plain();
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
            let info = FrameInfo::new()
                .block_mode(mode)
                .block_size(size)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(plain.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&plain).unwrap();
            let frame = encoder.finish().unwrap();
            assert_eq!(decompress(Compression::Lz4, frame.into(), plain.len()).unwrap(), plain);
        }
    }
}

#[test]
fn an_lz4_frame_without_its_end_mark_is_refused() {
    let mut frame = packed(Compression::Lz4, &plain());
    frame.truncate(frame.len() - 4);
    assert_eq!(reason(Compression::Lz4, frame), "the frame ends before its end mark");
    assert_eq!(reason(Compression::Lz4, b"\x02\x21\x4c\x18\0\0\0\0".to_vec()), "no LZ4 frame");
}

#[test]
fn snappy_declares_no_more_than_its_bytes_can_hold() {
    // The densest block there is: one byte, then copies of 64 bytes in 3 each.
    let zeros = vec![0; 1 << 20];
    let raw = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    assert_eq!(decompress(Compression::Snappy, raw.into(), LIMIT).unwrap(), zeros);
    // A length of 100 in front of a literal of one byte.
    assert_eq!(reason(Compression::Snappy, vec![100, 0, 0]), "3 bytes cannot hold 100");
    // A block that declares one byte more than it holds.
    assert!(!reason(Compression::Snappy, vec![2, 0, 7]).is_empty());
}

#[test]
fn records_that_are_not_compressed_are_not_copied() {
    let bytes = Bytes::from(plain());
    let same = decompress(Compression::None, bytes.clone(), bytes.len()).unwrap();
    assert_eq!(same.as_ptr(), bytes.as_ptr());
    let too_large = RecordError::DecompressedTooLarge { limit: bytes.len() - 1 };
    assert_eq!(decompress(Compression::None, bytes.clone(), bytes.len() - 1), Err(too_large));
}
