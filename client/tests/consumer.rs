//! The consumer: every record once and in order, whatever becomes of its streams.

#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use fake::{Fake, Faults};
use headwater_client::{ConsumeError, Consumer, ConsumerConfig, OffsetPolicy, Position, TopicPartition};
use headwater_proto::record::{Compression, Limits, RecordBatch, RecordBatchBuilder};

/// Fills each partition with `count` records valued by their offsets, in batches of `per_batch`.
fn fill(fake: &Fake, count: usize, per_batch: usize) {
    let mut state = fake.lock();
    for log in state.topics.get_mut("t").unwrap() {
        let end = log.next_offset as usize + count;
        while (log.next_offset as usize) < end {
            let mut builder = RecordBatchBuilder::new(Compression::Lz4, None);
            for offset in (log.next_offset as usize..end).take(per_batch) {
                builder.append(offset as i64 * 10, None, Some(offset.to_string().as_bytes()), &[]).unwrap();
            }
            let batch = RecordBatch::validate(builder.build().unwrap(), &Limits::default()).unwrap();
            log.append(&batch);
        }
    }
    drop(state);
    fake.appended.notify_waiters();
}

fn partition(n: i32) -> TopicPartition {
    TopicPartition::new("t", n)
}

async fn consumer(fake: &Fake, config: ConsumerConfig, partitions: i32, from: Position) -> Consumer {
    let mut consumer = fake.client(1).await.consumer(config).unwrap();
    consumer.assign((0..partitions).map(|n| (partition(n), from))).await.unwrap();
    consumer
}

/// Takes `count` records and checks that each is the next of its partition.
async fn take(consumer: &mut Consumer, count: usize, next: &mut BTreeMap<i32, i64>) {
    for _ in 0..count {
        let record = consumer.next().await.unwrap();
        let expected = next.entry(record.partition).or_default();
        assert_eq!(record.offset, *expected);
        assert_eq!(record.value.unwrap(), expected.to_string());
        *expected += 1;
        assert_eq!(consumer.position(&partition(record.partition)), Some(*expected));
    }
}

