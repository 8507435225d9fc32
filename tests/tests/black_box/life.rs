//! What a topic goes through: retention, deletions, other configs, more partitions, and a second life.

use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_client::{OffsetSpec, TopicPartition};
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::v1;

use crate::harness::{Fixture, batch, batch_at, eventually, fetch, now_ms, send, told, values};

const QUICK_RETENTION: &str = "[storage]\nretention_check_interval_ms = 20\n";
const SMALL: (&str, &str) = ("segment.bytes", "16384");

async fn fill(fixture: &Fixture, topic: &str, count: usize) -> Vec<(i64, Bytes)> {
    let mut data = fixture.data().await;
    let mut records = Vec::new();
    for n in 0..count {
        let value = format!("{n:02000}");
        let sent = send(&mut data, topic, batch(&[&value])).await;
        assert_eq!(sent.error, None);
        records.push((sent.base_offset, value.into()));
    }
    records
}

async fn alter(fixture: &Fixture, topic: &str, name: &str, value: Option<&str>) {
    let configs = vec![(name.to_owned(), value.map(str::to_owned))];
    fixture.client().await.admin().alter_configs(topic, configs, false).await.unwrap();
}

async fn log_start(fixture: &Fixture, topic: &str) -> i64 {
    fixture.offset(topic, OffsetSpec::LogStart).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_size_and_then_by_time() {
    let mut fixture = Fixture::with(QUICK_RETENTION);
    fixture.create("t", 1, &[SMALL]).await;
    let records = fill(&fixture, "t", 60).await;
    let files = fixture.segments().len();
    alter(&fixture, "t", "retention.bytes", Some("50000")).await;
    eventually("old segments go", async || fixture.segments().len() < files).await;
    let start = log_start(&fixture, "t").await;
    let kept = fixture.describe("t", 0).await.size_bytes;
    assert!((50_000..50_000 + 2 * 16_384 + 4_096).contains(&kept), "{kept} bytes kept");
    assert_eq!(fixture.read("t", 0, start).await, records[start as usize..]);
    let refused = fetch(&mut fixture.data().await, "t", 0, 0).await;
    assert_eq!(told(&refused.error).0, "OFFSET_OUT_OF_RANGE");
    // What went stays away; what is kept stays.
    for kill in [false, true] {
        if kill {
            fixture.kill()
        } else {
            fixture.stop()
        }
        fixture.start_again();
        assert_eq!(log_start(&fixture, "t").await, start);
        assert_eq!(fixture.read("t", 0, start).await, records[start as usize..]);
    }
    alter(&fixture, "t", "retention.bytes", None).await;
    alter(&fixture, "t", "retention.ms", Some("1")).await;
    eventually("everything is expired", async || log_start(&fixture, "t").await == 60).await;
    assert_eq!(fixture.read("t", 0, 60).await, []);
    alter(&fixture, "t", "retention.ms", Some("3600000")).await;
    let old = fixture.send("t", batch_at(now_ms() - 7_200_000, &["old"])).await;
    assert_eq!((old.error, old.base_offset), (None, 60));
    eventually("what is old goes at once", async || log_start(&fixture, "t").await == 61).await;
    let new = fixture.send("t", batch(&["new"])).await;
    fixture.restart();
    assert_eq!(fixture.read("t", 0, 61).await, [(new.base_offset, "new".into())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_stay_deleted() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[SMALL]).await;
    let mut records = fill(&fixture, "t", 40).await;
    let files = fixture.segments().len();
    let said = fixture.ok(&["records", "delete", "t", "--before", "25", "--yes", "-o", "json"], b"");
    let deleted: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (deleted[0]["records"].as_i64(), deleted[0]["log_start_offset"].as_i64()),
        (Some(25), Some(25))
    );
    eventually("whole segments below are freed", async || fixture.segments().len() < files).await;
    for round in 0..3 {
        assert_eq!(log_start(&fixture, "t").await, 25, "{round}");
        assert_eq!(fixture.read("t", 0, 25).await, records[25..]);
        for gone in [0, 24] {
            let refused = fetch(&mut fixture.data().await, "t", 0, gone).await;
            let (code, said) = told(&refused.error);
            assert_eq!(code, "OFFSET_OUT_OF_RANGE");
            assert!(said.contains("holds 25 to below"), "{said}");
        }
        let sent = fixture.send("t", batch(&["more"])).await;
        records.push((sent.base_offset, "more".into()));
        assert_eq!(sent.base_offset, records.len() as i64 - 1);
        if round == 0 {
            fixture.kill()
        } else {
            fixture.stop()
        }
        fixture.start_again();
    }
    let admin = fixture.client().await.admin();
    let beyond = admin.delete_records(vec![(TopicPartition::new("t", 0), Some(1_000))]).await.unwrap();
    assert!(
        beyond[&TopicPartition::new("t", 0)]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("OFFSET_OUT_OF_RANGE")
    );
    fixture.ok(&["records", "delete", "t", "--before", "end", "--yes"], b"");
    fixture.restart();
    let end = records.len() as i64;
    assert_eq!((log_start(&fixture, "t").await, fixture.read("t", 0, end).await), (end, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_take_effect_at_once_and_for_good() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[]).await;
    let large = batch(&["x".repeat(5_000).as_str()]);
    assert_eq!(fixture.send("t", large.clone()).await.error, None);
    alter(&fixture, "t", "max.message.bytes", Some("1000")).await;
    for _ in 0..2 {
        assert_eq!(told(&fixture.send("t", large.clone()).await.error).0, "MESSAGE_TOO_LARGE");
        fixture.restart();
    }
    alter(&fixture, "t", "max.message.bytes", None).await;
    assert_eq!(fixture.send("t", large.clone()).await.error, None);
    assert_eq!(fixture.describe("t", 0).await.segments, 1);
    alter(&fixture, "t", SMALL.0, Some(SMALL.1)).await;
    fill(&fixture, "t", 30).await;
    assert!(fixture.describe("t", 0).await.segments > 3);
    // Refused by name, and nothing changes; not even what is asked for beside it.
    let admin = fixture.client().await.admin();
    let both = [("retention.ms", "5"), ("cleanup.policy", "compact")];
    let both = both.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    let refused = admin.alter_configs("t", both.to_vec(), false).await.unwrap_err().to_string();
    assert!(refused.contains("cleanup.policy") && refused.contains("not implemented"), "{refused}");
    let described = fixture.ok(&["topic", "describe", "t", "-o", "json"], b"");
    let described: serde_json::Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["configs"], serde_json::json!({ SMALL.0: SMALL.1 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_added_and_the_old_ones_are_left_alone() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[]).await;
    let mut records = fill(&fixture, "t", 5).await;
    fixture.ok(&["topic", "alter", "t", "--partitions", "4"], b"");
    for round in 0..3 {
        fixture.assert_serves("t", &mut records).await;
        let line = format!("line {round}\n");
        for partition in ["1", "2", "3"] {
            fixture.ok(&["produce", "t", "--partition", partition], line.as_bytes());
        }
        if round == 0 {
            fixture.kill()
        } else {
            fixture.stop()
        }
        fixture.start_again();
    }
    for partition in 1..4 {
        assert_eq!(fixture.read("t", partition, 0).await.len(), 3);
    }
    let (exit, said) = fixture.fails(&["topic", "alter", "t", "--partitions", "2"], b"");
    assert!(exit != 0 && said.contains('4'), "{exit}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_never_serves_old_records() {
    let mut fixture = Fixture::start();
    let id = |fixture: &Fixture| {
        let said = fixture.ok(&["topic", "describe", "t", "-o", "json"], b"");
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["topic_id"].clone()
    };
    let mut ids = Vec::new();
    for round in 0..4 {
        fixture.create("t", 2, &[SMALL]).await;
        ids.push(id(&fixture));
        assert_eq!(fixture.read("t", 0, 0).await, [], "round {round}");
        assert_eq!(fixture.read("t", 1, 0).await, [], "round {round}");
        let records = fill(&fixture, "t", 20).await;
        assert_eq!(fixture.read("t", 0, 0).await, records);
        fixture.ok(&["topic", "delete", "t", "--yes"], b"");
        let refused = fetch(&mut fixture.data().await, "t", 0, 0).await;
        assert_eq!(told(&refused.error).0, "UNKNOWN_TOPIC_OR_PARTITION");
        match round {
            1 => fixture.restart(),
            2 => {
                fixture.kill();
                fixture.start_again();
            }
            _ => {}
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 4, "each life has an id of its own");
    eventually("the files of all lives are gone", async || fixture.segments().is_empty()).await;
    fixture.restart();
    assert_eq!(fixture.segments(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_found_by_time() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[SMALL]).await;
    let base = now_ms() - 1_000_000;
    let mut data = fixture.data().await;
    // Three records a batch, 10 ms between them: record n has the time base + 10 n.
    for n in 0..30_i64 {
        let mut builder = RecordBatchBuilder::new(Compression::None, None);
        for i in 0..3 {
            builder.append(base + 10 * (3 * n + i), None, Some(&[b'x'; 1_000]), &[]).unwrap();
        }
        assert_eq!(send(&mut data, "t", builder.build().unwrap()).await.error, None);
    }
    for _ in 0..2 {
        let at = async |timestamp| fixture.offset("t", OffsetSpec::Timestamp(timestamp)).await;
        assert_eq!(at(0).await, Some(0));
        for record in [0, 1, 2, 3, 44, 45, 46, 88, 89] {
            assert_eq!(at(base + 10 * record).await, Some(record), "at record {record}");
            assert_eq!(at(base + 10 * record - 9).await, Some(record), "before record {record}");
        }
        assert_eq!(at(base + 10 * 89 + 1).await, None);
        assert_eq!(fixture.offset("t", OffsetSpec::MaxTimestamp).await, Some(89));
        assert_eq!(fixture.offset("t", OffsetSpec::LogStart).await, Some(0));
        assert_eq!(fixture.offset("t", OffsetSpec::HighWatermark).await, Some(90));
        fixture.kill();
        fixture.start_again();
    }
    fixture.ok(&["records", "delete", "t", "--before", "50", "--yes"], b"");
    assert_eq!(fixture.offset("t", OffsetSpec::Timestamp(0)).await, Some(50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_answers_with_the_first_record_or_in_time() {
    let fixture = Fixture::start();
    fixture.create("t", 2, &[]).await;
    let parts = [0, 1].map(|partition| v1::FetchPartition {
        topic: "t".to_owned(),
        partition,
        offset: 0,
        leader_epoch: -1,
    });
    let request = |max_wait_ms| v1::FetchRequest {
        partitions: parts.to_vec(),
        min_bytes: 1,
        max_wait_ms,
        ..Default::default()
    };
    let mut data = fixture.data().await;
    let started = Instant::now();
    let empty = data.fetch(request(200)).await.unwrap().into_inner();
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    assert!(empty.partitions.iter().all(|part| part.error.is_none() && part.records.is_empty()));

    let mut waiting = data.clone();
    let long = request(60_000);
    let poll = tokio::spawn(async move { waiting.fetch(long).await.unwrap().into_inner() });
    let started = Instant::now();
    assert_eq!(send(&mut data, "t", batch(&["woken"])).await.error, None);
    let found = poll.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let records: Vec<_> = found.partitions.into_iter().flat_map(|part| values(part.records, 0)).collect();
    assert_eq!(records, [(0, "woken".into())]);
}
