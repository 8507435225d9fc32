//! Brokers that can be stopped, killed with or without their unsynced data, and started again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::config::{Config, HostPort, NodeList, SeedList};
use headwater_broker::env::{OsEntropy, SystemClock, TcpNetwork};
use headwater_broker::{Broker, Env, MetadataOutlook, MetadataRecoveryError, Node, NodeError, Observation};
use headwater_proto::types::{GroupId, PartitionId, TopicId};
use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::cluster_client::ClusterClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_storage::disk::SimDisk;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::ports::free_address;
use crate::records::{builder, values};

/// No test waits longer for anything else.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// As long it waits where a majority must vouch for a torn end, which it may after 60 s.
pub const MAJORITY_PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One broker, running or not.
pub struct Member {
    pub disk: Arc<SimDisk>,
    pub config: Config,
    running: Option<(Runtime, Arc<Broker>)>,
}

impl Member {
    /// On free ports, alone until told otherwise.
    pub fn new(id: i32) -> Self {
        let mut config = Config::default();
        let broker = &mut config.broker;
        (broker.kafka_addr, broker.http_addr) = (any_port(), any_port());
        (broker.grpc_addr, broker.peer_addr) = (free_address(), free_address());
        (broker.node_id, broker.data_dir) = (id, "/data".into());
        Self { disk: Arc::new(SimDisk::new(id as u64)), config, running: None }
    }

    pub fn peer_address(&self) -> HostPort {
        self.config.broker.peer_addr.to_string().parse().unwrap()
    }

    /// Starts in a runtime of its own, which a kill ends with all its tasks.
    pub async fn start(&mut self) {
        self.try_start().await.unwrap();
    }

    pub async fn try_start(&mut self) -> Result<(), headwater_broker::StartError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let started = runtime.spawn(Broker::start(self.config.clone(), self.env()));
        match tokio::time::timeout(PATIENCE, started).await.unwrap().unwrap() {
            Ok(broker) => self.running = Some((runtime, Arc::new(broker))),
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        }
        Ok(())
    }

    fn env(&self) -> Env {
        Env {
            disk: self.disk.clone(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy::new().unwrap()),
            network: Arc::new(TcpNetwork::default()),
        }
    }

    /// What an operator does with a stopped broker once the metadata has lost its majority.
    pub async fn recover_metadata(
        &self,
        accept_loss: bool,
    ) -> Result<MetadataOutlook, MetadataRecoveryError> {
        assert!(!self.is_running());
        headwater_broker::recover_metadata(&self.config, &self.env(), accept_loss).await
    }

    pub async fn stop(&mut self) {
        let (runtime, broker) = self.running.take().unwrap();
        let broker = Arc::into_inner(broker).unwrap();
        let stopped = runtime.spawn(broker.shutdown());
        tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
        runtime.shutdown_background();
    }

    /// The process dies; the disk keeps what the operating system has of it.
    pub async fn kill(&mut self) {
        let (runtime, broker) = self.running.take().unwrap();
        self.disk.kill_process();
        end(runtime, broker).await;
    }

    /// The power fails: of what was not synced, anything may be gone.
    pub async fn power_cut(&mut self) {
        let (runtime, broker) = self.running.take().unwrap();
        self.disk.power_cut();
        end(runtime, broker).await;
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn broker(&self) -> &Arc<Broker> {
        &self.running.as_ref().unwrap().1
    }

    pub fn node(&self) -> Option<Arc<Node>> {
        self.broker().node()
    }

    pub fn is_ready(&self) -> bool {
        self.node().is_some_and(|node| node.unready().is_none())
    }

    pub async fn wait_ready(&self) {
        eventually("the broker is ready", || self.is_ready()).await;
    }

    /// Why it cannot go on.
    pub async fn failure(&self) -> Arc<NodeError> {
        tokio::time::timeout(PATIENCE, self.broker().failed()).await.unwrap()
    }

    pub fn observe(&self) -> BTreeMap<GroupId, Observation> {
        let observed = self.node().map(|node| node.observe()).unwrap_or_default();
        observed.into_iter().map(|observation| (observation.group, observation)).collect()
    }

    async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.broker().addresses().grpc);
        Channel::from_shared(address).unwrap().connect().await.unwrap()
    }

    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel().await)
    }

    pub async fn cluster_admin(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel().await)
    }

    pub async fn data(&self) -> DataClient<Channel> {
        DataClient::new(self.channel().await)
    }

    /// The cluster as this broker knows it.
    pub async fn metadata(&self) -> v1::MetadataResponse {
        let request = v1::MetadataRequest { topics: Vec::new() };
        self.admin().await.metadata(request).await.unwrap().into_inner()
    }

    /// The registered brokers.
    pub async fn brokers(&self) -> Vec<i32> {
        self.metadata().await.brokers.iter().map(|broker| broker.id).collect()
    }

    pub async fn cluster_id(&self) -> String {
        self.metadata().await.cluster_id
    }

    pub async fn topics(&self) -> Vec<String> {
        self.metadata().await.topics.into_iter().map(|topic| topic.name).collect()
    }

    pub async fn create(&self, name: &str, partitions: i32, replicas: i32) -> v1::TopicResult {
        let topic = v1::NewTopic { name: name.to_owned(), partitions, replicas, configs: Vec::new() };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false, timeout_ms: 0 };
        self.admin().await.create_topics(request).await.unwrap().into_inner().topics.remove(0)
    }

    pub async fn delete(&self, name: &str) -> v1::TopicResult {
        let request = v1::DeleteTopicsRequest { topics: vec![name.to_owned()] };
        self.admin().await.delete_topics(request).await.unwrap().into_inner().topics.remove(0)
    }

    /// Produces one batch with acks=all.
    pub async fn produce(&self, topic: &str, partition: i32, values: &[&str]) -> v1::ProducePartitionResult {
        let part = v1::ProducePartition {
            topic: topic.to_owned(),
            partition,
            records: batch(values),
            leader_epoch: -1,
        };
        let request = v1::ProduceRequest { correlation: 1, acks: -1, timeout_ms: 0, partitions: vec![part] };
        let mut data = self.data().await;
        let mut answers = data.produce(tokio_stream::iter([request])).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().partitions.remove(0)
    }
}

