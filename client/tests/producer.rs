//! The producer against a broker that fails: nothing lost, nothing doubled, nothing reordered.

#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use fake::{Fake, Faults};
use headwater_client::{
    Acks, Compression, Delivered, Delivery, DeliveryError, ErrorCode, Producer, ProducerConfig,
    ProducerRecord, SendError, partition_for_key,
};
use tokio::time::Instant;

fn record(n: usize) -> ProducerRecord {
    ProducerRecord::new("t", format!("{n}"))
}

/// Sends records numbered by partition, and gives what became of each.
async fn send_all(
    producer: &Producer,
    partitions: i32,
    count: usize,
) -> Vec<(i32, usize, Result<Delivered, DeliveryError>)> {
    let mut deliveries: Vec<(i32, usize, Delivery)> = Vec::new();
    for n in 0..count {
        let partition = n as i32 % partitions;
        let delivery = producer.send(record(n).partition(partition)).await.unwrap();
        deliveries.push((partition, n, delivery));
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    producer.flush().await;
    let mut outcomes = Vec::new();
    for (partition, n, delivery) in deliveries {
        // Flush returns only when all are resolved.
        outcomes.push((partition, n, delivery.try_result().expect("resolved by flush")));
    }
    outcomes
}

/// Each delivered record is at its offset, each record at most once, in the order sent.
fn check(fake: &Fake, outcomes: &[(i32, usize, Result<Delivered, DeliveryError>)]) {
    let state = fake.lock();
    let logs = &state.topics["t"];
    for (partition, n, outcome) in outcomes {
        let values = logs[*partition as usize].values();
        let found: Vec<usize> =
            values.iter().enumerate().filter(|(_, v)| **v == n.to_string()).map(|(at, _)| at).collect();
        match outcome {
            Ok(delivered) => assert_eq!(found, [delivered.offset as usize], "record {n}"),
            Err(error) if error.is_outcome_unknown() => assert!(found.len() <= 1, "record {n}: {found:?}"),
            Err(error) => assert!(found.is_empty(), "record {n} is stored, but: {error}"),
        }
    }
    for log in logs {
        let numbers: Vec<usize> = log.values().iter().map(|v| v.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "out of order: {numbers:?}");
    }
}

/// A restart, lost answers, refusals and delays: each seed is another history.
#[tokio::test(start_paused = true)]
async fn faults_neither_lose_nor_double_nor_reorder() {
    for seed in 0..40 {
        let fake = Fake::start(seed, 3);
        let client = fake.client(seed).await;
        let config = ProducerConfig {
            batch_records: Some(1 + seed as usize % 5),
            linger: Duration::from_millis(seed % 3),
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).await.unwrap();
        fake.lock().faults = Faults {
            cut_before: 2,
            cut_after: 3,
            refuse: 5,
            time_out: 3,
            delay_ms: 20,
            refuse_connect: 30,
            ..Faults::default()
        };
        let outcomes = send_all(&producer, 3, 300).await;
        let failed = outcomes.iter().find(|(_, _, outcome)| outcome.is_err());
        assert!(failed.is_none(), "seed {seed}: {failed:?}");
        check(&fake, &outcomes);
        assert!(producer.stats().batches_retried > 0, "seed {seed}: nothing went wrong");
        assert_eq!(producer.stats().buffered_bytes, 0);
    }
}

/// With time-outs short enough to strike, outcomes are still told honestly.
#[tokio::test(start_paused = true)]
async fn outcomes_are_honest_when_time_runs_out() {
    let mut kinds = [0; 3];
    for seed in 0..40 {
        let fake = Fake::start(seed, 2);
        let client = fake.client(seed).await;
        let config = ProducerConfig {
            batch_records: Some(2),
            delivery_timeout: Duration::from_millis(60),
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).await.unwrap();
        fake.lock().faults = Faults {
            cut_before: 4,
            cut_after: 6,
            refuse: 10,
            delay_ms: 15,
            refuse_connect: 50,
            ..Faults::default()
        };
        let outcomes = send_all(&producer, 2, 120).await;
        check(&fake, &outcomes);
        for (_, _, outcome) in &outcomes {
            kinds[match outcome {
                Ok(_) => 0,
                Err(error) if error.is_outcome_unknown() => 1,
                Err(_) => 2,
            }] += 1;
        }
        // What comes after is delivered again: the sequences have closed the gap.
        fake.lock().faults = Faults::default();
        let mut after = 0;
        while producer.send(record(9_999).partition(0)).await.unwrap().await.is_err() {
            after += 1;
            assert!(after < 100, "seed {seed}: nothing is delivered any more");
        }
    }
    assert!(kinds.iter().all(|count| *count > 0), "delivered, unknown, failed: {kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_ridden_out() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig { batch_records: Some(1), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    let before = producer.send(record(0)).await.unwrap().await.unwrap();
    assert_eq!(before, Delivered { partition: 0, offset: 0 });
    {
        let mut state = fake.lock();
        state.down = true;
        state.cut();
    }
    let mut waiting = Vec::new();
    for n in 1..20 {
        waiting.push(producer.send(record(n)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(waiting.iter().all(|delivery| delivery.try_result().is_none()));
    fake.lock().down = false;
    for (n, delivery) in waiting.into_iter().enumerate() {
        assert_eq!(delivery.await.unwrap().offset, n as i64 + 1);
    }
    assert_eq!(fake.lock().topics["t"][0].values().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_alone_and_definitely() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig { batch_records: Some(1), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    fake.lock().batch_bytes_max = 1_000;
    let mut deliveries = Vec::new();
    for n in 0..10 {
        let value = if n == 4 { vec![b'x'; 2_000] } else { n.to_string().into_bytes() };
        deliveries.push(producer.send(ProducerRecord::new("t", value)).await.unwrap());
    }
    for (n, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(delivered) => assert_eq!(delivered.offset, if n < 4 { n } else { n - 1 } as i64),
            Err(DeliveryError::Refused { code, .. }) => {
                assert_eq!((n, code), (4, ErrorCode::MessageTooLarge));
            }
            Err(error) => panic!("record {n}: {error}"),
        }
    }
    assert_eq!(fake.lock().topics["t"][0].values(), ["0", "1", "2", "3", "5", "6", "7", "8", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_makes_the_outcome_unknown() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(3), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    fake.lock().silent = true;
    let error = producer.send(record(0)).await.unwrap().await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(fake.lock().topics["t"][0].values(), ["0"]);
    assert_eq!(producer.stats().records_unknown, 1);
}

/// The partition expired the producer between a lost answer and the next attempt.
#[tokio::test(start_paused = true)]
async fn a_batch_in_doubt_of_a_forgotten_producer_is_not_stored_twice() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig { batch_records: Some(1), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    producer.send(record(0)).await.unwrap().await.unwrap();
    fake.lock().faults.cut_after = 100;
    let in_doubt = producer.send(record(1)).await.unwrap();
    while fake.lock().topics["t"][0].values().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    {
        let mut state = fake.lock();
        state.faults = Faults::default();
        state.producers.clear();
    }
    let after = producer.send(record(2)).await.unwrap();
    let error = in_doubt.await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(after.await.unwrap().offset, 2, "the others go on under another id");
    assert_eq!(fake.lock().topics["t"][0].values(), ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_fails_for_certain() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(3), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    {
        let mut state = fake.lock();
        state.down = true;
        state.cut();
    }
    let error = producer.send(record(0)).await.unwrap().await.unwrap_err();
    assert!(matches!(error, DeliveryError::Expired { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_a_full_buffer_blocks_then_fails() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig {
        buffer_bytes: 10_000,
        record_bytes_max: 5_000,
        max_block: Duration::from_secs(2),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config).await.unwrap();
    {
        let mut state = fake.lock();
        state.down = true;
        state.cut();
    }
    let mut accepted = Vec::new();
    let error = loop {
        assert!(producer.stats().buffered_bytes <= 10_000);
        match producer.send(ProducerRecord::new("t", vec![0; 1_000])).await {
            Ok(delivery) => accepted.push(delivery),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SendError::BufferFull { .. }), "{error}");
    assert!((5..10).contains(&accepted.len()), "{} records fit into 10 kB", accepted.len());
    let too_large = producer.send(ProducerRecord::new("t", vec![0; 6_000])).await.unwrap_err();
    assert!(matches!(too_large, SendError::RecordTooLarge { .. }), "{too_large}");
    // Once the broker is back, whoever waits gets room, whatever the linger.
    fake.lock().down = false;
    for _ in 0..50 {
        accepted.push(producer.send(ProducerRecord::new("t", vec![0; 1_000])).await.unwrap());
    }
    for delivery in accepted {
        delivery.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn linger_fills_batches_and_flush_does_not_wait_for_it() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig { linger: Duration::from_secs(60), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    let started = tokio::time::Instant::now();
    for n in 0..100 {
        drop(producer.send(record(n)).await.unwrap());
    }
    producer.flush().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(fake.lock().topics["t"][0].batches.len(), 1);
    let late = producer.send(record(100)).await.unwrap();
    assert_eq!(late.await.unwrap().offset, 100);
    assert!(started.elapsed() >= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn tiny_batches_share_messages() {
    let fake = Fake::start(1, 8);
    let client = fake.client(1).await;
    let config = ProducerConfig { batch_records: Some(1), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    let outcomes = send_all(&producer, 8, 4_000).await;
    check(&fake, &outcomes);
    let state = fake.lock();
    assert_eq!(state.batches, 4_000);
    assert!(state.produce_messages <= 2_000, "{} messages", state.produce_messages);
}

#[tokio::test(start_paused = true)]
async fn each_codec_and_each_acks_delivers() {
    for compression in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        for acks in [Acks::All, Acks::Leader, Acks::None] {
            let fake = Fake::start(1, 2);
            let client = fake.client(1).await;
            let idempotent = acks == Acks::All;
            let config = ProducerConfig { acks, idempotent, compression, ..ProducerConfig::default() };
            let producer = client.producer(config).await.unwrap();
            let sent = send_all(&producer, 2, 50).await;
            for (_, _, outcome) in &sent {
                assert_eq!(outcome.as_ref().unwrap().offset == -1, acks == Acks::None);
            }
            producer.close().await;
            while fake.lock().batches < 2 {
                fake.appended.notified().await;
            }
            let state = fake.lock();
            assert_eq!(state.topics["t"].iter().map(|log| log.records().len()).sum::<usize>(), 50);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn keys_go_where_kafka_puts_them_and_the_rest_spreads() {
    let fake = Fake::start(1, 6);
    let client = fake.client(1).await;
    let config = ProducerConfig { batch_records: Some(4), ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    for n in 0..200 {
        drop(producer.send(record(n).key(format!("key-{}", n % 20))).await.unwrap());
    }
    producer.flush().await;
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (partition, log) in fake.lock().topics["t"].iter().enumerate() {
        for record in log.records() {
            let key = record.key.unwrap();
            assert_eq!(partition_for_key(&key, 6), partition as i32);
            let number = String::from_utf8(record.value.unwrap().to_vec()).unwrap().parse().unwrap();
            by_key.entry(String::from_utf8(key.to_vec()).unwrap()).or_default().push(number);
        }
    }
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), 200);
    assert!(by_key.values().all(|numbers| numbers.is_sorted()));

    let mut partitions = [0; 6];
    for n in 0..600 {
        partitions[producer.send(record(n)).await.unwrap().partition().partition as usize] += 1;
    }
    assert!(partitions.iter().all(|count| *count > 30 && count % 4 == 0), "{partitions:?}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_producer_refuses_and_has_delivered() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let delivery = producer.send(record(0)).await.unwrap();
    producer.close().await;
    assert!(delivery.try_result().unwrap().is_ok());
    assert_eq!(producer.send(record(1)).await.unwrap_err(), SendError::Closed);
    producer.flush().await;
    // Dropped without closing: what was accepted is still sent.
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let delivery = producer.send(record(1)).await.unwrap();
    drop(producer);
    assert_eq!(delivery.await.unwrap().offset, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_or_partition_is_said_at_once() {
    let fake = Fake::start(1, 1);
    let client = fake.client(1).await;
    let producer = client.producer(ProducerConfig::default()).await.unwrap();
    let error = producer.send(ProducerRecord::new("nope", "x")).await.unwrap_err();
    assert!(matches!(&error, SendError::Metadata(e) if e.code() == Some(ErrorCode::UnknownTopicOrPartition)));
    let error = producer.send(record(0).partition(1)).await.unwrap_err();
    assert!(matches!(error, SendError::NoSuchPartition { partitions: 1, .. }), "{error}");
    fake.lock().topics.get_mut("t").unwrap().push(fake::FakeLog::default());
    assert_eq!(producer.send(record(0).partition(1)).await.unwrap().await.unwrap().partition, 1);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_gets_no_id_ends_with_the_delivery_timeout() {
    let fake = Fake::cluster(1, 3, 1);
    let client = fake.client(1).await;
    fake.lock().kill(1);
    fake.lock().kill(2);
    fake.lock().node(0).hung = true;
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(2), ..ProducerConfig::default() };
    let started = Instant::now();
    let error = client.producer(config).await.err().unwrap().to_string();
    assert!(started.elapsed() < Duration::from_millis(2_100), "{:?}", started.elapsed());
    assert!(error.starts_with("get a producer id: no answer within 2000 ms"), "{error}");
    assert!(error.contains("fake:9093"), "the one that may have seen it: {error}");
}
