//! What is no longer kept, and what is damaged.

use headwater_proto::v1;

use super::harness::*;

const SMALL: [(&str, &str); 1] = [("segment.bytes", "16384")];

/// Batches of one record of about 4 KiB each, four to a segment.
fn filler(count: usize, timestamp_ms: i64) -> Vec<bytes::Bytes> {
    let value = "x".repeat(4_000);
    (0..count).map(|_| batch_at(timestamp_ms, &[&value])).collect()
}

async fn delete_records(broker: &mut Harness, offset: i64) -> v1::DeleteRecordsResult {
    let partition = v1::DeleteRecordsPartition { topic: "t".to_owned(), partition: 0, offset };
    let request = v1::DeleteRecordsRequest { partitions: vec![partition] };
    broker.admin.delete_records(request).await.unwrap().into_inner().partitions.remove(0)
}

#[tokio::test]
async fn deleted_records_are_gone_for_every_reader_and_stay_gone() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &SMALL).await;
    broker.produce("t", filler(20, START_MS)).await;
    let before = broker.describe("t").await.remove(0);
    assert_eq!(code(&delete_records(&mut broker, 21).await.error), "OFFSET_OUT_OF_RANGE");
    let result = delete_records(&mut broker, 10).await;
    assert_eq!((result.error, result.log_start_offset), (None, 10));
    for restarted in [false, true] {
        if restarted {
            broker.restart().await;
        }
        let after = broker.describe("t").await.remove(0);
        assert_eq!((after.log_start_offset, after.high_watermark), (10, 20));
        assert!(after.size_bytes < before.size_bytes, "whole segments are freed");
        assert_eq!(broker.read("t", 0, 10).await.len(), 10);
        let request = v1::FetchRequest { partitions: vec![fetch_partition("t", 0, 9)], ..Default::default() };
        let below = broker.data.fetch(request).await.unwrap().into_inner();
        assert_eq!(code(&below.partitions[0].error), "OFFSET_OUT_OF_RANGE");
    }
    assert_eq!(delete_records(&mut broker, 5).await.log_start_offset, 10, "it never goes back");
    assert_eq!(delete_records(&mut broker, -1).await.log_start_offset, 20);
    assert_eq!(broker.produce("t", vec![batch(&["next"])]).await[0].base_offset, 20);
    broker.stop().await;
}

#[tokio::test]
async fn retention_by_size_and_time_keeps_what_the_configs_ask_for() {
    let mut broker = Harness::with(|config| config.storage.retention_check_interval_ms = 20).await;
    let configs = [SMALL[0], ("retention.bytes", "40000"), ("retention.ms", "60000")];
    broker.create("t", 1, &configs).await;
    broker.produce("t", filler(40, START_MS)).await;
    let mut admin = broker.admin.clone();
    let mut start = async || {
        let request = v1::DescribePartitionsRequest { topics: vec!["t".to_owned()] };
        let found = admin.describe_partitions(request).await.unwrap().into_inner().partitions.remove(0);
        (found.log_start_offset, found.size_bytes)
    };
    let patience = tokio::time::Instant::now() + PATIENCE;
    let by_size = loop {
        let (log_start, size_bytes) = start().await;
        if log_start > 0 && size_bytes < 60_000 {
            assert!(size_bytes >= 40_000, "no more goes than was asked for: {size_bytes}");
            break log_start;
        }
        assert!(tokio::time::Instant::now() < patience, "retention by size never came");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    broker.advance_clock(60_001);
    loop {
        let (log_start, _) = start().await;
        if log_start == 40 {
            break;
        }
        assert!(log_start >= by_size && tokio::time::Instant::now() < patience, "by time: {log_start}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    broker.restart().await;
    assert_eq!(broker.describe("t").await[0].log_start_offset, 40);
    assert_eq!(broker.produce("t", vec![batch_at(START_MS + 60_001, &["next"])]).await[0].base_offset, 40);
    broker.stop().await;
}

#[tokio::test]
async fn a_flipped_bit_is_reported_the_rest_is_read_and_only_a_command_accepts_the_loss() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &SMALL).await;
    broker.produce("t", filler(20, START_MS)).await;
    broker.stop().await;
    let sealed = broker
        .disk
        .paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .filter(|path| !path.to_string_lossy().contains("00000000000000000000000000000001-0"))
        .nth(1)
        .unwrap();
    broker.disk.flip_bit(&sealed, 5_000, 3).unwrap();
    broker.boot().await;
    let described = broker.describe("t").await.remove(0);
    if described.damage.is_empty() {
        // Sealed segments are vouched for by the clean stop; reading finds what the start did not.
        let fetched = fetch_all(&mut broker).await;
        assert!(fetched.1 > 0 || fetched.0 < 20, "damage was served as if nothing were wrong");
    }
    let (intact, _) = fetch_all(&mut broker).await;
    assert!(intact >= 16, "what is intact stays readable: {intact}");
    broker.stop().await;
}

/// Records read, skipping over what cannot be; and how often that was.
async fn fetch_all(broker: &mut Harness) -> (usize, usize) {
    let (mut position, mut records, mut errors) = (0, 0, 0);
    while position < 20 {
        let request = v1::FetchRequest {
            partitions: vec![fetch_partition("t", 0, position)],
            max_bytes: 1,
            ..Default::default()
        };
        let fetched = broker.data.fetch(request).await.unwrap().into_inner().partitions.remove(0);
        if fetched.error.is_some() {
            errors += 1;
            position += 1;
        } else {
            let mut bytes = fetched.records;
            let limits = headwater_proto::record::Limits::default();
            match headwater_proto::record::RecordBatch::split_first(&mut bytes, &limits) {
                Ok(Some(batch)) => records += batch.header().record_count as usize,
                Ok(None) => return (records, errors),
                Err(_) => errors += 1,
            }
            position = fetched.next_offset;
        }
    }
    (records, errors)
}
