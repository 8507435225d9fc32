//! Small streams that declare or unfold into much: refused, and the memory of the process shows that
//! nothing was taken for them. One test, so that no other's memory is counted with it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use headwater_proto::record::codec::{compress, decompress};
use headwater_proto::record::{Compression, RecordError};

const LIMIT: usize = 1 << 20;

/// Forgets the peak of resident memory so far.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// The most memory that the process held resident since the last reset, in bytes.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// 64 MiB of zeros, in as many bytes as the codec needs for them.
fn unfolding(compression: Compression) -> Bytes {
    let mut out = Vec::new();
    compress(compression, None, &vec![0; 64 << 20], &mut out).unwrap();
    out.into()
}

/// A zstd frame that asks for a window of 2 GiB and holds one run of 128 KiB.
fn zstd_window() -> Bytes {
    let magic_and_descriptor = [0x28, 0xb5, 0x2f, 0xfd, 0x00];
    let window_of_2_to_the_31 = 21 << 3;
    // Last block, run-length encoded: one byte, repeated 2^17 times.
    let block = (1_u32 | 1 << 1 | (1 << 17) << 3).to_le_bytes();
    [&magic_and_descriptor[..], &[window_of_2_to_the_31], &block[..3], &[0]].concat().into()
}

#[test]
fn bombs_are_refused_before_they_take_memory() {
    let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut bombs: Vec<_> = codecs.map(|codec| (codec, unfolding(codec))).into();
    bombs.push((Compression::Zstd, zstd_window()));
    // Snappy that declares 4 GiB - 1 in a raw block and in a framed one.
    let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    bombs.push((Compression::Snappy, Bytes::copy_from_slice(&block)));
    let framed = [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x06", &block[..]].concat();
    bombs.push((Compression::Snappy, framed.into()));
    // An LZ4 frame of 4 MiB linked blocks that holds one of them, declared, and not there.
    bombs.push((Compression::Lz4, Bytes::from_static(b"\x04\x22\x4d\x18\x40\x70\xdf\x00\x00\x40\x00")));

    reset_peak();
    let peak_before = peak_bytes();
    for (codec, bomb) in bombs {
        let error = decompress(codec, bomb, LIMIT).unwrap_err();
        let refused = matches!(error, RecordError::DecompressedTooLarge { .. } | RecordError::Codec { .. });
        assert!(refused, "{codec:?}: {error}");
    }
    let taken = peak_bytes() - peak_before;
    assert!(taken < 16 << 20, "{taken} bytes taken");
}
