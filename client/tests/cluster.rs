//! Clients of several brokers: leaders move, brokers die and hang, and every record is stored and read
//! once and in order.

#![allow(clippy::unwrap_used)]

mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use fake::script::{Script, trouble};
use fake::{Fake, Faults};
use headwater_client::{
    Acks, Client, Consumer, ConsumerConfig, Delivery, DeliveryError, ErrorCode, NewTopic, OffsetSpec,
    Position, Producer, ProducerConfig, ProducerRecord, TopicPartition,
};
use headwater_proto::record::{Compression, Limits};
use tokio::time::{Instant, sleep, timeout};

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

fn record(number: usize, partition: i32) -> ProducerRecord {
    ProducerRecord::new("t", number.to_string()).partition(partition)
}

async fn producer(client: &Client) -> Producer {
    let config =
        ProducerConfig { batch_records: Some(1), linger: Duration::ZERO, ..ProducerConfig::default() };
    client.producer(config).await.unwrap()
}

async fn consumer(client: &Client, partitions: i32) -> Consumer {
    let mut consumer = client.consumer(ConsumerConfig::default()).unwrap();
    consumer.assign((0..partitions).map(|n| (partition(n), Position::Start))).await.unwrap();
    consumer
}

/// Takes `count` records, each of which must be the next of its partition.
async fn read_in_order(mut consumer: Consumer, count: usize) -> BTreeMap<i32, Vec<usize>> {
    let mut read: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for _ in 0..count {
        let record = consumer.next().await.unwrap();
        let values = read.entry(record.partition).or_default();
        assert_eq!(record.offset as usize, values.len(), "partition {}", record.partition);
        values.push(std::str::from_utf8(&record.value.unwrap()).unwrap().parse().unwrap());
    }
    read
}

fn stored(fake: &Fake, partition: i32) -> Vec<usize> {
    let state = fake.lock();
    state.topics["t"][partition as usize].values().iter().map(|value| value.parse().unwrap()).collect()
}

/// Each seed is another history of elections, kills, hangs and lost answers.
#[tokio::test(start_paused = true)]
async fn whatever_happens_each_record_is_stored_and_read_once_and_in_order() {
    const PARTITIONS: i32 = 3;
    let mut kinds = [0; 5];
    let mut retried = 0;
    for seed in 0..30 {
        let fake = Fake::cluster(seed, 3, PARTITIONS as usize);
        let client = fake.client(seed).await;
        let config = ProducerConfig {
            batch_records: Some(1 + seed as usize % 4),
            linger: Duration::from_millis(seed % 3),
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).await.unwrap();
        let consumer = consumer(&fake.client(seed + 1_000).await, PARTITIONS).await;
        {
            let mut state = fake.lock();
            state.hints = [0, 50, 100][seed as usize % 3];
            let (cut_before, cut_after, refuse, time_out) = (1, 2, 3, 2);
            let (delay_ms, refuse_connect, cut_consume) = (20, 10, 2);
            state.faults =
                Faults { cut_before, cut_after, refuse, time_out, delay_ms, refuse_connect, cut_consume };
        }
        let script = Script { seed, lasts: Duration::from_secs(10) };
        let troubled = tokio::spawn(trouble(fake.clone(), script));
        let mut sent: Vec<(i32, usize, Delivery)> = Vec::new();
        let mut number = 0;
        while !troubled.is_finished() {
            let to = number as i32 % PARTITIONS;
            sent.push((to, number, producer.send(record(number, to)).await.unwrap()));
            number += 1;
            sleep(Duration::from_millis(seed * number as u64 % 40)).await;
        }
        let happened = troubled.await.unwrap();
        kinds.iter_mut().zip(happened).for_each(|(sum, count)| *sum += count);
        fake.lock().faults = Faults::default();
        producer.flush().await;
        let mut expected: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (to, number, delivery) in sent {
            let delivered = delivery.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let values = expected.entry(to).or_default();
            if delivered.offset >= 0 {
                assert_eq!(delivered.offset as usize, values.len(), "seed {seed}, record {number}");
            }
            values.push(number);
        }
        for (to, values) in &expected {
            assert_eq!(&stored(&fake, *to), values, "seed {seed}, partition {to}");
        }
        let read = timeout(Duration::from_secs(30), read_in_order(consumer, number)).await;
        assert_eq!(read.unwrap_or_else(|_| panic!("seed {seed}: not all is read")), expected);
        retried += producer.stats().batches_retried;
    }
    assert!(kinds.iter().all(|count| *count > 10), "each kind of trouble: {kinds:?}");
    assert!(retried > 500, "only {retried} batches were sent again");
}

