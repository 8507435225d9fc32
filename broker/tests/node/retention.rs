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

/// Reads record by record; what cannot be read is counted.
async fn intact_and_lost(broker: &mut Harness, end: i64) -> (Vec<i64>, Vec<i64>) {
    let (mut position, mut intact, mut lost) = (0, Vec::new(), Vec::new());
    while position < end {
        let request = v1::FetchRequest {
            partitions: vec![fetch_partition("t", 0, position)],
            max_bytes: 1,
            ..Default::default()
        };
        let fetched = broker.data.fetch(request).await.unwrap().into_inner().partitions.remove(0);
        if fetched.error.is_some() {
            assert_eq!(code(&fetched.error), "KAFKA_STORAGE_ERROR");
            lost.push(position);
            position += 1;
        } else {
            intact.extend(values(fetched.records, position).into_iter().map(|(offset, _)| offset));
            position = fetched.next_offset;
        }
    }
    (intact, lost)
}

#[tokio::test]
async fn a_flipped_bit_is_reported_the_rest_is_read_and_only_a_command_accepts_the_loss() {
    let mut broker = Harness::with(|config| config.storage.scrub_interval_ms = 50).await;
    broker.create("t", 1, &SMALL).await;
    broker.produce("t", filler(20, START_MS)).await;
    let metadata = "/00000000000000000000000000000001-0/";
    let mut logs = broker.disk.paths();
    logs.retain(|path| path.extension().is_some_and(|kind| kind == "log"));
    logs.retain(|path| !path.to_string_lossy().contains(metadata));
    broker.disk.flip_bit(&logs[1], 5_000, 3).unwrap();
    let mut admin = broker.admin.clone();
    eventually("the damage is reported", || {
        let request = v1::DescribePartitionsRequest { topics: vec!["t".to_owned()] };
        let mut admin = admin.clone();
        async move {
            let found = admin.describe_partitions(request).await.unwrap().into_inner().partitions.remove(0);
            found.damage.contains("damaged") && found.leader_epoch < 0
        }
    })
    .await;
    for restarted in [false, true] {
        if restarted {
            broker.restart().await;
        }
        let (intact, lost) = intact_and_lost(&mut broker, 20).await;
        assert_eq!((intact.len(), lost.len()), (19, 1), "restarted: {restarted}");
        let refused = broker.produce("t", vec![batch(&["no"])]).await.remove(0);
        assert_eq!(code(&refused.error), "KAFKA_STORAGE_ERROR");
    }
    admin = broker.admin.clone();
    let partitions = vec![v1::TopicPartition { topic: "t".to_owned(), partition: 0 }];
    let accepted = admin.accept_loss(v1::AcceptLossRequest { partitions }).await.unwrap().into_inner();
    assert_eq!(accepted.partitions[0].error, None);
    assert_eq!(broker.produce("t", vec![batch(&["yes"])]).await[0].base_offset, 20);
    let (intact, lost) = intact_and_lost(&mut broker, 21).await;
    assert_eq!((intact.len(), lost.len()), (20, 0), "an accepted loss is stepped over");
    broker.restart().await;
    assert_eq!(intact_and_lost(&mut broker, 21).await.0.len(), 20);
    broker.stop().await;
}
