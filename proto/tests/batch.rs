//! The view of a batch: what it takes, what it refuses, and that no damage passes it.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{empty_records, header, seal};
use headwater_proto::ErrorCode;
use headwater_proto::record::{
    Attributes, BatchHeader, Compression, HEADER_BYTES, Limits, RecordBatch, RecordBatchBuilder, RecordError,
    empty_control_batch,
};

fn validate(bytes: Bytes) -> Result<RecordBatch, RecordError> {
    RecordBatch::validate(bytes, &Limits::default())
}

/// What validation says of three empty records behind a header changed by `change`.
fn refusal(change: impl FnOnce(&mut BatchHeader)) -> RecordError {
    let mut header = header(3);
    change(&mut header);
    validate(seal(header, &empty_records(3))).unwrap_err()
}

/// What a broker says of the same from a producer.
fn refusal_from_producer(change: impl FnOnce(&mut BatchHeader)) -> RecordError {
    let mut header = header(3);
    change(&mut header);
    let batch = validate(seal(header, &empty_records(3))).unwrap();
    batch.check_from_producer().unwrap_err()
}

fn built(compression: Compression) -> Bytes {
    let mut builder = RecordBatchBuilder::new(compression, None);
    builder.set_producer(7, 1, 0);
    for n in 0..5 {
        builder.append(1_000 + n, Some(b"key"), Some(b"some value"), &[("name", Some(b"x"))]).unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn every_truncation_is_refused() {
    for compression in Compression::ALL {
        let batch = built(compression);
        for end in 0..batch.len() {
            let error = validate(batch.slice(..end)).unwrap_err();
            assert!(matches!(error, RecordError::Truncated { .. }), "{compression:?} {end}: {error}");
            assert!(RecordBatch::trusted(batch.slice(..end)).is_err());
        }
        let mut longer = batch.to_vec();
        longer.push(0);
        assert_eq!(validate(longer.into()), Err(RecordError::TrailingBytes(1)));
    }
}

#[test]
fn every_flipped_bit_is_refused_or_one_that_the_broker_stamps() {
    for compression in Compression::ALL {
        let batch = built(compression);
        let sound = validate(batch.clone()).unwrap();
        for bit in 0..batch.len() * 8 {
            let mut flipped = batch.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match validate(flipped.into()) {
                Err(_) => {}
                Ok(view) => {
                    assert!(matches!(bit / 8, 0..8 | 12..16), "{compression:?} byte {}", bit / 8);
                    assert_ne!(view.header(), sound.header());
                    assert_eq!(view.bytes()[16..], sound.bytes()[16..]);
                }
            }
        }
    }
}

#[test]
fn a_flip_under_the_crc_is_reported_as_such() {
    let mut batch = built(Compression::None).to_vec();
    *batch.last_mut().unwrap() ^= 1;
    let trusted = RecordBatch::trusted(batch.clone().into()).unwrap();
    let error = validate(batch.into()).unwrap_err();
    assert!(matches!(error, RecordError::Crc { .. }));
    assert_eq!(trusted.check_crc(), Err(error));
}

#[test]
fn limits_hold_before_bytes_are_looked_at() {
    let batch = built(Compression::None);
    let limits = Limits { batch_bytes_max: batch.len() - 1, ..Limits::default() };
    let too_large = RecordError::BatchTooLarge { bytes: batch.len(), limit: batch.len() - 1 };
    assert_eq!(RecordBatch::validate(batch.slice(..12), &limits), Err(too_large.clone()));
    assert_eq!(too_large.code(), ErrorCode::MessageTooLarge);

    let limits = Limits { record_count_max: 4, ..Limits::default() };
    let too_many = RecordError::TooManyRecords { count: 5, limit: 4 };
    assert_eq!(RecordBatch::validate(batch, &limits), Err(too_many));
}

#[test]
fn unsound_headers_are_refused_each_by_its_name() {
    assert_eq!(refusal(|h| h.magic = 1), RecordError::Magic(1));
    assert_eq!(refusal(|h| h.attributes = Attributes(5)), RecordError::UnknownCompression(5));
    assert_eq!(refusal(|h| h.record_count = -1), RecordError::NegativeRecordCount(-1));
    assert_eq!(refusal(|h| h.record_count = 4), RecordError::RecordsDoNotFit { count: 4, bytes: 21 });
    assert_eq!(
        refusal(|h| h.last_offset_delta = 1),
        RecordError::LastOffsetDelta { last_offset_delta: 1, record_count: 3 }
    );
    assert_eq!(
        refusal(|h| (h.last_offset_delta, h.record_count) = (-1, 0)),
        RecordError::LastOffsetDelta { last_offset_delta: -1, record_count: 0 }
    );
    assert_eq!(refusal(|h| h.producer_id = -2), RecordError::Producer { id: -2, epoch: -1 });
    assert_eq!(refusal(|h| h.producer_id = 9), RecordError::Producer { id: 9, epoch: -1 });
}

#[test]
fn lengths_that_no_batch_has_are_refused() {
    for length in [i32::MIN, -1, 0, 48] {
        let mut batch = built(Compression::None).to_vec();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        assert_eq!(validate(batch.clone().into()), Err(RecordError::BatchLength(length)));
        assert_eq!(RecordBatch::trusted(batch.into()), Err(RecordError::BatchLength(length)));
    }
}

#[test]
fn producers_are_refused_what_is_not_theirs() {
    let flags = |bits| move |h: &mut BatchHeader| h.attributes = Attributes(bits);
    assert_eq!(refusal_from_producer(flags(Attributes::CONTROL)), RecordError::ControlFromProducer);
    assert_eq!(
        refusal_from_producer(flags(Attributes::LOG_APPEND_TIME)),
        RecordError::LogAppendTimeFromProducer
    );
    assert_eq!(refusal_from_producer(flags(Attributes::TRANSACTIONAL)), RecordError::Transactional);
    assert_eq!(refusal_from_producer(flags(1 << 6)), RecordError::ReservedAttributes(1 << 6));
    assert_eq!(refusal_from_producer(flags(i16::MIN)), RecordError::ReservedAttributes(1 << 15));
    assert_eq!(refusal_from_producer(|h| h.record_count = 0), RecordError::NoRecords);
    assert_eq!(
        refusal_from_producer(|h| h.last_offset_delta = 7),
        RecordError::OffsetGaps { last_offset_delta: 7, record_count: 3 }
    );
    assert_eq!(
        refusal_from_producer(|h| (h.producer_id, h.producer_epoch) = (9, 0)),
        RecordError::NegativeSequence(-1)
    );
}

#[test]
fn a_producer_may_name_any_base_offset() {
    for base_offset in [0, -1, i64::MAX] {
        let batch = validate(seal(BatchHeader { base_offset, ..header(3) }, &empty_records(3))).unwrap();
        assert_eq!(batch.check_from_producer(), Ok(()));
    }
}

#[test]
fn a_batch_emptied_by_compaction_keeps_its_offsets() {
    let emptied = BatchHeader { record_count: 0, ..header(3) };
    let batch = validate(seal(emptied, &[])).unwrap();
    assert_eq!(batch.header().offset_count(), 3);
    assert_eq!(batch.records(&Limits::default()).unwrap().count(), 0);
}

#[test]
fn an_empty_control_batch_consumes_no_offset_and_yields_its_payload() {
    let batch = validate(empty_control_batch(b"membership")).unwrap();
    let header = batch.header();
    assert_eq!((header.offset_count(), header.record_count, header.max_timestamp), (0, 0, -1));
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
    assert_eq!(batch.body(), &b"membership"[..]);
    assert_eq!(batch.records(&Limits::default()).unwrap().count(), 0);
    assert_eq!(batch.check_from_producer(), Err(RecordError::ControlFromProducer));
}

#[test]
fn batches_are_split_off_one_by_one() {
    let (first, second) = (built(Compression::None), built(Compression::Zstd));
    let mut bytes = Bytes::from([first.as_ref(), second.as_ref()].concat());
    let limits = Limits::default();
    assert_eq!(RecordBatch::split_first(&mut bytes, &limits).unwrap().unwrap().into_bytes(), first);
    assert_eq!(RecordBatch::split_first(&mut bytes, &limits).unwrap().unwrap().into_bytes(), second);
    assert_eq!(RecordBatch::split_first(&mut bytes, &limits), Ok(None));
}

#[test]
fn what_cannot_be_split_off_stays() {
    let batch = built(Compression::None);
    let mut bytes = batch.slice(..batch.len() - 1);
    let before = bytes.clone();
    assert!(RecordBatch::split_first(&mut bytes, &Limits::default()).is_err());
    assert_eq!(bytes, before);
}

#[test]
fn a_header_reads_back_what_it_wrote() {
    let header = header(3);
    assert_eq!(BatchHeader::read(&header.to_bytes()), Some(header));
    assert_eq!(BatchHeader::read(&header.to_bytes()[..HEADER_BYTES - 1]), None);
}
