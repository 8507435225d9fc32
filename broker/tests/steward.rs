//! Brokers that come, go, lose their disks and are emptied: groups follow, and nothing that was written is missing.
#![allow(clippy::unwrap_used)]

mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::config::{Config, HostPort, NodeList, SeedList};
use headwater_broker::env::{Clock, Entropy, TcpNetwork};
use headwater_broker::{Broker, Env};
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::types::TimestampMs;
use headwater_proto::v1;
use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::cluster_client::ClusterClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_storage::disk::SimDisk;
use tonic::transport::Channel;

use ports::free_address;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(1_700_000_000_000)
    }
}

#[derive(Debug)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst)
    }
}

/// One broker, running.
struct Member {
    broker: Broker,
    channel: Channel,
}

/// Several brokers in this process, each with a disk of its own.
struct Cluster {
    peers: BTreeMap<i32, SocketAddr>,
    disks: BTreeMap<i32, Arc<SimDisk>>,
    members: BTreeMap<i32, Member>,
    /// With which the cluster is begun; the others join.
    founders: Vec<i32>,
    drawn: u64,
}

impl Cluster {
    /// Brokers 1 to `count`, of which `founders` begin the cluster.
    async fn start(founders: i32, count: i32) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let mut cluster = Self {
            peers: (1..=count).map(|id| (id, free_address())).collect(),
            disks: (1..=count).map(|id| (id, Arc::new(SimDisk::new(7 + id as u64)))).collect(),
            members: BTreeMap::new(),
            founders: (1..=founders).collect(),
            drawn: 1,
        };
        for id in 1..=founders {
            cluster.boot(id).await;
        }
        for id in founders + 1..=count {
            cluster.boot(id).await;
        }
        let everyone = (1..=count).collect::<Vec<_>>();
        cluster.until("all brokers are registered", async |c| c.live_brokers().await == everyone).await;
        cluster
    }

    async fn boot(&mut self, id: i32) {
        let mut config = Config::default();
        let free = "127.0.0.1:0".parse().unwrap();
        (config.broker.kafka_addr, config.broker.grpc_addr, config.broker.http_addr) = (free, free, free);
        config.broker.peer_addr = self.peers[&id];
        config.broker.node_id = id;
        config.broker.data_dir = "/data".into();
        config.cluster.leader_balance_after_ms = 500;
        config.cluster.replace_voter_after_ms = 2_000;
        config.storage.scrub_interval_ms = 300;
        let address = |id: &i32| HostPort { host: "127.0.0.1".to_owned(), port: self.peers[id].port() };
        if !self.founders.contains(&id) {
            config.cluster.join = SeedList(self.founders.iter().map(address).collect());
        } else if self.founders.len() > 1 {
            config.cluster.nodes = NodeList(self.founders.iter().map(|id| (*id, address(id))).collect());
        }
        self.drawn += 1;
        let env = Env {
            disk: self.disks[&id].clone(),
            clock: Arc::new(FixedClock),
            entropy: Arc::new(Counting(AtomicU64::new(self.drawn << 32))),
            network: Arc::new(TcpNetwork::default()),
        };
        let broker = tokio::time::timeout(PATIENCE, Broker::start(config, env)).await.unwrap().unwrap();
        let address = format!("http://{}", broker.addresses().grpc);
        let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
        self.members.insert(id, Member { broker, channel });
    }

    async fn stop(&mut self, id: i32) {
        let member = self.members.remove(&id).unwrap();
        tokio::time::timeout(PATIENCE, member.broker.shutdown()).await.expect("it stops in time");
    }

    /// The broker's disk is gone; it comes back with an empty one.
    async fn replace_disk(&mut self, id: i32) {
        self.stop(id).await;
        self.disks.insert(id, Arc::new(SimDisk::new(99)));
        self.boot(id).await;
    }

    fn channel(&self) -> Channel {
        self.members.values().next().unwrap().channel.clone()
    }

    fn admin(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while !holds(self).await {
            if tokio::time::Instant::now() >= patience {
                let status = self.status().await;
                let partitions = self.partitions().await;
                panic!("never: {what}\n{status:#?}\n{partitions:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn status(&self) -> Option<v1::ClusterStatusResponse> {
        let status = self.admin().cluster_status(v1::ClusterStatusRequest {}).await;
        status.ok().map(tonic::Response::into_inner)
    }

    async fn live_brokers(&self) -> Vec<i32> {
        let brokers = self.status().await.map_or_else(Vec::new, |status| status.brokers);
        brokers.iter().filter(|b| b.live).map(|b| b.broker.as_ref().unwrap().id).collect()
    }

    async fn voters(&self) -> Vec<i32> {
        self.status().await.map_or_else(Vec::new, |status| status.controller_voters)
    }

    async fn partitions(&self) -> Vec<v1::PartitionStatus> {
        let request = v1::ListPartitionsRequest::default();
        self.admin().list_partitions(request).await.map_or_else(|_| Vec::new(), |r| r.into_inner().partitions)
    }

    /// Whether each partition is led, and on these brokers and no others, all in sync.
    async fn all_on(&self, brokers: &[i32], replicas: usize) -> bool {
        let partitions = self.partitions().await;
        !partitions.is_empty()
            && partitions.iter().all(|partition| {
                partition.leader_id > 0
                    && partition.replicas.len() == replicas
                    && partition.replicas.iter().all(|replica| {
                        brokers.contains(&replica.broker_id)
                            && replica.in_sync
                            && !replica.leaving
                            && !replica.joining
                    })
            })
    }

    async fn leaders(&self) -> Vec<i32> {
        self.partitions().await.iter().map(|partition| partition.leader_id).collect()
    }

    async fn create(&self, name: &str, partitions: i32, replicas: i32) {
        let topic = v1::NewTopic { name: name.to_owned(), partitions, replicas, configs: vec![] };
        let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false, timeout_ms: 0 };
        let mut admin = AdminClient::new(self.channel());
        let created = admin.create_topics(request).await.unwrap().into_inner().topics.remove(0);
        assert_eq!(created.error, None);
    }

    /// Writes a record to each partition, wherever it is led.
    async fn write(&self, topic: &str, partitions: i32, value: &str) {
        for partition in 0..partitions {
            self.until("a record is acknowledged", async |c| {
                for member in c.members.values() {
                    if produce(member.channel.clone(), topic, partition, value).await {
                        return true;
                    }
                }
                false
            })
            .await;
        }
    }

    /// High watermarks of a topic's partitions, as their leaders have them.
    async fn ends(&self, topic: &str) -> Vec<i64> {
        let partitions = self.partitions().await;
        partitions.iter().filter(|p| p.topic == topic).map(|p| p.high_watermark).collect()
    }
}

async fn produce(channel: Channel, topic: &str, partition: i32, value: &str) -> bool {
    let mut batch = RecordBatchBuilder::new(Compression::None, None);
    batch.append(1_700_000_000_000, None, Some(value.as_bytes()), &[]).unwrap();
    let records: Bytes = batch.build().unwrap();
    let part = v1::ProducePartition { topic: topic.to_owned(), partition, records, leader_epoch: -1 };
    let request = v1::ProduceRequest { correlation: 1, acks: -1, timeout_ms: 0, partitions: vec![part] };
    let Ok(answers) = DataClient::new(channel).produce(tokio_stream::iter([request])).await else {
        return false;
    };
    match answers.into_inner().message().await {
        Ok(Some(answer)) => answer.partitions.first().is_some_and(|result| result.error.is_none()),
        _ => false,
    }
}

fn distinct(of: &[i32]) -> BTreeSet<i32> {
    of.iter().copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_disk_is_filled_again_and_leaders_return() {
    let mut cluster = Cluster::start(3, 3).await;
    cluster.create("orders", 6, 3).await;
    cluster.until("all are in sync", async |c| c.all_on(&[1, 2, 3], 3).await).await;
    cluster.write("orders", 6, "before").await;
    cluster.replace_disk(2).await;
    cluster.write("orders", 6, "after").await;
    cluster.until("what was on it is there again", async |c| c.all_on(&[1, 2, 3], 3).await).await;
    cluster.until("it votes again", async |c| c.voters().await == [1, 2, 3]).await;
    cluster
        .until("each leads its share again", async |c| {
            let leaders = c.leaders().await;
            (1..=3).all(|id| leaders.iter().filter(|leader| **leader == id).count() == 2)
        })
        .await;
    cluster.until("nothing is missing", async |c| c.ends("orders").await == [2; 6]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotten_replicas_are_built_anew_leaders_among_them() {
    let cluster = Cluster::start(3, 3).await;
    cluster.create("orders", 3, 3).await;
    for round in 0..20 {
        cluster.write("orders", 3, &format!("{round}").repeat(1_000)).await;
    }
    cluster.until("all are in sync", async |c| c.all_on(&[1, 2, 3], 3).await).await;
    let replicas = async |c: &Cluster| -> BTreeSet<(i32, u64)> {
        let all = c.partitions().await.into_iter().flat_map(|partition| partition.replicas);
        all.map(|replica| (replica.broker_id, replica.replica_id)).collect()
    };
    let before = replicas(&cluster).await;
    let disk = &cluster.disks[&2];
    let logs: Vec<_> = disk.paths().into_iter().filter(|path| is_partition_log(path)).collect();
    assert_eq!(logs.len(), 3);
    for path in logs {
        disk.flip_bit(&path, 5_000, 3).unwrap();
    }
    cluster
        .until("each replica of broker 2 is another one", async |c| {
            let now = replicas(c).await;
            now.len() == 9 && before.iter().all(|replica| now.contains(replica) == (replica.0 != 2))
        })
        .await;
    cluster.until("all are whole", async |c| c.all_on(&[1, 2, 3], 3).await).await;
    let damaged =
        cluster.partitions().await.into_iter().flat_map(|p| p.replicas).any(|r| !r.damage.is_empty());
    assert!(!damaged);
    cluster.until("nothing is missing", async |c| c.ends("orders").await == [20; 3]).await;
}

fn is_partition_log(path: &std::path::Path) -> bool {
    let in_metadata = path.to_string_lossy().contains("00000000000000000000000000000001-0");
    path.extension().is_some_and(|extension| extension == "log") && !in_metadata
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broker_grows_to_three_and_its_topic_with_it() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.create("orders", 3, 1).await;
    cluster.write("orders", 3, "alone").await;
    for id in 2..=3 {
        cluster.peers.insert(id, free_address());
        cluster.disks.insert(id, Arc::new(SimDisk::new(70 + id as u64)));
        cluster.boot(id).await;
    }
    cluster.until("all are there", async |c| c.live_brokers().await == [1, 2, 3]).await;
    cluster.until("all vote", async |c| c.voters().await == [1, 2, 3]).await;
    let alter = v1::AlterTopicReplicas { topic: "orders".to_owned(), replicas: 3 };
    let request = v1::AlterReplicasRequest { topics: vec![alter], validate_only: false };
    let altered = cluster.admin().alter_replicas(request).await.unwrap().into_inner().topics.remove(0);
    assert_eq!(altered.error, None);
    cluster.until("three replicas each", async |c| c.all_on(&[1, 2, 3], 3).await).await;
    cluster.until("each leads one", async |c| distinct(&c.leaders().await) == distinct(&[1, 2, 3])).await;
    cluster.write("orders", 3, "together").await;
    cluster.until("nothing is missing", async |c| c.ends("orders").await == [2; 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_are_drained_and_removed_and_partitions_moved() {
    let cluster = Cluster::start(3, 4).await;
    cluster.create("orders", 4, 3).await;
    cluster.write("orders", 4, "before").await;

    let mut admin = cluster.admin();
    let drain = |undo| v1::DrainNodeRequest { broker_id: 1, undo };
    admin.drain_node(drain(false)).await.unwrap();
    cluster
        .until("it leads nothing", async |c| {
            let leaders = c.leaders().await;
            let status = c.status().await;
            !leaders.contains(&1) && !leaders.contains(&-1) && status.is_some_and(|s| s.controller_id > 1)
        })
        .await;
    cluster.write("orders", 4, "drained").await;
    admin.drain_node(drain(true)).await.unwrap();
    cluster.until("it leads again", async |c| c.leaders().await.contains(&1)).await;

    let moves = |to: &[i32]| {
        let partition =
            |partition| v1::Reassignment { topic: "orders".to_owned(), partition, brokers: to.to_vec() };
        v1::ReassignRequest { partitions: (0..4).map(partition).collect(), validate_only: false }
    };
    let moved = admin.reassign(moves(&[4, 3, 2])).await.unwrap().into_inner().partitions;
    assert!(moved.iter().all(|result| result.error.is_none()), "{moved:?}");
    cluster.until("all moved", async |c| c.all_on(&[2, 3, 4], 3).await).await;
    cluster.until("led by the preferred one", async |c| c.leaders().await == [4; 4]).await;

    let remove = v1::RemoveNodeRequest { broker_id: 3, validate_only: false };
    admin.remove_node(remove).await.unwrap();
    cluster.until("it is emptied", async |c| c.all_on(&[1, 2, 4], 3).await).await;
    cluster
        .until("it is forgotten", async |c| {
            let status = c.status().await.unwrap_or_default();
            let brokers: Vec<_> = status.brokers.iter().filter_map(|b| b.broker.as_ref()).collect();
            brokers.iter().all(|broker| broker.id != 3) && status.controller_voters == [1, 2, 4]
        })
        .await;
    cluster.write("orders", 4, "after").await;
    cluster.until("nothing is missing", async |c| c.ends("orders").await == [3; 4]).await;
}
