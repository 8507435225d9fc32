//! A broker process in a directory of its own, its raw gRPC services, its client, and `streamctl`.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use headwater_client::{Client, ClientConfig, NewTopic, OffsetSpec, TopicPartition};
use headwater_proto::ErrorCode;
use headwater_proto::record::{Compression, Limits, RecordBatch, RecordBatchBuilder};
use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_tests::process::{Addresses, BrokerProcess, binary, http_get};
use tempfile::TempDir;
use tonic::transport::Channel;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A broker that can be stopped, killed and started again on the same directory and addresses.
pub struct Fixture {
    dir: TempDir,
    pub data_dir: PathBuf,
    pub addresses: Addresses,
    broker: Option<BrokerProcess>,
}

impl Fixture {
    pub fn start() -> Self {
        Self::with("")
    }

    /// With these lines of configuration.
    pub fn with(config: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let data_dir = dir.path().join("headwater-data");
        Self::on(dir, data_dir, config)
    }

    /// With its data elsewhere than beside its configuration.
    pub fn on(dir: TempDir, data_dir: PathBuf, config: &str) -> Self {
        std::fs::write(dir.path().join("headwater.toml"), config).unwrap();
        let addresses = Addresses::free().unwrap();
        let mut fixture = Self { dir, data_dir, addresses, broker: None };
        fixture.start_again();
        fixture
    }

    pub fn start_again(&mut self) {
        let config = self.dir.path().join("headwater.toml");
        let extra = ["--config", config.to_str().unwrap()];
        let started = BrokerProcess::start(&self.data_dir, self.addresses, &extra);
        self.broker = Some(started.unwrap_or_else(|e| panic!("{e}\n{}", self.log())));
    }

    pub fn broker(&self) -> &BrokerProcess {
        self.broker.as_ref().unwrap()
    }

    /// SIGTERM; the broker must end well.
    pub fn stop(&mut self) {
        let status: ExitStatus = self.broker.take().unwrap().stop().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.broker.take().unwrap().kill().unwrap();
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Everything that the broker has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default()
    }

    /// The `.log` files of all partitions, in the order of their records; those of the metadata are left out.
    pub fn segments(&self) -> Vec<PathBuf> {
        const METADATA: &str = "00000000000000000000000000000001-0";
        let files = |path: PathBuf| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<PathBuf> = files(self.data_dir.join("groups"))
            .filter(|group| !group.ends_with(METADATA))
            .flat_map(files)
            .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
            .collect();
        found.sort();
        found
    }

