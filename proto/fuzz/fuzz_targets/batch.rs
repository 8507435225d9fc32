//! Any bytes as record batches: validation and iteration end in values or errors, within their
//! limits, and what decodes encodes to the same records.

#![no_main]

use bytes::Bytes;
use headwater_proto::record::{
    Compression, HEADER_BYTES, Limits, Record, RecordBatch, RecordBatchBuilder, RecordError,
};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    batch_bytes_max: 1 << 20,
    record_count_max: 10_000,
    decompressed_bytes_max: 1 << 20,
    header_count_max: 1_000,
};

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes::copy_from_slice(data);
    while let Ok(Some(batch)) = RecordBatch::split_first(&mut bytes, &LIMITS) {
        read(&batch);
    }
    if let Some(sealed) = seal(data)
        && let Ok(batch) = RecordBatch::validate(sealed, &LIMITS)
    {
        read(&batch);
    }
});

/// The same batch with the length, magic and CRC-32C that let a reader look further.
fn seal(data: &[u8]) -> Option<Bytes> {
    if data.len() < HEADER_BYTES {
        return None;
    }
    let mut batch = data.to_vec();
    let length = i32::try_from(batch.len() - 12).ok()?;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Some(batch.into())
}

fn read(batch: &RecordBatch) {
    let header = batch.header();
    assert!((0..=LIMITS.record_count_max).contains(&header.record_count));
    assert!(header.offset_count() >= i64::from(header.record_count));
    let _ = batch.check_from_producer();
    let Ok(records) = batch.records(&LIMITS) else { return };
    let Ok(records) = records.collect::<Result<Vec<_>, _>>() else { return };
    assert_eq!(records.len() as i32, header.record_count);
    if let Some(again) = rebuild(&records) {
        let again = again.records(&LIMITS).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let again = again.expect("what was just built is read");
        assert!(records.iter().zip(&again).all(|(one, other)| same(one, other)));
        assert_eq!(records.len(), again.len());
    }
}

/// `None` where the builder cannot say the same: header names that are not text, no records.
fn rebuild(records: &[Record]) -> Option<RecordBatch> {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    for record in records {
        let mut headers = Vec::new();
        for header in &record.headers {
            headers.push((std::str::from_utf8(&header.key).ok()?, header.value.as_deref()));
        }
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        match builder.append(record.timestamp, key, value, &headers) {
            Ok(()) => {}
            Err(RecordError::RecordField { what: "timestamp", .. }) => return None,
            Err(error) => panic!("{error}"),
        }
    }
    if builder.is_empty() {
        return None;
    }
    let limits = Limits { batch_bytes_max: usize::MAX, ..LIMITS };
    Some(RecordBatch::validate(builder.build().expect("records fit"), &limits).expect("what was just built"))
}

/// Equal but for the offset, which a builder counts from 0.
fn same(one: &Record, other: &Record) -> bool {
    one.timestamp == other.timestamp
        && one.key == other.key
        && one.value == other.value
        && one.headers == other.headers
}
