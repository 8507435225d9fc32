//! Records in and out of batches: round trips through every codec, and malformed ones refused.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{empty_records, header, seal};
use headwater_proto::record::codec::{check_level, compress, decompress};
use headwater_proto::record::{
    Attributes, BatchHeader, Compression, Limits, Record, RecordBatch, RecordBatchBuilder, RecordError,
    record_bytes_max,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

type Headers = Vec<(String, Option<Vec<u8>>)>;

#[derive(Debug, Clone)]
struct Entry {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
}

impl Entry {
    fn header_refs(&self) -> Vec<(&str, Option<&[u8]>)> {
        self.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect()
    }

    fn is(&self, record: &Record) -> bool {
        let headers = record.headers.iter().map(|h| (h.key.as_ref(), h.value.as_deref()));
        record.timestamp == self.timestamp
            && record.key.as_deref() == self.key.as_deref()
            && record.value.as_deref() == self.value.as_deref()
            && headers.eq(self.headers.iter().map(|(key, value)| (key.as_bytes(), value.as_deref())))
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    // Names are drawn from few, so that duplicates are common; half of the range keeps spans exact.
    let headers = vec(("[ab]{0,2}|é", option::of(vec(any::<u8>(), 0..8))), 0..4);
    let field = || option::of(vec(any::<u8>(), 0..300));
    (i64::MIN / 2..=i64::MAX / 2, field(), field(), headers)
        .prop_map(|(timestamp, key, value, headers)| Entry { timestamp, key, value, headers })
}

fn compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

fn records_of(header: BatchHeader, body: &[u8]) -> Result<Vec<Record>, RecordError> {
    let limits = Limits::default();
    RecordBatch::validate(seal(header, body), &limits).unwrap().records(&limits)?.collect()
}

/// What reading says of one record with these bytes behind its length.
fn refusal(fields: &[u8]) -> RecordError {
    let record = [&[fields.len() as u8 * 2], fields].concat();
    records_of(header(1), &record).unwrap_err()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_was_built_is_read(compression in compression(), entries in vec(entry(), 1..20)) {
        let mut builder = RecordBatchBuilder::new(compression, None);
        for entry in &entries {
            let (key, value, headers) = (entry.key.as_deref(), entry.value.as_deref(), entry.header_refs());
            let before = builder.len_bytes();
            builder.append(entry.timestamp, key, value, &headers).unwrap();
            prop_assert!(builder.len_bytes() - before <= record_bytes_max(key, value, &headers));
        }
        let length = builder.len_bytes();
        let bytes = builder.build().unwrap();
        if compression == Compression::None {
            prop_assert_eq!(bytes.len(), length);
        }
        let batch = RecordBatch::validate(bytes, &Limits::default()).unwrap();
        prop_assert_eq!(batch.check_from_producer(), Ok(()));
        prop_assert_eq!(Some(batch.header().max_timestamp), entries.iter().map(|e| e.timestamp).max());
        let records: Vec<_> = batch.records(&Limits::default()).unwrap().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(records.len(), entries.len());
        for (n, (record, entry)) in records.iter().zip(&entries).enumerate() {
            prop_assert_eq!(record.offset, n as i64);
            prop_assert!(entry.is(record), "{:?} is not {:?}", record, entry);
        }
    }

    #[test]
    fn bytes_survive_each_codec_and_end_where_they_end(
        compression in compression(),
        seed in vec(any::<u8>(), 0..64),
        repeat in 0..4_000_usize,
    ) {
        let plain = seed.repeat(repeat);
        let mut packed = Vec::new();
        compress(compression, None, &plain, &mut packed).unwrap();
        let packed = Bytes::from(packed);
        prop_assert_eq!(decompress(compression, packed.clone(), plain.len()).unwrap(), &plain);
        if !plain.is_empty() {
            let too_large = RecordError::DecompressedTooLarge { limit: plain.len() - 1 };
            prop_assert_eq!(decompress(compression, packed, plain.len() - 1), Err(too_large));
        }
    }

    #[test]
    fn a_cut_stream_is_never_taken_for_a_whole_one(compression in compression(), cut in 0.0..1.0_f64) {
        prop_assume!(compression != Compression::None);
        let plain: Vec<u8> = (0..40_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let mut packed = Vec::new();
        compress(compression, None, &plain, &mut packed).unwrap();
        let end = (packed.len() as f64 * cut) as usize;
        packed.truncate(end);
        // Xerial's stream has no end of its own: cut between two blocks it is a shorter one.
        if let Ok(bytes) = decompress(compression, packed.into(), plain.len()) {
            prop_assert!(compression == Compression::Snappy || end == 0);
            prop_assert!(bytes.len() < plain.len() && plain.starts_with(&bytes));
        }
    }

    #[test]
    fn noise_under_a_good_crc_yields_errors_only(
        compression in compression(),
        count in 0..20_i32,
        body in vec(any::<u8>(), 0..200),
    ) {
        let attributes = Attributes(0).with_compression(compression);
        let bytes = seal(BatchHeader { attributes, ..header(count) }, &body);
        if let Ok(batch) = RecordBatch::validate(bytes, &Limits::default())
            && let Ok(records) = batch.records(&Limits::default())
        {
            prop_assert!(records.count() <= count as usize + 1);
        }
    }

    #[test]
    fn a_changed_byte_of_a_record_yields_no_more_than_the_batch_declares(at: usize, byte: u8) {
        let mut body = empty_records(20);
        let at = at % body.len();
        body[at] = byte;
        let batch = RecordBatch::trusted(seal(header(20), &body)).unwrap();
        let results: Vec<_> = batch.records(&Limits::default()).unwrap().collect();
        prop_assert!(results.iter().filter(|result| result.is_ok()).count() <= 20);
        // The first error is the last item.
        prop_assert!(results.iter().rev().skip(1).all(Result::is_ok));
    }
}

#[test]
fn malformed_records_are_refused_each_by_its_name() {
    let truncated = |what| RecordError::RecordTruncated { index: 0, what };
    let field = |what, value| RecordError::RecordField { index: 0, what, value };
    // Attributes, timestamp delta, offset delta, key length, value length, header count, headers.
    assert_eq!(refusal(&[0, 0, 0, 1, 4, 0]), truncated("value length"));
    assert_eq!(refusal(&[0, 0, 0, 200, 1, 1, 0]), truncated("key length"));
    assert_eq!(refusal(&[0, 0, 0, 3, 1, 0]), field("key length", -2));
    assert_eq!(refusal(&[0, 0, 0, 1, 3, 0]), field("value length", -2));
    assert_eq!(refusal(&[0, 0, 1, 1, 1, 0]), field("offset delta", -1));
    assert_eq!(refusal(&[0, 0, 2, 1, 1, 0]), field("offset delta", 1));
    assert_eq!(refusal(&[0, 0, 0, 1, 1, 1]), field("header count", -1));
    assert_eq!(refusal(&[0, 0, 0, 1, 1, 4, 1, 1]), field("header count", 2));
    assert_eq!(refusal(&[0, 0, 0, 1, 1, 2, 1, 1]), field("header key length", -1));
    assert_eq!(refusal(&[0, 0, 0, 1, 1, 0, 9]), RecordError::TrailingBytes(1));
    assert_eq!(refusal(&[0, 0, 0, 1, 1, 0x80]), RecordError::Varint);
    assert_eq!(records_of(header(1), &[20, 0, 0, 0, 1, 1, 0]), Err(truncated("record")));
    assert_eq!(records_of(header(1), &[3, 0, 0, 0, 1, 1, 0]), Err(field("record length", -2)));
}

#[test]
fn a_header_count_takes_no_memory_that_the_record_cannot_fill() {
    // 2^28 headers declared in 7 bytes.
    let error = refusal(&[0, 0, 0, 1, 1, 0x80, 0x80, 0x80, 0x80, 2, 1, 1]);
    assert_eq!(error, RecordError::RecordField { index: 0, what: "header count", value: 1 << 28 });

    let limits = Limits { header_count_max: 1, ..Limits::default() };
    let record = [20, 0, 0, 0, 1, 1, 4, 0, 1, 0, 1];
    let batch = RecordBatch::validate(seal(header(1), &record), &limits).unwrap();
    let error = batch.records(&limits).unwrap().next().unwrap().unwrap_err();
    assert_eq!(error, RecordError::RecordField { index: 0, what: "header count", value: 2 });
}

#[test]
fn bytes_behind_the_last_record_are_an_error_after_it() {
    let mut body = empty_records(2);
    body.push(0);
    let batch = RecordBatch::validate(seal(header(2), &body), &Limits::default()).unwrap();
    let mut records = batch.records(&Limits::default()).unwrap();
    assert_eq!(records.nth(2), Some(Err(RecordError::TrailingBytes(1))));
    assert_eq!(records.next(), None);
}

#[test]
fn offsets_rise_within_a_batch_and_may_have_gaps() {
    let compacted = BatchHeader { last_offset_delta: 9, ..header(2) };
    let record = |delta: u8| [12, 0, 0, delta << 1, 1, 1, 0];
    let offsets = records_of(compacted, &[record(3), record(9)].concat()).unwrap();
    assert_eq!(offsets.iter().map(|record| record.offset).collect::<Vec<_>>(), [103, 109]);
    let error = records_of(compacted, &[record(3), record(3)].concat()).unwrap_err();
    assert_eq!(error, RecordError::RecordField { index: 1, what: "offset delta", value: 3 });
}

#[test]
fn places_beyond_64_bits_are_refused() {
    let late = BatchHeader { base_offset: i64::MAX, ..header(2) };
    let error = records_of(late, &empty_records(2)).unwrap_err();
    assert_eq!(error, RecordError::RecordField { index: 1, what: "offset delta", value: 1 });
    let late = BatchHeader { base_timestamp: i64::MAX, ..header(1) };
    let error = records_of(late, &[12, 0, 2, 0, 1, 1, 0]).unwrap_err();
    assert_eq!(error, RecordError::RecordField { index: 0, what: "timestamp delta", value: 1 });

    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(i64::MIN, None, None, &[]).unwrap();
    let before = builder.len_bytes();
    assert!(builder.append(1, None, None, &[]).is_err());
    assert_eq!((builder.record_count(), builder.len_bytes()), (1, before));
}

#[test]
fn keys_and_values_share_the_memory_of_their_batch() {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(0, Some(b"key"), Some(b"value"), &[]).unwrap();
    let batch = RecordBatch::validate(builder.build().unwrap(), &Limits::default()).unwrap();
    let record = batch.records(&Limits::default()).unwrap().next().unwrap().unwrap();
    let within = batch.bytes().as_ptr_range();
    assert!(within.contains(&record.key.unwrap().as_ptr()));
    assert!(within.contains(&record.value.unwrap().as_ptr()));
}

#[test]
fn an_empty_builder_builds_nothing() {
    let builder = RecordBatchBuilder::new(Compression::None, None);
    assert!(builder.is_empty());
    assert_eq!(builder.build(), Err(RecordError::NoRecords));
}

#[test]
fn levels_that_a_codec_lacks_are_refused() {
    for (compression, good, bad) in
        [(Compression::Gzip, Some(9), 10), (Compression::Zstd, Some(-5), 23), (Compression::Lz4, None, 1)]
    {
        assert_eq!(check_level(compression, good), Ok(()));
        let error = RecordError::CompressionLevel { compression, level: bad };
        assert_eq!(check_level(compression, Some(bad)), Err(error.clone()));
        let mut builder = RecordBatchBuilder::new(compression, Some(bad));
        builder.append(0, None, Some(b"value"), &[]).unwrap();
        assert_eq!(builder.build(), Err(error));
    }
}
