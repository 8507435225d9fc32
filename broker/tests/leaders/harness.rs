//! Three brokers, each in a runtime of its own, so that one can die at once and without a word.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::config::{Config, HostPort, NodeList};
use headwater_broker::env::{Entropy, SystemClock, TcpNetwork};
use headwater_broker::{Broker, Env};
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::cluster_client::ClusterClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_storage::disk::SimDisk;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::ports::free_address;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst)
    }
}

struct Running {
    runtime: Runtime,
    _broker: Broker,
}

/// One broker, running or not.
pub struct Member {
    disk: Arc<SimDisk>,
    entropy: Arc<Seeded>,
    config: Config,
    running: Option<Running>,
    pub grpc_address: String,
}

/// A client of one broker.
#[derive(Clone)]
pub struct Calls {
    pub data: DataClient<Channel>,
    pub admin: AdminClient<Channel>,
    pub cluster: ClusterClient<Channel>,
}

/// Brokers 1, 2 and 3.
pub struct Trio {
    pub members: BTreeMap<i32, Member>,
}

impl Trio {
    /// Three brokers that found a cluster, once each knows of the two others.
    pub async fn start(adjust: impl Fn(&mut Config)) -> Self {
        let ports: Vec<_> = (0..6).map(|_| free_address()).collect();
        let address = |n: usize| ports[n];
        let nodes: BTreeMap<_, HostPort> =
            (1..=3).zip(0..).map(|(id, n)| (id, address(n).to_string().parse().unwrap())).collect();
        let member = |id: i32| {
            let mut config = Config::default();
            let broker = &mut config.broker;
            let index = usize::try_from(id).unwrap() - 1;
            let free = "127.0.0.1:0".parse().unwrap();
            (broker.kafka_addr, broker.http_addr) = (free, free);
            (broker.peer_addr, broker.grpc_addr) = (address(index), address(index + 3));
            (broker.data_dir, broker.node_id) = ("/data".into(), id);
            broker.rack = format!("rack-{id}");
            config.cluster.nodes = NodeList(nodes.clone());
            adjust(&mut config);
            let (disk, entropy) = (Arc::new(SimDisk::new(7)), Arc::new(Seeded(AtomicU64::new(1 << id))));
            let grpc_address = config.broker.grpc_addr.to_string();
            (id, Member { disk, entropy, config, running: None, grpc_address })
        };
        let members = (1..=3).map(member).collect();
        let mut trio = Self { members };
        for id in 1..=3 {
            trio.boot(id).await;
        }
        for id in 1..=3 {
            eventually("every broker is registered everywhere", || async {
                let metadata = trio.calls(id).await.metadata(&[]).await;
                metadata.brokers.len() == 3 && metadata.controller_id > 0
            })
            .await;
        }
        trio
    }

    /// Starts a broker; does not wait for others.
    pub async fn boot(&mut self, id: i32) {
        let member = self.members.get_mut(&id).unwrap();
        let env = Env {
            disk: member.disk.clone(),
            clock: Arc::new(SystemClock),
            entropy: member.entropy.clone(),
            network: Arc::new(TcpNetwork::default()),
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = member.config.clone();
        let broker = runtime.spawn(async move { Broker::start(config, env).await.unwrap() }).await.unwrap();
        member.running = Some(Running { runtime, _broker: broker });
    }

    /// The power of one broker fails.
    pub fn kill(&mut self, id: i32) {
        let member = self.members.get_mut(&id).unwrap();
        let Running { runtime, _broker: broker } = member.running.take().unwrap();
        runtime.shutdown_background();
        std::mem::forget(broker);
        member.disk.power_cut();
    }

    /// Calls a broker, once it answers.
    pub async fn calls(&self, id: i32) -> Calls {
        let address = format!("http://{}", self.members[&id].grpc_address);
        let endpoint = Channel::from_shared(address).unwrap();
        let patience = tokio::time::Instant::now() + PATIENCE;
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => assert!(tokio::time::Instant::now() < patience, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Calls {
            data: DataClient::new(channel.clone()),
            admin: AdminClient::new(channel.clone()),
            cluster: ClusterClient::new(channel),
        }
    }

    /// Creates a topic of which every broker has a replica, and waits until all agree on its leaders.
    pub async fn create(&self, name: &str, partitions: i32) {
        let topic = v1::NewTopic { name: name.to_owned(), partitions, replicas: 3, configs: Vec::new() };
        let request = v1::CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let result = self.calls(1).await.admin.create_topics(request).await.unwrap().into_inner();
        assert_eq!(result.topics[0].error, None);
        eventually("all brokers agree on leaders that all follow", || async {
            let mut views = Vec::new();
            for id in 1..=3 {
                views.push(self.calls(id).await.partitions(name).await);
            }
            let whole = |p: &v1::PartitionMetadata| p.leader_id > 0 && p.in_sync.len() == 3;
            views[0].len() == usize::try_from(partitions).unwrap()
                && views[0].iter().all(whole)
                && views.iter().all(|view| *view == views[0])
        })
        .await;
    }

    /// The leader of a partition, as broker `asked` sees it, once there is another than `not`.
    pub async fn leader(&self, asked: i32, name: &str, partition: usize, not: i32) -> i32 {
        let found = std::sync::atomic::AtomicI32::new(0);
        eventually("the partition has a leader", || async {
            let partitions = self.calls(asked).await.partitions(name).await;
            let leader = partitions.get(partition).map_or(-1, |partition| partition.leader_id);
            found.store(leader, Ordering::SeqCst);
            leader > 0 && leader != not
        })
        .await;
        found.into_inner()
    }

    /// A broker that is none of these.
    pub fn another(&self, than: &[i32]) -> i32 {
        *self.members.keys().find(|id| !than.contains(id)).unwrap()
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            if let Some(Running { runtime, _broker: broker }) = member.running.take() {
                runtime.shutdown_background();
                std::mem::forget(broker);
            }
        }
    }
}

impl Calls {
    pub async fn metadata(&mut self, topics: &[&str]) -> v1::MetadataResponse {
        let topics = topics.iter().map(ToString::to_string).collect();
        self.admin.metadata(v1::MetadataRequest { topics }).await.unwrap().into_inner()
    }