/// Returns once every task is gone, and with them the addresses.
async fn end(runtime: Runtime, broker: Arc<Broker>) {
    let ended = tokio::task::spawn_blocking(move || {
        runtime.shutdown_timeout(PATIENCE);
        drop(broker);
    });
    ended.await.unwrap();
}

/// Brokers of one list.
pub struct Cluster {
    pub members: Vec<Member>,
}

impl Cluster {
    /// Brokers 1 to `count`, which are to found a cluster together; not started.
    pub fn listed(count: i32) -> Self {
        let mut members: Vec<_> = (1..=count).map(Member::new).collect();
        let list: BTreeMap<_, _> =
            members.iter().map(|member| (member.config.broker.node_id, member.peer_address())).collect();
        for member in &mut members {
            member.config.cluster.nodes = NodeList(list.clone());
        }
        Self { members }
    }

    /// Three brokers that have founded their cluster.
    pub async fn three() -> Self {
        let mut cluster = Self::listed(3);
        cluster.start_all().await;
        cluster.wait_ready().await;
        cluster
    }

    pub async fn start_all(&mut self) {
        for member in &mut self.members {
            member.start().await;
        }
    }

    pub async fn wait_ready(&self) {
        for member in self.running() {
            member.wait_ready().await;
        }
    }

    pub async fn stop_all(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.is_running()) {
            member.stop().await;
        }
    }

    pub fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_running())
    }

    /// No list and no seeds: only what is on the disks.
    pub fn forget_seeds(&mut self) {
        for member in &mut self.members {
            (member.config.cluster.nodes, member.config.cluster.join) = Default::default();
        }
    }

    /// The running broker that leads a group.
    pub fn leader(&self, group: GroupId) -> Option<&Member> {
        self.running().find(|member| {
            let observed = member.observe();
            observed.get(&group).is_some_and(|replica| replica.leads.is_some())
        })
    }

    pub async fn wait_leader(&self, group: GroupId) -> &Member {
        eventually("somebody leads", || self.leader(group).is_some()).await;
        self.leader(group).unwrap()
    }

    /// The partition of a topic, by its name.
    pub async fn group(&self, topic: &str, partition: i32) -> GroupId {
        let metadata = self.running().next().unwrap().metadata().await;
        let found = metadata.topics.iter().find(|known| known.name == topic).unwrap();
        let topic_id = TopicId(found.topic_id.as_ref().try_into().unwrap());
        GroupId { topic_id, partition: PartitionId(partition) }
    }

    /// Produces where the partition is led, until it is acknowledged.
    pub async fn produce(&self, topic: &str, partition: i32, values: &[&str]) -> i64 {
        let group = self.group(topic, partition).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let result = self.wait_leader(group).await.produce(topic, partition, values).await;
            match result.error {
                None => return result.base_offset,
                Some(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// All values of a partition, read from its leader.
    pub async fn read(&self, topic: &str, partition: i32) -> Vec<String> {
        let group = self.group(topic, partition).await;
        let mut data = self.wait_leader(group).await.data().await;
        let (mut position, mut found) = (0, Vec::new());
        loop {
            let part =
                v1::FetchPartition { topic: topic.to_owned(), partition, offset: position, leader_epoch: -1 };
            let request = v1::FetchRequest { partitions: vec![part], ..v1::FetchRequest::default() };
            let fetched = data.fetch(request).await.unwrap().into_inner().partitions.remove(0);
            assert_eq!(fetched.error, None);
            if fetched.records.is_empty() {
                return found;
            }
            let values = values(fetched.records, position).into_iter();
            found.extend(values.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()));
            position = fetched.next_offset;
        }
    }
}

/// A port that nobody has at the moment: lists name ports before anybody listens on them.
fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn seeds(members: &[&Member]) -> SeedList {
    SeedList(members.iter().map(|member| member.peer_address()).collect())
}

fn batch(values: &[&str]) -> Bytes {
    builder(now_ms(), values).build().unwrap()
}

fn now_ms() -> i64 {
    use headwater_broker::env::Clock;
    SystemClock.now().get()
}

/// Waits until it holds.
pub async fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, holds).await;
}

pub async fn eventually_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + patience;
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "never: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
