//! What the client costs, against a broker in the same process that keeps nothing. Figures, not
//! bars: `cargo test --release -p headwater-client --test throughput -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

mod fake;

use std::time::Instant;

use fake::Fake;
use headwater_client::{Client, ConsumerConfig, Delivery, Position, ProducerConfig, TopicPartition};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn produce() {
    for (batch_records, value_bytes, total) in [(1_000, 1_024, 500_000), (1, 100, 300_000)] {
        let fake = Fake::start(1, 8);
        fake.lock().discard = true;
        let client = Client::connect(fake.listen().await).await.unwrap();
        let config = ProducerConfig {
            batch_records: Some(batch_records),
            batch_bytes: 2 << 20,
            ..ProducerConfig::default()
        };
        let producer = client.producer(config).await.unwrap();
        let value = vec![b'x'; value_bytes];
        let started = Instant::now();
        let mut last: Option<Delivery> = None;
        for n in 0..total {
            let partition = Some((n / batch_records % 8) as i32);
            let sent = producer.send_parts("t", partition, None, Some(&value), &[], None).await;
            last = Some(sent.unwrap());
        }
        producer.flush().await;
        last.unwrap().await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let (records, megabytes) = (total as f64, (total * value_bytes) as f64 / 1e6);
        println!(
            "{batch_records} a batch: {:.0} records/s, {:.0} MB/s",
            records / seconds,
            megabytes / seconds
        );
        println!("  {} batches a message at most", fake.lock().largest_message_batches);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn consume() {
    let fake = Fake::start(1, 1);
    let client = Client::connect(fake.listen().await).await.unwrap();
    let config = ProducerConfig { batch_bytes: 1 << 20, buffer_bytes: 1 << 30, ..ProducerConfig::default() };
    let producer = client.producer(config).await.unwrap();
    for _ in 0..500_000 {
        drop(producer.send_parts("t", Some(0), None, Some(&[b'x'; 1_024]), &[], None).await.unwrap());
    }
    producer.flush().await;
    let mut consumer = client.consumer(ConsumerConfig::default()).unwrap();
    let started = Instant::now();
    consumer.assign([(TopicPartition::new("t", 0), Position::Start)]).await.unwrap();
    let mut bytes = 0;
    while !consumer.at_end() {
        bytes += consumer.next_batch().await.unwrap().size_bytes();
    }
    println!("consume: {:.0} MB/s", bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
}