#[tokio::test(start_paused = true)]
async fn lost_streams_neither_skip_nor_repeat() {
    for seed in 0..20 {
        let fake = Fake::start(seed, 3);
        fill(&fake, 200, 1 + seed as usize % 7);
        let config =
            ConsumerConfig { prefetch_bytes: 500, max_message_bytes: 200, ..ConsumerConfig::default() };
        let mut consumer = consumer(&fake, config, 3, Position::Start).await;
        fake.lock().faults = Faults { cut_consume: 10, refuse_connect: 30, ..Faults::default() };
        let mut next = BTreeMap::new();
        take(&mut consumer, 600, &mut next).await;
        assert!(consumer.at_end());
        // Records that come later are waited for.
        fill(&fake, 5, 5);
        take(&mut consumer, 15, &mut next).await;
        assert!(fake.lock().connections > 2, "seed {seed}: nothing went wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn positions_are_honoured_within_a_batch() {
    let fake = Fake::start(1, 1);
    fill(&fake, 20, 10);
    let config = ConsumerConfig::default;
    for (position, first) in [
        (Position::Start, 0),
        (Position::Offset(13), 13),
        (Position::Timestamp(65), 7),
        (Position::Timestamp(70), 7),
    ] {
        let mut consumer = consumer(&fake, config(), 1, position).await;
        assert_eq!(consumer.next().await.unwrap().offset, first, "{position:?}");
        assert_eq!(consumer.high_watermark(&partition(0)), Some(20));
    }
    for position in [Position::End, Position::Timestamp(10_000)] {
        let mut consumer = consumer(&fake, config(), 1, position).await;
        assert!(consumer.at_end());
        let waiting = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
        assert!(waiting.is_err(), "{position:?}: {waiting:?}");
    }
    let mut consumer = consumer(&fake, config(), 1, Position::Offset(13)).await;
    let batch = consumer.next_batch().await.unwrap();
    assert_eq!((batch.first_offset, batch.next_offset(), batch.offset_count()), (13, 20, 7));
    assert_eq!(batch.batch.header().base_offset, 10);
    let offsets: Vec<i64> = batch.records().unwrap().map(|r| r.unwrap().offset).collect();
    assert_eq!(offsets, (13..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn seek_pause_and_resume_lose_nothing() {
    let fake = Fake::start(1, 2);
    fill(&fake, 50, 5);
    let mut consumer = consumer(&fake, ConsumerConfig::default(), 2, Position::Start).await;
    let mut next = BTreeMap::new();
    take(&mut consumer, 33, &mut next).await;
    consumer.pause(&partition(0)).unwrap();
    let (paused_at, left) =
        (consumer.position(&partition(0)).unwrap(), 50 - next.get(&1).copied().unwrap_or(0));
    for _ in 0..left {
        assert_eq!(consumer.next().await.unwrap().partition, 1);
    }
    let waiting = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
    assert!(waiting.is_err(), "a paused partition gave {waiting:?}");
    consumer.resume(&partition(0)).unwrap();
    assert_eq!(consumer.next().await.unwrap().offset, paused_at);
    // In the middle of a batch, and back.
    consumer.seek(&partition(1), Position::Offset(12)).await.unwrap();
    consumer.pause(&partition(0)).unwrap();
    for offset in 12..50 {
        assert_eq!(consumer.next().await.unwrap().offset, offset);
    }
    // The rest of a batch that `next` is in.
    consumer.seek(&partition(1), Position::Offset(20)).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().offset, 20);
    assert_eq!(consumer.next_batch().await.unwrap().first_offset, 21);
    assert_eq!(consumer.position(&partition(1)), Some(25));
    consumer.pause(&partition(1)).unwrap();
    assert_eq!(consumer.next().await.unwrap_err(), ConsumeError::NothingToWaitFor);
    let unknown = consumer.seek(&partition(7), Position::Start).await.unwrap_err();
    assert!(matches!(unknown, ConsumeError::NotAssigned { .. }), "{unknown}");
}

#[tokio::test(start_paused = true)]
async fn an_offset_out_of_range_follows_the_policy() {
    let fake = Fake::start(1, 1);
    fill(&fake, 30, 10);
    fake.lock().log("t", 0).unwrap().log_start = 10;
    let config = |offset_policy| ConsumerConfig { offset_policy, ..ConsumerConfig::default() };
    let mut stops = consumer(&fake, config(OffsetPolicy::Error), 1, Position::Offset(3)).await;
    let error = stops.next().await.unwrap_err();
    let ConsumeError::OffsetOutOfRange { offset, log_start_offset, high_watermark, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((offset, log_start_offset, high_watermark), (3, 10, 30));
    assert_eq!(stops.next().await.unwrap_err(), ConsumeError::NothingToWaitFor);
    stops.seek(&partition(0), Position::Start).await.unwrap();
    assert_eq!(stops.next().await.unwrap().offset, 10);

    let mut earliest = consumer(&fake, config(OffsetPolicy::Earliest), 1, Position::Offset(3)).await;
    assert_eq!(earliest.next().await.unwrap().offset, 10);
    let mut latest = consumer(&fake, config(OffsetPolicy::Latest), 1, Position::Offset(99)).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), latest.next()).await.is_err());
    assert!(latest.at_end());
    fill(&fake, 1, 1);
    assert_eq!(latest.next().await.unwrap().offset, 30);
}

/// Flips a bit of the batch from offset 10 on, or flips it back.
fn flip(fake: &Fake) {
    let mut state = fake.lock();
    let batch = &mut state.log("t", 0).unwrap().batches[1];
    let mut bytes = batch.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    *batch = RecordBatch::trusted(bytes.into()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_batch_is_fetched_again_until_it_comes_whole() {
    let fake = Fake::start(1, 1);
    fill(&fake, 30, 10);
    let mut consumer = consumer(&fake, ConsumerConfig::default(), 1, Position::Start).await;
    for round in 0..3 {
        consumer.seek(&partition(0), Position::Start).await.unwrap();
        flip(&fake);
        let made_good = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            flip(&fake);
        };
        let mut next = BTreeMap::new();
        tokio::join!(take(&mut consumer, 30, &mut next), made_good);
        assert_eq!(next[&0], 30, "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn damage_is_reported_where_it_begins() {
    let fake = Fake::start(1, 1);
    fill(&fake, 30, 10);
    flip(&fake);
    let mut consumer = consumer(&fake, ConsumerConfig::default(), 1, Position::Start).await;
    let mut next = BTreeMap::new();
    take(&mut consumer, 10, &mut next).await;
    let error = consumer.next().await.unwrap_err();
    assert!(matches!(error, ConsumeError::Corrupt { offset: 10, .. }), "{error}");
    consumer.seek(&partition(0), Position::Offset(20)).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().offset, 20);
}

#[tokio::test(start_paused = true)]
async fn an_unread_consumer_stops_the_broker() {
    let fake = Fake::start(1, 1);
    fill(&fake, 2_000, 1);
    let config =
        ConsumerConfig { prefetch_bytes: 1_000, max_message_bytes: 500, ..ConsumerConfig::default() };
    let mut consumer = consumer(&fake, config, 1, Position::Start).await;
    consumer.next().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(consumer.buffered_bytes() <= 1_500, "{} bytes", consumer.buffered_bytes());
    let mut next = BTreeMap::from([(0, 1)]);
    take(&mut consumer, 1_999, &mut next).await;
}
