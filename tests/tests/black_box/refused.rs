//! Records that the broker must not take: each is answered with its code and a sentence, and changes nothing.

use bytes::Bytes;
use headwater_proto::v1;
use headwater_tests::process::http_get;

use crate::harness::{Fixture, batch, batch_at, batch_of, fetch, now_ms, send, told};

const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const RECORD_COUNT: usize = 57;

/// A valid batch with some of its bytes changed, and its CRC made right again.
fn resealed(change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = batch(&["a", "b", "c"]).to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[ATTRIBUTES..]);
    bytes[CRC..ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn flipped(position: usize) -> Bytes {
    let mut bytes = batch(&["a", "b", "c"]).to_vec();
    bytes[position] ^= 0x10;
    bytes.into()
}

fn put(at: usize, value: &[u8]) -> Bytes {
    resealed(|bytes| bytes[at..at + value.len()].copy_from_slice(value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_batch_is_told_what_is_wrong_with_it() {
    let fixture = Fixture::start();
    fixture.create("t", 1, &[("max.message.bytes", "2000")]).await;
    let mut records = Vec::new();
    for _ in 0..3 {
        fixture.assert_serves("t", &mut records).await;
    }
    let before = fixture.memory();
    let good = batch(&["a", "b", "c"]);
    let trailing = Bytes::from([&good[..], &[0; 3]].concat());
    let (transactional, control, log_append, horizon) = (0x10, 0x20, 0x08, 0x40);
    let cases: Vec<(&str, Bytes, &str, &str)> = vec![
        ("nothing", Bytes::new(), "INVALID_RECORD", "no records were sent"),
        ("a flipped record", flipped(good.len() - 2), "CORRUPT_MESSAGE", "CRC-32C mismatch"),
        ("a flipped CRC", flipped(CRC), "CORRUPT_MESSAGE", "CRC-32C mismatch"),
        ("an old format", put(16, &[1]), "INVALID_RECORD", "magic"),
        ("an end too soon", good.slice(..good.len() - 1), "CORRUPT_MESSAGE", "truncated"),
        ("a header alone", good.slice(..61), "CORRUPT_MESSAGE", "truncated"),
        ("a negative length", put(8, &[0xff; 4]), "CORRUPT_MESSAGE", "length"),
        (
            "a length of 2 GiB",
            put(8, &[0x7f, 0xff, 0xff, 0xff]),
            "MESSAGE_TOO_LARGE",
            "exceeds the limit of 2000",
        ),
        ("too large", batch(&["x".repeat(2_000).as_str()]), "MESSAGE_TOO_LARGE", "exceeds the limit of 2000"),
        ("a control batch", put(ATTRIBUTES, &[0, control]), "INVALID_RECORD", "control batches"),
        (
            "a transactional control batch",
            put(ATTRIBUTES, &[0, control | transactional]),
            "INVALID_RECORD",
            "control",
        ),
        ("a transactional batch", put(ATTRIBUTES, &[0, transactional]), "INVALID_TXN_STATE", "transaction"),
        (
            "the broker's timestamp type",
            put(ATTRIBUTES, &[0, log_append]),
            "INVALID_TIMESTAMP",
            "LogAppendTime",
        ),
        ("the broker's bits", put(ATTRIBUTES, &[0, horizon]), "INVALID_RECORD", "attribute bits"),
        ("an unknown codec", put(ATTRIBUTES, &[0, 7]), "UNSUPPORTED_COMPRESSION_TYPE", "codec 7"),
        ("no records", put(RECORD_COUNT, &[0; 4]), "INVALID_RECORD", ""),
        ("2^31 records", put(RECORD_COUNT, &[0x7f, 0xff, 0xff, 0xff]), "MESSAGE_TOO_LARGE", "records"),
        ("less than no records", put(RECORD_COUNT, &[0xff; 4]), "INVALID_RECORD", "negative"),
        ("gaps", put(LAST_OFFSET_DELTA, &[0, 0, 0, 9]), "INVALID_RECORD", "offset delta"),
        (
            "the far future",
            batch_at(now_ms() + 86_400_000, &["x"]),
            "INVALID_TIMESTAMP",
            "check the producer's clock",
        ),
        ("a producer without an epoch", batch_of((7, -1, 0), &["x"]), "INVALID_RECORD", "producer"),
        ("an unknown producer", batch_of((7, 0, 5), &["x"]), "UNKNOWN_PRODUCER_ID", "sequence 0"),
    ];
    let mut data = fixture.data().await;
    for (what, bytes, code, sentence) in &cases {
        let refused = send(&mut data, "t", bytes.clone()).await;
        let (found, said) = told(&refused.error);
        assert_eq!(found, *code, "{what}: {said}");
        assert!(said.contains(sentence), "{what}: {said}");
        assert_eq!((refused.base_offset, refused.batches_appended), (-1, 0), "{what}");
    }
    fixture.assert_serves("t", &mut records).await;
    // Every truncation of a batch, and every flipped byte that its CRC covers.
    for end in 1..good.len() {
        assert_eq!(told(&send(&mut data, "t", good.slice(..end)).await.error).0, "CORRUPT_MESSAGE", "{end}");
    }
    for position in CRC..good.len() {
        let refused = send(&mut data, "t", flipped(position)).await;
        assert!(refused.error.is_some(), "byte {position}");
    }
    // What comes before a bad batch is kept, what comes after it is not looked at.
    let mixed = [batch(&["record 4"]), flipped(good.len() - 2), batch(&["never"])].concat();
    let partly = send(&mut data, "t", mixed.into()).await;
    assert_eq!(told(&partly.error).0, "CORRUPT_MESSAGE");
    assert_eq!((partly.base_offset, partly.batches_appended), (4, 1));
    records.push((4, "record 4".into()));
    let partly = send(&mut data, "t", trailing).await;
    assert_eq!((told(&partly.error).0, partly.batches_appended), ("CORRUPT_MESSAGE", 1));
    records.extend([(5, "a".into()), (6, "b".into()), (7, "c".into())]);

    fixture.assert_serves("t", &mut records).await;
    let metrics = http_get(fixture.addresses.http, "/metrics").unwrap();
    assert!(
        metrics.contains("headwater_request_errors_total{request=\"produce\",code=\"CORRUPT_MESSAGE\"}"),
        "{metrics}"
    );
    let grown = fixture.memory().saturating_sub(before);
    assert!(grown < 48 << 20, "grown by {grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_told_on_the_wire_and_by_streamctl() {
    let fixture = Fixture::start();
    fixture.create("t", 1, &[("max.message.bytes", "2000")]).await;
    let mut records = Vec::new();
    fixture.assert_serves("t", &mut records).await;
    let mut data = fixture.data().await;
    let refused = send(&mut data, "none", batch(&["x"])).await;
    assert_eq!(
        told(&refused.error),
        ("UNKNOWN_TOPIC_OR_PARTITION", "there is no topic 'none'; create it first, or check the name")
    );
    for (partition, offset, code) in [
        (9, 0, "UNKNOWN_TOPIC_OR_PARTITION"),
        (-1, 0, "UNKNOWN_TOPIC_OR_PARTITION"),
        (0, 7, "OFFSET_OUT_OF_RANGE"),
        (0, -1, "OFFSET_OUT_OF_RANGE"),
    ] {
        let refused = fetch(&mut data, "t", partition, offset).await;
        assert_eq!(told(&refused.error).0, code, "{partition} {offset}");
    }
    let many = vec![v1::FetchPartition { topic: "t".to_owned(), ..Default::default() }; 5_000];
    let refused = data.fetch(v1::FetchRequest { partitions: many, ..Default::default() }).await.unwrap_err();
    assert!(refused.message().contains("5000 partitions") && refused.message().contains("2000"), "{refused}");
    let acks = v1::ProduceRequest { acks: 2, ..Default::default() };
    let refused = match data.produce(tokio_stream::once(acks)).await {
        Ok(mut answers) => answers.get_mut().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert!(refused.message().contains("acks 2"), "{refused}");

    let (exit, said) = fixture.fails(&["produce", "none"], b"x\n");
    assert_eq!(exit, 3, "{said}");
    assert!(said.contains("none") && said.contains("streamctl topic create"), "{said}");
    let (exit, said) = fixture.fails(&["consume", "none"], b"");
    assert_eq!(exit, 3, "{said}");
    let large = "x".repeat(3_000);
    let (exit, said) = fixture.fails(&["produce", "t"], large.as_bytes());
    assert!(exit != 0 && said.contains("max.message.bytes"), "{exit}: {said}");
    let (exit, said) = fixture.fails(&["topic", "create", "no/such name"], b"");
    assert!(exit != 0 && said.contains("1 to 249"), "{exit}: {said}");
    let (exit, said) = fixture.fails(&["topic", "create", "u", "--config", "cleanup.policy=compact"], b"");
    assert!(
        exit != 0 && said.contains("cleanup.policy") && said.contains("not implemented"),
        "{exit}: {said}"
    );
    fixture.assert_serves("t", &mut records).await;
}