    pub async fn partitions(&mut self, topic: &str) -> Vec<v1::PartitionMetadata> {
        self.metadata(&[topic]).await.topics.remove(0).partitions
    }

    pub async fn produce(&mut self, topic: &str, partition: i32, value: &str) -> v1::ProducePartitionResult {
        let part = v1::ProducePartition {
            topic: topic.to_owned(),
            partition,
            records: batch(value),
            leader_epoch: -1,
        };
        let request =
            v1::ProduceRequest { correlation: 1, acks: -1, timeout_ms: 5_000, partitions: vec![part] };
        let mut answers = self.data.produce(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().partitions.remove(0)
    }

    pub async fn fetch(&mut self, topic: &str, offset: i64, allow_follower: bool) -> v1::PartitionRecords {
        let request = v1::FetchRequest {
            partitions: vec![position(topic, offset)],
            allow_follower,
            ..Default::default()
        };
        self.data.fetch(request).await.unwrap().into_inner().partitions.remove(0)
    }

    pub async fn latest(&mut self, topic: &str, partition: i32) -> v1::ListOffsetsResult {
        let wanted = v1::ListOffsetsPartition { topic: topic.to_owned(), partition, timestamp: -1 };
        let request = v1::ListOffsetsRequest { partitions: vec![wanted] };
        self.data.list_offsets(request).await.unwrap().into_inner().partitions.remove(0)
    }

    pub async fn status(&mut self) -> v1::ClusterStatusResponse {
        self.cluster.cluster_status(v1::ClusterStatusRequest {}).await.unwrap().into_inner()
    }

    pub async fn unhealthy(&mut self) -> Vec<v1::PartitionStatus> {
        let request = v1::ListPartitionsRequest { topics: Vec::new(), unhealthy_only: true };
        self.cluster.list_partitions(request).await.unwrap().into_inner().partitions
    }

    pub async fn transfer(&mut self, topic: &str, partition: i32, to: i32) -> Option<v1::Error> {
        let wanted = v1::LeaderTransfer { topic: topic.to_owned(), partition, to: Some(to) };
        let request = v1::TransferLeaderRequest { partitions: vec![wanted], timeout_ms: 10_000 };
        self.cluster.transfer_leader(request).await.unwrap().into_inner().partitions.remove(0).error
    }
}

/// Partition 0 from an offset on.
pub fn position(topic: &str, offset: i64) -> v1::FetchPartition {
    v1::FetchPartition { topic: topic.to_owned(), partition: 0, offset, leader_epoch: -1 }
}

fn batch(value: &str) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    builder.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]).unwrap();
    builder.build().unwrap()
}

/// The code's name of an error that must be there.
pub fn code(error: &Option<v1::Error>) -> &'static str {
    let error = error.as_ref().expect("an error");
    headwater_proto::ErrorCode::from_number(error.code).unwrap().name()
}

/// Retries a condition until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
