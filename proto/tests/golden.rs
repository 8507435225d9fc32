//! Headwater's record batches against Kafka's own: see `golden/README.md`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use headwater_proto::record::codec::decompress;
use headwater_proto::record::{
    Compression, HeaderRef, Limits, Record, RecordBatch, RecordBatchBuilder, RecordError, empty_control_batch,
};

const T0: i64 = 1_700_000_000_000;

struct Entry {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: &'static [HeaderRef<'static>],
}

const HEADERS: &[HeaderRef<'static>] = &[("a", Some(b"1")), ("a", Some(b"2")), ("b", None), ("", Some(b""))];

fn few() -> Vec<Entry> {
    let entry = |timestamp, key: Option<&str>, value: Option<&str>, headers| Entry {
        timestamp,
        key: key.map(Into::into),
        value: value.map(Into::into),
        headers,
    };
    vec![
        entry(T0, Some("key"), Some("value"), HEADERS),
        entry(T0 - 5, None, Some("no key, and earlier"), &[]),
        entry(T0 + 5_000_000_000, Some("a tombstone, much later"), None, &[]),
        entry(T0, Some(""), Some(""), &[]),
    ]
}

fn many() -> Vec<Entry> {
    let value = |i: u8, n| format!("record {n} {}", char::from(b'a' + i).to_string().repeat(80));
    (0..1000)
        .map(|n| Entry {
            timestamp: T0 + n,
            key: Some(format!("key-{}", n % 17).into()),
            value: Some(value((n % 26) as u8, n).into()),
            headers: &[],
        })
        .collect()
}

fn build(compression: Compression, producer: Option<(i64, i16, i32)>, entries: &[Entry]) -> Bytes {
    let mut builder = RecordBatchBuilder::new(compression, None);
    if let Some((id, epoch, sequence)) = producer {
        builder.set_producer(id, epoch, sequence);
    }
    for entry in entries {
        builder.append(entry.timestamp, entry.key.as_deref(), entry.value.as_deref(), entry.headers).unwrap();
    }
    builder.build().unwrap()
}

fn golden(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn view(name: &str) -> RecordBatch {
    RecordBatch::validate(golden(name), &Limits::default()).unwrap()
}

fn records(batch: &RecordBatch) -> Vec<Record> {
    batch.records(&Limits::default()).unwrap().collect::<Result<_, _>>().unwrap()
}

fn assert_holds(batch: &RecordBatch, entries: &[Entry]) {
    let records = records(batch);
    assert_eq!(records.len(), entries.len());
    for (n, (record, entry)) in records.iter().zip(entries).enumerate() {
        assert_eq!(record.offset, n as i64);
        assert_eq!(record.timestamp, entry.timestamp);
        assert_eq!(record.key.as_deref(), entry.key.as_deref());
        assert_eq!(record.value.as_deref(), entry.value.as_deref());
        let headers = record.headers.iter().map(|h| (h.key.as_ref(), h.value.as_deref()));
        assert!(headers.eq(entry.headers.iter().map(|(key, value)| (key.as_bytes(), *value))));
    }
}

#[test]
fn kafkas_batches_are_read_whatever_their_codec() {
    for codec in Compression::ALL {
        let few_of_kafka = view(&format!("few-{}.bin", codec.name()));
        assert_eq!(few_of_kafka.header().attributes.compression(), Some(codec));
        assert_eq!(few_of_kafka.check_from_producer(), Ok(()));
        assert_holds(&few_of_kafka, &few());
        if codec != Compression::None {
            assert_holds(&view(&format!("many-{}.bin", codec.name())), &many());
        }
    }
}

#[test]
fn kafkas_streams_are_read_within_the_smallest_limit_that_holds_them() {
    let plain = build(Compression::None, None, &few());
    for codec in Compression::ALL {
        let body = view(&format!("few-{}.bin", codec.name())).body();
        assert_eq!(decompress(codec, body, plain.len() - 61).unwrap(), plain.slice(61..), "{codec:?}");
    }
}

#[test]
fn uncompressed_batches_equal_kafkas_byte_for_byte() {
    assert_eq!(build(Compression::None, None, &few()), golden("few-none.bin"));
    let producer = Some((4_711, 3, i32::MAX));
    assert_eq!(build(Compression::None, producer, &few()), golden("idempotent.bin"));
}

#[test]
fn raw_snappy_is_read_as_librdkafka_writes_it() {
    let ours = build(Compression::None, None, &many());
    let body = decompress(Compression::Snappy, golden("many-snappy-raw.body"), 1 << 20).unwrap();
    assert_eq!(body, ours.slice(61..));
}

#[test]
fn the_brokers_time_overrides_that_of_each_record() {
    let batch = view("append-time.bin");
    assert!(records(&batch).iter().all(|record| record.timestamp == T0 + 77));
    assert_eq!(batch.check_from_producer(), Err(RecordError::LogAppendTimeFromProducer));
}

#[test]
fn transactions_are_seen_and_refused() {
    let batch = view("transactional.bin");
    assert!(batch.header().attributes.is_transactional());
    assert_eq!(batch.check_from_producer(), Err(RecordError::Transactional));

    let marker = view("commit-marker.bin");
    assert!(marker.header().attributes.is_control());
    let records = records(&marker);
    assert_eq!((records.len(), records[0].offset), (1, 42));
    // Control record key: version 0, type 1 (commit).
    assert_eq!(records[0].key.as_deref(), Some(&[0, 0, 0, 1][..]));
    assert_eq!(marker.check_from_producer(), Err(RecordError::ControlFromProducer));
}

#[test]
#[ignore = "writes our batches for Kafka to check: see golden/README.md"]
fn write_ours() {
    let dir = PathBuf::from(std::env::var_os("HEADWATER_GOLDEN_OUT").unwrap());
    std::fs::create_dir_all(&dir).unwrap();
    for codec in Compression::ALL {
        let write = |name, entries: Vec<Entry>| {
            let path = dir.join(format!("{name}-{}.bin", codec.name()));
            std::fs::write(path, build(codec, None, &entries)).unwrap();
        };
        write("few", few());
        write("many", many());
    }
    std::fs::write(dir.join("empty-control.bin"), empty_control_batch(b"some payload")).unwrap();
}
