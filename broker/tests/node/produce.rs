//! Records in and out.

use std::time::Duration;

use headwater_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::harness::*;

#[tokio::test]
async fn what_is_acknowledged_is_read_back_before_and_after_a_restart() {
    let mut broker = Harness::start().await;
    assert_eq!(broker.create("t", 2, &[]).await.error, None);
    let results = broker.produce("t", vec![batch(&["a", "b"]), batch(&["c"])]).await;
    let offsets: Vec<_> = results.iter().map(|r| (r.error.is_none(), r.base_offset)).collect();
    assert_eq!(offsets, [(true, 0), (true, 2)]);
    let expected = [(0, "a".into()), (1, "b".into()), (2, "c".into())];
    assert_eq!(broker.read("t", 0, 0).await, expected);
    assert_eq!(broker.read("t", 0, 1).await, expected[1..], "whole batches come, the reader skips");
    assert_eq!(broker.read("t", 1, 0).await, []);
    broker.restart().await;
    assert_eq!(broker.read("t", 0, 0).await, expected);
    assert_eq!(broker.produce("t", vec![batch(&["d"])]).await[0].base_offset, 3);
    broker.stop().await;
}

#[tokio::test]
async fn several_batches_of_one_request_are_appended_up_to_the_first_refused() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[("max.message.bytes", "200")]).await;
    let good = batch(&["a"]);
    let long = "x".repeat(200);
    let request = [good.clone(), batch(&[&long]), good].concat();
    let result = broker.produce("t", vec![request.into()]).await.remove(0);
    assert_eq!(
        (code(&result.error), result.base_offset, result.batches_appended),
        ("MESSAGE_TOO_LARGE", 0, 1)
    );
    assert_eq!(broker.read("t", 0, 0).await.len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn duplicates_are_answered_with_the_first_offset_across_restarts() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    let id = broker.data.init_producer_id(v1::InitProducerIdRequest {}).await.unwrap().into_inner();
    assert_eq!(id.error, None);
    let pid = id.producer_id;
    let batches: Vec<_> = (0..7).map(|n| batch_of((pid, 0, n * 2), &["x", "y"])).collect();
    let results = broker.produce("t", batches.clone()).await;
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    for restarted in [false, true] {
        if restarted {
            broker.restart().await;
        }
        let results = broker.produce("t", batches[2..].to_vec()).await;
        let offsets: Vec<_> = results.iter().map(|result| result.base_offset).collect();
        assert_eq!(offsets, [4, 6, 8, 10, 12], "restarted: {restarted}");
        let refused = [
            (batches[0].clone(), "DUPLICATE_SEQUENCE_NUMBER"),
            (batch_of((pid, 0, 20), &["gap"]), "OUT_OF_ORDER_SEQUENCE_NUMBER"),
            (batch_of((pid, 1, 3), &["epoch"]), "OUT_OF_ORDER_SEQUENCE_NUMBER"),
            (batch_of((pid + 1, 0, 5), &["unknown"]), "UNKNOWN_PRODUCER_ID"),
        ];
        for (batch, expected) in refused {
            assert_eq!(code(&broker.produce("t", vec![batch]).await[0].error), expected);
        }
    }
    assert_eq!(broker.produce("t", vec![batch_of((pid, 1, 0), &["z"])]).await[0].base_offset, 14);
    let fenced = broker.produce("t", vec![batch_of((pid, 0, 14), &["late"])]).await;
    assert_eq!(code(&fenced[0].error), "INVALID_PRODUCER_EPOCH");
    assert_eq!(broker.read("t", 0, 0).await.len(), 15);
    let next = broker.data.init_producer_id(v1::InitProducerIdRequest {}).await.unwrap().into_inner();
    assert!(next.producer_id > pid, "an id is never given out twice, restarts included");
    broker.stop().await;
}

#[tokio::test]
async fn bad_batches_are_refused_and_nothing_of_them_is_stored() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    let mut corrupt = batch(&["a"]).to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    let far = START_MS + 3_600_001;
    let cases = [
        (corrupt.into(), "CORRUPT_MESSAGE"),
        (batch(&["a"]).slice(..40), "CORRUPT_MESSAGE"),
        (headwater_proto::record::empty_control_batch(b"\0\0\0\0"), "INVALID_RECORD"),
        (batch_at(far, &["from the future"]), "INVALID_TIMESTAMP"),
        (bytes::Bytes::new(), "INVALID_RECORD"),
    ];
    for (records, expected) in cases {
        assert_eq!(code(&broker.produce("t", vec![records]).await[0].error), expected);
    }
    assert_eq!(
        code(&broker.produce("no-such", vec![batch(&["a"])]).await[0].error),
        "UNKNOWN_TOPIC_OR_PARTITION"
    );
    assert_eq!(broker.read("t", 0, 0).await, []);
    broker.stop().await;
}