/// Sends a record every 10 ms while `event` happens, and gives the longest time that one took.
async fn longest_delivery(fake: &Fake, event: impl Future<Output = ()>) -> Duration {
    let client = fake.client(7).await;
    let producer = producer(&client).await;
    producer.send(record(0, 0)).await.unwrap().await.unwrap();
    let load = async {
        let mut waiting = Vec::new();
        for number in 1..400 {
            let delivery = producer.send(record(number, 0)).await.unwrap();
            let started = Instant::now();
            waiting.push(tokio::spawn(async move {
                delivery.await.unwrap();
                started.elapsed()
            }));
            sleep(Duration::from_millis(10)).await;
        }
        let mut longest = Duration::ZERO;
        for delivery in waiting {
            longest = longest.max(delivery.await.unwrap());
        }
        longest
    };
    let (longest, ()) = tokio::join!(load, event);
    assert_eq!(stored(fake, 0), (0..400).collect::<Vec<_>>());
    longest
}

#[tokio::test(start_paused = true)]
async fn a_handover_costs_a_round_trip() {
    let fake = Fake::cluster(1, 3, 1);
    let event = async {
        for to in [1, 2, 0, 2, 1] {
            sleep(Duration::from_millis(300)).await;
            fake.elect(0, to, &[]);
        }
    };
    let longest = longest_delivery(&fake, event).await;
    assert!(longest < Duration::from_millis(20), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_costs_its_replacement_and_little_more() {
    for seed in 0..10 {
        let fake = Fake::cluster(seed, 3, 1);
        let event = async {
            sleep(Duration::from_millis(500)).await;
            fake.lock().kill(0);
            fake.elect(0, -1, &[]);
            sleep(Duration::from_millis(900)).await;
            fake.elect(0, 1 + (seed % 2) as i32, &[]);
        };
        let longest = longest_delivery(&fake, event).await;
        assert!(longest < Duration::from_millis(1_150), "seed {seed}: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hangs_is_left_once_another_one_leads() {
    for seed in 0..10 {
        let fake = Fake::cluster(seed, 3, 1);
        let event = async {
            sleep(Duration::from_millis(500)).await;
            fake.lock().node(0).hung = true;
            sleep(Duration::from_millis(900)).await;
            fake.elect(0, 1, &[0]);
            sleep(Duration::from_millis(2_000)).await;
            fake.change(|state| state.node(0).hung = false);
        };
        let longest = longest_delivery(&fake, event).await;
        assert!(longest < Duration::from_millis(2_000), "seed {seed}: {longest:?}");
    }
}

/// Its clients still reach it, its followers don't.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_is_left_by_producers_and_consumers() {
    let fake = Fake::cluster(1, 3, 1);
    let mut consumer = consumer(&fake.client(2).await, 1).await;
    let event = async {
        sleep(Duration::from_millis(500)).await;
        fake.elect(0, 2, &[0]);
    };
    let longest = longest_delivery(&fake, event).await;
    assert!(longest < Duration::from_millis(1_100), "{longest:?}");
    let read = async {
        for offset in 0..400 {
            assert_eq!(consumer.next().await.unwrap().offset, offset);
        }
    };
    timeout(Duration::from_secs(5), read).await.expect("the consumer is left behind");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_cannot_be_reached_is_waited_for_no_longer_than_for_another_leader() {
    let fake = Fake::cluster(1, 3, 1);
    let event = async {
        sleep(Duration::from_millis(500)).await;
        {
            let mut state = fake.lock();
            state.node(0).unreachable = true;
            state.cut_node(0);
        }
        sleep(Duration::from_millis(900)).await;
        fake.elect(0, 1, &[0]);
    };
    let longest = longest_delivery(&fake, event).await;
    assert!(longest < Duration::from_millis(2_500), "{longest:?}");
}

/// The metadata of all brokers lags behind the leader itself.
#[tokio::test(start_paused = true)]
async fn a_leader_in_a_newer_epoch_is_believed() {
    let fake = Fake::cluster(1, 3, 1);
    let client = fake.client(1).await;
    let producer = producer(&client).await;
    producer.send(record(0, 0)).await.unwrap().await.unwrap();
    fake.elect(0, 0, &[1, 2]);
    let started = Instant::now();
    producer.send(record(1, 0)).await.unwrap().await.unwrap();
    let mut consumer = consumer(&client, 1).await;
    assert_eq!(consumer.next().await.unwrap().offset, 0);
    assert_eq!(consumer.next().await.unwrap().offset, 1);
    assert!(started.elapsed() < Duration::from_millis(20), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_moves_is_moved_alone() {
    for hints in [0, 100] {
        let fake = Fake::cluster(1, 3, 4);
        fake.lock().hints = hints;
        let client = fake.client(1).await;
        let producer = producer(&client).await;
        let mut consumer = consumer(&client, 4).await;
        for round in 0..12 {
            if round == 4 {
                fake.elect(1, 1, &[]);
            }
            if round == 8 {
                fake.elect(2, 1, &[]);
            }
            for to in 0..4 {
                producer.send(record(round, to)).await.unwrap().await.unwrap();
            }
            for _ in 0..4 {
                assert_eq!(consumer.next().await.unwrap().offset, round as i64);
            }
        }
        let mut state = fake.lock();
        assert_eq!(state.node(0).consumed.len(), 4, "the first stream goes on for the others");
        let moved = &state.node(1).consumed;
        assert_eq!(moved[..2], [(1, 4, false), (2, 8, false)], "hints {hints}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_moves_do_not_leave_many_streams() {
    let fake = Fake::cluster(1, 2, 12);
    let client = fake.client(1).await;
    let producer = producer(&client).await;
    let mut consumer = consumer(&client, 12).await;
    for moved in 0..12 {
        fake.elect(moved, 1, &[]);
        producer.send(record(0, moved)).await.unwrap().await.unwrap();
        consumer.next().await.unwrap();
    }
    assert!(consumer.stream_count() <= 5, "{} streams", consumer.stream_count());
    for to in 0..12 {
        producer.send(record(1, to)).await.unwrap().await.unwrap();
        assert_eq!(consumer.next().await.unwrap().offset, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rack_reads_from_its_own_replica_and_falls_back_to_the_leader() {
    let fake = Fake::cluster(1, 3, 1);
    fake.change(|state| {
        for (node, rack) in state.nodes.iter_mut().zip(["a", "b", "c"]) {
            node.rack = rack.to_owned();
        }
    });
    let mut config = fake.config(1);
    config.rack = Some("b".to_owned());
    let client = Client::connect(config).await.unwrap();
    let producer = producer(&client).await;
    let mut consumer = consumer(&client, 1).await;
    let mut next = 0;
    let mut pass = async |count: i64, consumer: &mut Consumer| {
        for _ in 0..count {
            producer.send(record(next as usize, 0)).await.unwrap().await.unwrap();
            assert_eq!(consumer.next().await.unwrap().offset, next);
            next += 1;
        }
    };
    pass(5, &mut consumer).await;
    assert_eq!(fake.lock().node(1).consumed, [(0, 0, true)]);
    assert!(fake.lock().node(0).consumed.is_empty());

    fake.lock().kill(1);
    pass(5, &mut consumer).await;
    assert_eq!(fake.lock().node(0).consumed, [(0, 5, false)]);

    // It is back, but not caught up: the leader serves on.
    fake.change(|state| {
        state.node(1).down = false;
        state.log("t", 0).unwrap().ends.insert(1, 7);
    });
    sleep(Duration::from_secs(60)).await;
    pass(5, &mut consumer).await;
    assert_eq!(fake.lock().node(1).consumed.len(), 1);

    // Caught up, as far as metadata knows: it refuses what it has not got, and is left again.
    fake.change(|state| state.log("t", 0).unwrap().ends.clear());
    sleep(Duration::from_secs(400)).await;
    pass(5, &mut consumer).await;
    assert!(fake.lock().node(1).consumed.len() > 1, "the replica nearby is used again");
}

#[tokio::test(start_paused = true)]
async fn one_reachable_address_is_enough() {
    let fake = Fake::cluster(1, 3, 3);
    fake.elect(1, 1, &[]);
    fake.elect(2, 2, &[]);
    let mut config = fake.config(1);
    config.brokers = vec!["nobody:9093".into(), "fake-2:9093".into()];
    let client = Client::connect(config).await.unwrap();
    let producer = producer(&client).await;
    for to in 0..3 {
        producer.send(record(0, to)).await.unwrap().await.unwrap();
        assert!(fake.lock().node(to).produced > 0);
    }
    // The address that it came from may go away.
    fake.lock().kill(2);
    assert_eq!(client.admin().cluster().await.unwrap().brokers.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn requests_about_partitions_follow_their_leaders() {
    let fake = Fake::cluster(1, 3, 2);
    let client = fake.client(1).await;
    let producer = producer(&client).await;
    producer.send(record(0, 0)).await.unwrap().await.unwrap();
    fake.elect(0, 1, &[]);
    fake.lock().kill(0);
    fake.elect(1, -1, &[]);
    let later = fake.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(900)).await;
        later.elect(1, 2, &[]);
    });
    let started = Instant::now();
    let asked = vec![(partition(0), OffsetSpec::HighWatermark), (partition(1), OffsetSpec::HighWatermark)];
    let listed = client.admin().list_offsets(asked).await.unwrap();
    assert_eq!(listed[&partition(0)].as_ref().unwrap().offset, Some(1));
    assert_eq!(listed[&partition(1)].as_ref().unwrap().offset, Some(0));
    assert!(started.elapsed() < Duration::from_millis(1_200), "{:?}", started.elapsed());
    assert!(!client.admin().describe_partitions(["t"]).await.unwrap().is_empty(), "with a broker down");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_controller_is_asked_again() {
    let fake = Fake::cluster(1, 3, 1);
    let client = fake.client(1).await;
    fake.lock().no_controller = true;
    let later = fake.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(900)).await;
        later.lock().no_controller = false;
    });
    let started = Instant::now();
    let topics = vec![NewTopic::new("new").partitions(1), NewTopic::new("t").partitions(1)];
    let created = client.admin().create_topics(topics, false).await.unwrap();
    assert!(created[0].1.is_ok(), "{created:?}");
    assert_eq!(created[1].1.as_ref().unwrap_err().code(), Some(ErrorCode::TopicAlreadyExists));
    fake.lock().no_controller = true;
    let later = fake.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(900)).await;
        later.lock().no_controller = false;
    });
    producer(&client).await;
    assert!(started.elapsed() < Duration::from_millis(2_200), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_one_broker_has_not_heard_of_is_found() {
    for unaware in 1..3 {
        let fake = Fake::cluster(1, 3, 1);
        fake.lock().unaware = Some(unaware);
        for seed in 0..6 {
            let client = fake.client(seed).await;
            producer(&client).await.send(record(0, 0)).await.unwrap().await.unwrap();
            assert!(client.admin().describe_topics(["t"]).await.unwrap()[0].1.is_ok());
        }
    }
}

/// Smaller and smaller, down to the record that is too large by itself.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_split_and_keeps_its_order() {
    for (idempotent, compression) in
        [(true, Compression::None), (true, Compression::Lz4), (false, Compression::None)]
    {
        let fake = Fake::cluster(1, 1, 1);
        let client = fake.client(1).await;
        let config = ProducerConfig {
            batch_records: Some(16),
            linger: Duration::from_secs(1),
            acks: if idempotent { Acks::All } else { Acks::Leader },
            idempotent,
            compression,
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).await.unwrap();
        fake.lock().batch_bytes_max = 1_000;
        let mut sent = Vec::new();
        for number in 0..80_usize {
            // Incompressible, so that the codecs change little.
            let noise = |n: usize| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as u8;
            let length = if number == 37 { 1_500 } else { 150 };
            let mut value = number.to_be_bytes().to_vec();
            value.extend((0..length).map(|n| noise(number * 10_000 + n)));
            sent.push(producer.send(ProducerRecord::new("t", value)).await.unwrap());
        }
        producer.flush().await;
        let mut offset = 0;
        for (number, delivery) in sent.into_iter().enumerate() {
            match delivery.await {
                Ok(delivered) => {
                    assert_eq!(delivered.offset, offset, "record {number}, {compression:?}");
                    offset += 1;
                }
                Err(DeliveryError::Refused { code: ErrorCode::MessageTooLarge, .. }) => {
                    assert_eq!(number, 37);
                }
                Err(error) => panic!("record {number}: {error}"),
            }
        }
        assert_eq!(offset, 79);
        let state = fake.lock();
        let batches = &state.topics["t"][0].batches;
        let decode = |record: headwater_client::Record| {
            usize::from_be_bytes(record.value.unwrap()[..8].try_into().unwrap())
        };
        let numbers: Vec<usize> = batches
            .iter()
            .flat_map(|batch| batch.records(&Limits::default()).unwrap())
            .map(|record| decode(record.unwrap()))
            .collect();
        assert_eq!(numbers, (0..80).filter(|n| *n != 37).collect::<Vec<_>>());
        assert!(batches.iter().all(|batch| batch.bytes().len() <= 1_000));
        assert_eq!(producer.stats().buffered_bytes, 0);
        assert_eq!((producer.stats().records_delivered, producer.stats().records_failed), (79, 1));
    }
}

/// Without sequences nothing is sent twice for a move alone, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn a_producer_without_an_id_follows_leaders_too() {
    let fake = Fake::cluster(1, 3, 1);
    let client = fake.client(1).await;
    let config = ProducerConfig {
        acks: Acks::Leader,
        idempotent: false,
        batch_records: Some(1),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config).await.unwrap();
    fake.lock().faults.delay_ms = 5;
    let mut sent = Vec::new();
    for number in 0..300 {
        if number % 60 == 30 {
            fake.elect(0, 1 + (number / 60) as i32 % 2, &[]);
        }
        sent.push(producer.send(record(number, 0)).await.unwrap());
        sleep(Duration::from_millis(1)).await;
    }
    for delivery in sent {
        delivery.await.unwrap();
    }
    assert_eq!(stored(&fake, 0), (0..300).collect::<Vec<_>>());
}