    pub async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.addresses.grpc);
        Channel::from_shared(uri).unwrap().connect().await.unwrap()
    }

    /// The wire itself: nothing is retried, nothing is checked before it is sent.
    pub async fn data(&self) -> DataClient<Channel> {
        DataClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await)
    }

    pub async fn client(&self) -> Client {
        Client::connect(ClientConfig::new([self.addresses.grpc.to_string()])).await.unwrap()
    }

    pub async fn create(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let topic =
            configs.iter().fold(NewTopic::new(name).partitions(partitions), |topic, (name, value)| {
                topic.config(*name, *value)
            });
        for (_, created) in self.client().await.admin().create_topics(vec![topic], false).await.unwrap() {
            created.unwrap();
        }
    }

    /// One message with these bytes for partition 0; what became of them.
    pub async fn send(&self, topic: &str, records: Bytes) -> v1::ProducePartitionResult {
        send(&mut self.data().await, topic, records).await
    }

    /// All records of a partition from an offset on, as the wire gives them: (offset, value).
    pub async fn read(&self, topic: &str, partition: i32, from: i64) -> Vec<(i64, Bytes)> {
        let mut data = self.data().await;
        let (mut position, mut found) = (from, Vec::new());
        loop {
            let fetched = fetch(&mut data, topic, partition, position).await;
            assert_eq!(fetched.error, None);
            if fetched.records.is_empty() {
                assert_eq!(position, fetched.high_watermark);
                return found;
            }
            found.extend(values(fetched.records, position));
            position = fetched.next_offset;
        }
    }

    pub async fn describe(&self, topic: &str, partition: i32) -> v1::PartitionDescription {
        let request = v1::DescribePartitionsRequest { topics: vec![topic.to_owned()] };
        let found = self.admin().await.describe_partitions(request).await.unwrap().into_inner();
        found.partitions.into_iter().find(|found| found.partition == partition).unwrap()
    }

    pub async fn offset(&self, topic: &str, spec: OffsetSpec) -> Option<i64> {
        let partition = TopicPartition::new(topic, 0);
        let listed = self.client().await.admin().list_offsets(vec![(partition.clone(), spec)]).await.unwrap();
        listed[&partition].as_ref().unwrap().offset
    }

    /// A sample of `/metrics`, by everything in front of its value.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let metrics = http_get(self.addresses.http, "/metrics").unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        value.parse().ok()
    }

    /// Memory that the broker allocated, in bytes.
    pub fn memory(&self) -> u64 {
        self.broker().memory_bytes("RssAnon").unwrap()
    }

    /// That the broker lives and serves all that it served before: these records, and new ones.
    pub async fn assert_serves(&self, topic: &str, records: &mut Vec<(i64, Bytes)>) {
        let ready = http_get(self.addresses.http, "/health/ready").unwrap();
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        assert_eq!(self.read(topic, 0, 0).await, *records);
        let value = format!("record {}", records.len());
        let sent = self.send(topic, batch(&[&value])).await;
        assert_eq!((sent.error, sent.base_offset), (None, records.len() as i64));
        records.push((sent.base_offset, value.into()));
    }

    pub fn streamctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("streamctl").unwrap());
        command.args(args).env_clear().env("HOME", self.dir.path()).current_dir(self.dir.path());
        command.env("HEADWATER_BROKERS", self.addresses.grpc.to_string()).stdin(Stdio::null());
        command
    }

    pub fn streamctl_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.streamctl(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that fails may close its input before it has read it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.streamctl_with(args, input);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error of a command that must fail.
    pub fn fails(&self, args: &[&str], input: &[u8]) -> (i32, String) {
        let output = self.streamctl_with(args, input);
        assert!(!output.status.success(), "{args:?} succeeded");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

/// One message with these bytes for partition 0, in a stream of its own.
pub async fn send(data: &mut DataClient<Channel>, topic: &str, records: Bytes) -> v1::ProducePartitionResult {
    let part = v1::ProducePartition { topic: topic.to_owned(), partition: 0, records, leader_epoch: -1 };
    let request = v1::ProduceRequest { correlation: 1, acks: -1, timeout_ms: 0, partitions: vec![part] };
    let mut answers = data.produce(tokio_stream::once(request)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().partitions.remove(0)
}

pub async fn fetch(
    data: &mut DataClient<Channel>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> v1::PartitionRecords {
    let part = v1::FetchPartition { topic: topic.to_owned(), partition, offset, leader_epoch: -1 };
    let request = v1::FetchRequest { partitions: vec![part], ..Default::default() };
    data.fetch(request).await.unwrap().into_inner().partitions.remove(0)
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

pub fn batch(values: &[&str]) -> Bytes {
    batch_at(now_ms(), values)
}

pub fn batch_at(timestamp_ms: i64, values: &[&str]) -> Bytes {
    builder(timestamp_ms, values).build().unwrap()
}

/// Of an idempotent producer: its id, epoch and first sequence.
pub fn batch_of(producer: (i64, i16, i32), values: &[&str]) -> Bytes {
    let mut builder = builder(now_ms(), values);
    builder.set_producer(producer.0, producer.1, producer.2);
    builder.build().unwrap()
}

fn builder(timestamp_ms: i64, values: &[&str]) -> RecordBatchBuilder {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    for value in values {
        builder.append(timestamp_ms, None, Some(value.as_bytes()), &[]).unwrap();
    }
    builder
}

/// The records of whole batches from an offset on.
pub fn values(mut batches: Bytes, from: i64) -> Vec<(i64, Bytes)> {
    let mut found = Vec::new();
    while let Some(batch) = RecordBatch::split_first(&mut batches, &Limits::default()).unwrap() {
        for record in batch.records(&Limits::default()).unwrap() {
            let record = record.unwrap();
            if record.offset >= from {
                found.push((record.offset, record.value.unwrap()));
            }
        }
    }
    found
}

/// The code's name and the sentence of an error that must be there.
pub fn told(error: &Option<v1::Error>) -> (&'static str, &str) {
    let error = error.as_ref().expect("an error");
    (ErrorCode::from_number(error.code).unwrap().name(), &error.message)
}

/// Retries a condition until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let started = tokio::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