#[tokio::test]
async fn acks_0_is_not_answered_and_other_acks_are_an_error() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    let silent = v1::ProduceRequest { acks: 0, ..produce_request("t", 0, 1, batch(&["a"])) };
    let loud = produce_request("t", 0, 2, batch(&["b"]));
    let mut answers = broker.data.produce(tokio_stream::iter([silent, loud])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().correlation, 2);
    assert_eq!(answers.message().await.unwrap(), None);
    assert_eq!(broker.read("t", 0, 0).await.len(), 2);
    let wrong = v1::ProduceRequest { acks: 2, ..produce_request("t", 0, 3, batch(&["c"])) };
    let mut answers = broker.data.produce(tokio_stream::iter([wrong])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap_err().message().contains("INVALID_REQUIRED_ACKS"));
    broker.stop().await;
}

#[tokio::test]
async fn a_tail_follows_several_partitions_and_ends_with_the_broker() {
    let mut broker = Harness::start().await;
    broker.create("t", 2, &[]).await;
    broker.produce("t", vec![batch(&["a"])]).await;
    let partitions = vec![fetch_partition("t", 0, 0), fetch_partition("t", 1, 0), fetch_partition("x", 0, 0)];
    let request = v1::ConsumeRequest { partitions, ..Default::default() };
    let mut tail = broker.data.consume(request).await.unwrap().into_inner();
    let (mut records, mut ends, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    while records.is_empty() || ends.len() < 2 || failed.is_empty() {
        let message = tail.message().await.unwrap().unwrap().records.unwrap();
        match &message.error {
            Some(_) => failed.push(code(&message.error)),
            None => {
                ends.push((message.partition, message.high_watermark));
                records.extend(values(message.records, 0));
            }
        }
    }
    ends.sort_unstable();
    assert_eq!((records.len(), ends, failed), (1, vec![(0, 1), (1, 0)], vec!["UNKNOWN_TOPIC_OR_PARTITION"]));
    broker.produce("t", vec![batch(&["b", "c"])]).await;
    let message = tail.message().await.unwrap().unwrap().records.unwrap();
    assert_eq!((message.next_offset, message.high_watermark), (3, 3));
    assert_eq!(values(message.records, 0).len(), 2);
    let ended = tokio::spawn(async move { tail.message().await });
    broker.stop().await;
    assert_eq!(ended.await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_records_come_or_the_time_is_over() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    let poll = |max_wait_ms| v1::FetchRequest {
        partitions: vec![fetch_partition("t", 0, 0)],
        max_bytes: 0,
        min_bytes: 1,
        max_wait_ms,
        ..Default::default()
    };
    let empty = broker.data.fetch(poll(1)).await.unwrap().into_inner();
    assert!(empty.partitions[0].records.is_empty());
    let mut data = broker.data.clone();
    let request = poll(60_000);
    let waiting = tokio::spawn(async move { data.fetch(request).await });
    broker.produce("t", vec![batch(&["a"])]).await;
    let found = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap().into_inner();
    assert_eq!(values(found.partitions[0].records.clone(), 0).len(), 1);
    let beyond = v1::FetchRequest { partitions: vec![fetch_partition("t", 0, 9)], ..poll(60_000) };
    let beyond = broker.data.fetch(beyond).await.unwrap().into_inner();
    assert_eq!(code(&beyond.partitions[0].error), "OFFSET_OUT_OF_RANGE");
    broker.stop().await;
}

#[tokio::test]
async fn a_fetch_is_bounded_but_the_first_batch_always_comes() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    let large = "x".repeat(1_000);
    broker.produce("t", vec![batch(&[&large]), batch(&[&large]), batch(&["small"])]).await;
    let fetch = |offset, max_bytes| v1::FetchRequest {
        partitions: vec![fetch_partition("t", 0, offset)],
        max_bytes,
        ..Default::default()
    };
    for (offset, max_bytes, next) in [(0, 10, 1), (0, 1_500, 1), (0, 2_400, 3), (1, 1, 2)] {
        let fetched = broker.data.fetch(fetch(offset, max_bytes)).await.unwrap().into_inner();
        assert_eq!(fetched.partitions[0].next_offset, next, "from {offset}, {max_bytes} bytes");
    }
    broker.stop().await;
}

#[tokio::test]
async fn offsets_are_found_by_time_to_the_record() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    let mut builder = headwater_proto::record::RecordBatchBuilder::new(Default::default(), None);
    for timestamp in [100, 300, 200] {
        builder.append(timestamp, None, Some(b"x"), &[]).unwrap();
    }
    let old = batch_at(50, &["old"]);
    broker.produce("t", vec![old, builder.build().unwrap(), batch_at(250, &["late"])]).await;
    let wanted =
        [(-1, 5, -1), (-2, 0, -1), (-3, 2, 300), (0, 0, 50), (101, 2, 300), (300, 2, 300), (301, -1, -1)];
    let partition = |timestamp| v1::ListOffsetsPartition { topic: "t".to_owned(), partition: 0, timestamp };
    let partitions = wanted.iter().map(|(timestamp, ..)| partition(*timestamp)).collect();
    let found = broker.data.list_offsets(v1::ListOffsetsRequest { partitions }).await.unwrap().into_inner();
    for (found, (asked, offset, timestamp)) in found.partitions.iter().zip(wanted) {
        assert_eq!((found.offset, found.timestamp), (offset, timestamp), "asked for {asked}");
    }
    let wrong = v1::ListOffsetsRequest { partitions: vec![partition(-9)] };
    let wrong = broker.data.list_offsets(wrong).await.unwrap().into_inner();
    assert_eq!(code(&wrong.partitions[0].error), "INVALID_REQUEST");
    broker.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    broker.produce("t", vec![batch(&["a"])]).await;
    broker.disk.set_free_bytes(0);
    let (requests, receiver) = mpsc::channel(8);
    let mut answers = broker.data.produce(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    // Space that was reserved ahead is used up first; then a write waits or is refused, never lost.
    let large = "x".repeat(1 << 19);
    let mut refused = 0;
    let mut acknowledged = 1;
    for n in 0..200 {
        let request = v1::ProduceRequest { timeout_ms: 200, ..produce_request("t", 0, n, batch(&[&large])) };
        requests.send(request).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        match &answer.partitions[0].error {
            None => acknowledged += 1,
            error => {
                assert!(["KAFKA_STORAGE_ERROR", "REQUEST_TIMED_OUT"].contains(&code(error)), "{error:?}");
                refused += 1;
            }
        }
        if refused > 1 {
            break;
        }
    }
    assert!(refused > 1);
    assert!(broker.read("t", 0, 0).await.len() >= acknowledged, "reads go on");
    broker.disk.set_free_bytes(1 << 30);
    let mut n = 1_000;
    loop {
        requests.send(produce_request("t", 0, n, batch(&["after"]))).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        if answer.partitions[0].error.is_none() {
            break;
        }
        n += 1;
        assert!(n < 1_300, "writes never come back: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(requests);
    broker.stop().await;
}

#[tokio::test]
async fn a_failed_sync_ends_its_partition_and_no_other_until_it_is_opened_again() {
    let mut broker = Harness::start().await;
    let topic = broker.create("t", 1, &[]).await;
    broker.create("u", 1, &[]).await;
    broker.produce("t", vec![batch(&["a"])]).await;
    let group = format!("{:0>32x}", u128::from_be_bytes(topic.topic_id[..].try_into().unwrap()));
    broker.disk.fail_syncs(Some(&group));
    let failed = broker.produce("t", vec![batch(&["b"])]).await.remove(0);
    assert!(["REQUEST_TIMED_OUT", "KAFKA_STORAGE_ERROR"].contains(&code(&failed.error)), "{failed:?}");
    broker.disk.fail_syncs(None);
    let refused = broker.produce("t", vec![batch(&["c"])]).await.remove(0);
    assert_eq!(code(&refused.error), "KAFKA_STORAGE_ERROR", "nothing is retried on a disk that lied");
    assert_eq!(broker.read("t", 0, 0).await, [(0, "a".into())], "what was committed is read");
    assert!(!broker.describe("t").await[0].damage.is_empty());
    assert_eq!(broker.produce("u", vec![batch(&["d"])]).await[0].error, None);
    let begun = tokio::time::Instant::now();
    while broker.produce("t", vec![batch(&["e"])]).await[0].error.is_some() {
        assert!(begun.elapsed() < PATIENCE, "it is never opened again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let expected = [(0, "a".into()), (1, "e".into())];
    assert_eq!(broker.read("t", 0, 0).await, expected, "what never was durable is gone");
    broker.power_cut();
    broker.boot().await;
    assert_eq!(broker.read("t", 0, 0).await, expected);
    broker.stop().await;
}

#[tokio::test]
async fn a_broker_that_cannot_write_its_journal_ends_and_says_why() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    broker.produce("t", vec![batch(&["a"])]).await;
    broker.disk.fail_syncs(Some("journal"));
    assert!(broker.produce("t", vec![batch(&["b"])]).await[0].error.is_some());
    let reason = broker.failed().await;
    assert!(reason.contains("could not be written"), "{reason}");
    broker.disk.fail_syncs(None);
    broker.power_cut();
    broker.boot().await;
    assert_eq!(broker.read("t", 0, 0).await[0], (0, "a".into()));
    assert_eq!(broker.produce("t", vec![batch(&["c"])]).await[0].error, None);
    broker.stop().await;
}
