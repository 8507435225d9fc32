//! Any bytes as a compressed stream: output stays within its limit. Any bytes as plain ones: they
//! survive compression. The first byte chooses the codec.

#![no_main]

use bytes::Bytes;
use headwater_proto::record::Compression;
use headwater_proto::record::codec::{compress, decompress};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let codec = Compression::ALL[usize::from(*choice) % Compression::ALL.len()];
    if let Ok(plain) = decompress(codec, Bytes::copy_from_slice(data), LIMIT) {
        assert!(plain.len() <= LIMIT);
    }
    let mut packed = Vec::new();
    compress(codec, None, data, &mut packed).expect("the default level is one");
    let plain = decompress(codec, packed.into(), data.len()).expect("what was just compressed");
    assert_eq!(plain, data);
});
