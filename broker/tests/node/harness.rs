//! A broker that can be stopped, killed and started again on the same disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::config::Config;
use headwater_broker::env::{Clock, Entropy, TcpNetwork};
use headwater_broker::{Broker, Env};
use headwater_proto::types::TimestampMs;
use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_storage::disk::SimDisk;
use tonic::transport::Channel;

use crate::records::builder;
pub use crate::records::values;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What the clock of a new harness shows.
pub const START_MS: i64 = 1_700_000_000_000;

#[derive(Debug)]
pub struct TestClock(pub AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst)
    }
}

pub struct Harness {
    pub disk: Arc<SimDisk>,
    pub clock: Arc<TestClock>,
    entropy: Arc<Counting>,
    config: Config,
    broker: Option<Broker>,
    pub data: DataClient<Channel>,
    pub admin: AdminClient<Channel>,
}

impl Harness {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        adjust(&mut config);
        Self::on(Arc::new(SimDisk::new(7)), config).await
    }

    /// Like [`Harness::start`], on a disk that may hold something already.
    pub async fn on_disk(disk: Arc<SimDisk>) -> Self {
        Self::on(disk, config()).await
    }

    async fn on(disk: Arc<SimDisk>, config: Config) -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(START_MS)));
        let entropy = Arc::new(Counting(AtomicU64::new(1)));
        let (broker, data, admin) = boot(&config, &disk, &clock, &entropy).await;
        Self { disk, clock, entropy, config, broker: Some(broker), data, admin }
    }

    /// The power fails: what the broker still does has no effect any more.
    pub fn power_cut(&mut self) {
        self.broker = None;
        self.disk.power_cut();
    }

    /// Stops in good order and starts again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.boot().await;
    }

    pub async fn stop(&mut self) {
        let broker = self.broker.take().unwrap();
        tokio::time::timeout(PATIENCE, broker.shutdown()).await.expect("the broker stops in time");
    }

    /// Waits until the broker ends by itself; returns why.
    pub async fn failed(&self) -> String {
        let failed = self.broker.as_ref().unwrap().failed();
        tokio::time::timeout(PATIENCE, failed).await.expect("the broker goes on").to_string()
    }

    pub async fn boot(&mut self) {
        let started = boot(&self.config, &self.disk, &self.clock, &self.entropy).await;
        (self.broker, self.data, self.admin) = (Some(started.0), started.1, started.2);
    }

    pub async fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> v1::TopicResult {
        let configs = configs
            .iter()
            .map(|(name, value)| v1::ConfigEntry {
                name: (*name).to_owned(),
                value: Some((*value).to_owned()),
            })
            .collect();
        let topic = v1::NewTopic { name: name.to_owned(), partitions, replicas: 0, configs };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false, timeout_ms: 0 };
        self.admin.create_topics(request).await.unwrap().into_inner().topics.remove(0)
    }

    /// Produces in one stream, one request for each element, all acknowledged.
    pub async fn produce(&mut self, topic: &str, requests: Vec<Bytes>) -> Vec<v1::ProducePartitionResult> {
        let count = requests.len();
        let requests = requests
            .into_iter()
            .enumerate()
            .map(|(correlation, records)| produce_request(topic, 0, correlation as u64, records));
        let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
        let mut answers = self.data.produce(requests).await.unwrap().into_inner();
        let mut results = vec![v1::ProducePartitionResult::default(); count];
        while let Some(mut answer) = answers.message().await.unwrap() {
            results[answer.correlation as usize] = answer.partitions.remove(0);
        }
        results
    }

    /// All records from an offset on, as (offset, value).
    pub async fn read(&mut self, topic: &str, partition: i32, from: i64) -> Vec<(i64, Bytes)> {
        let (mut position, mut found) = (from, Vec::new());
        loop {
            let request = v1::FetchRequest {
                partitions: vec![fetch_partition(topic, partition, position)],
                ..Default::default()
            };
            let fetched = self.data.fetch(request).await.unwrap().into_inner().partitions.remove(0);
            assert_eq!(fetched.error, None);
            if fetched.records.is_empty() {
                assert_eq!(position, fetched.high_watermark);
                return found;
            }
            found.extend(values(fetched.records, position));
            position = fetched.next_offset;
        }
    }

    pub async fn describe(&mut self, topic: &str) -> Vec<v1::PartitionDescription> {
        let request = v1::DescribePartitionsRequest { topics: vec![topic.to_owned()] };
        self.admin.describe_partitions(request).await.unwrap().into_inner().partitions
    }

    pub fn advance_clock(&self, by_ms: i64) {
        self.clock.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

fn config() -> Config {
    let mut config = Config::default();
    let free = "127.0.0.1:0".parse().unwrap();
    let broker = &mut config.broker;
    (broker.kafka_addr, broker.grpc_addr, broker.peer_addr, broker.http_addr) = (free, free, free, free);
    broker.data_dir = "/data".into();
    config
}

async fn boot(
    config: &Config,
    disk: &Arc<SimDisk>,
    clock: &Arc<TestClock>,
    entropy: &Arc<Counting>,
) -> (Broker, DataClient<Channel>, AdminClient<Channel>) {
    let env = Env {
        disk: disk.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        network: Arc::new(TcpNetwork::default()),
    };
    let broker = tokio::time::timeout(PATIENCE, Broker::start(config.clone(), env)).await.unwrap().unwrap();
    let address = format!("http://{}", broker.addresses().grpc);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    (broker, DataClient::new(channel.clone()), AdminClient::new(channel))
}

pub fn produce_request(topic: &str, partition: i32, correlation: u64, records: Bytes) -> v1::ProduceRequest {
    let part = v1::ProducePartition { topic: topic.to_owned(), partition, records, leader_epoch: -1 };
    v1::ProduceRequest { correlation, acks: -1, timeout_ms: 0, partitions: vec![part] }
}

pub fn fetch_partition(topic: &str, partition: i32, offset: i64) -> v1::FetchPartition {
    v1::FetchPartition { topic: topic.to_owned(), partition, offset, leader_epoch: -1 }
}

/// A batch of these values, stamped with this time.
pub fn batch_at(timestamp_ms: i64, values: &[&str]) -> Bytes {
    builder(timestamp_ms, values).build().unwrap()
}

pub fn batch(values: &[&str]) -> Bytes {
    batch_at(START_MS, values)
}

pub fn batch_of(producer: (i64, i16, i32), values: &[&str]) -> Bytes {
    let mut builder = builder(START_MS, values);
    builder.set_producer(producer.0, producer.1, producer.2);
    builder.build().unwrap()
}

/// The code's name of an error that must be there.
pub fn code(error: &Option<v1::Error>) -> &'static str {
    let error = error.as_ref().expect("an error");
    assert!(!error.message.is_empty());
    headwater_proto::ErrorCode::from_number(error.code).unwrap().name()
}

/// Retries a condition until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
