//! The broker behind its listeners: what both protocols call.
//!
//! Invariants: handlers translate, and everything that decides is below here; a broker that is the only voter of its
//! groups starts with all of them open and led; where there are others, **a start waits for nobody**: it serves what
//! it can, and says what it waits for; a stop hands leadership over first, and ends with everything durable.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_consensus::transport::Transport;
use headwater_consensus::{ConsensusError, Health};
use headwater_proto::record::Limits;
use headwater_proto::types::{BrokerId, Incarnation};
use headwater_storage::data_dir::{DataDir, OpenError};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{Cluster, ClusterSettings};
use crate::config::Config;
use crate::controller::{
    Controller, EntranceError, Identity, IdentityError, KnownBrokers, Registry, Resources, seeds,
    start_metadata_group,
};
use crate::env::Env;
use crate::error::RequestError;
use crate::hand_over;
use crate::host::Host;
use crate::lifecycle;
use crate::metrics::{Exposition, RequestMetrics};
use crate::partition::{BatchLimits, Partition, Submission, UpkeepSettings};
use crate::proposer::Charge;

/// Why the node cannot start, or not go on.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    DataDir(#[from] OpenError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Entrance(#[from] EntranceError),
    #[error("the metadata of the cluster cannot be used: {0}")]
    Metadata(#[from] ConsensusError),
    #[error(
        "the log of the cluster's metadata is damaged in {data_dir}, and this broker knows of no other one that holds \
         it: restore the directory from a backup. Nothing in it was changed, and its partitions can be read with \
         `streamctl dump`"
    )]
    MetadataDamaged { data_dir: String },
    #[error(
        "a forced recovery of the cluster's metadata gave up what this broker has of it: start it again, and it \
         rejoins with what was recovered"
    )]
    GivenUp,
    #[error(
        "the log of the cluster's metadata is damaged here, and other brokers hold it: start this one again, and it takes a \
         new replica from them. Its partitions stay"
    )]
    MetadataRotten,
    #[error(
        "the log of the cluster's metadata could not be written ({reason}): this broker can follow the cluster no \
         more. Look after its disk, then start it again"
    )]
    MetadataFailed { reason: String },
    #[error(
        "the journal could not be written ({source}): this broker can store nothing any more. Look after its disk, \
         then start it again"
    )]
    JournalFailed { source: std::io::Error },
    #[error("this broker could not be registered: {0}")]
    Register(#[source] RequestError),
    #[error("what is left of deleted partitions could not be removed: {0}")]
    Leftovers(#[source] std::io::Error),
}

/// Everything that handlers call.
pub struct Node {
    host: Arc<Host>,
    controller: Arc<Controller>,
    registry: Arc<Registry>,
    cluster: Arc<Cluster>,
    known: KnownBrokers,
    metrics: RequestMetrics,
    /// Ends the tasks in the background.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("broker_id", &self.controller.broker_id()).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts every group that the data directory holds.
    ///
    /// # Errors
    /// The metadata in the data directory cannot be used. A partition that cannot be used is no error: it answers
    /// with its reason.
    pub async fn start(host: Arc<Host>, identity: Identity) -> Result<Arc<Self>, NodeError> {
        let (context, entropy) = (&host.context, &host.context.env.entropy);
        context.transport.enter(identity.cluster_id);
        let known = KnownBrokers::read(&host.data_dir);
        let listed = seeds(&context.config.cluster, identity.broker_id);
        let listed = listed.into_iter().filter_map(|(broker, address)| Some((broker?, address)));
        for (broker, address) in known.addresses().into_iter().chain(listed) {
            context.transport.addresses().suggest(broker, &address);
        }
        let segment_bytes = context.config.cluster.metadata_segment_bytes;
        let (groups, settings, seed) = (host.groups(), host.raft_settings(), entropy.next_u64());
        let metadata = start_metadata_group(&identity, groups, settings, segment_bytes, seed);
        let metadata = Box::pin(metadata).await?;
        if matches!(metadata.health(), Health::Damaged(_)) {
            metadata.shutdown().await;
            let data_dir = context.config.broker.data_dir.display().to_string();
            return Err(NodeError::MetadataDamaged { data_dir });
        }
        let pinger = Arc::new(context.transport.clone());
        let cluster =
            Cluster::new(identity.broker_id, ClusterSettings::from(&context.config.cluster), pinger);
        let (own, live) = (identity.broker_id, Arc::clone(&cluster));
        let registry = Registry::new(host.groups(), settings, own, live, Arc::clone(entropy));
        let resources = Resources {
            registry: Arc::clone(&registry),
            cluster: Arc::clone(&cluster),
            transport: context.transport.clone(),
            env: context.env.clone(),
            limits: context.config.topics.clone(),
        };
        let node = Arc::new(Self {
            controller: Controller::new(identity, metadata, resources),
            registry,
            cluster,
            known,
            metrics: RequestMetrics::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            host,
        });
        Box::pin(lifecycle::bring_up(&node)).await?;
        node.host.peers.serve(&node);
        Ok(node)
    }

    pub const fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.host.context.config
    }

    pub fn env(&self) -> &Env {
        &self.host.context.env
    }

    pub fn transport(&self) -> &Transport {
        &self.host.context.transport
    }

    pub fn data_dir(&self) -> &Arc<DataDir> {
        &self.host.data_dir
    }

    /// The other brokers, as they are at the moment.
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Whether the broker is registered, and alive, with another data directory.
    pub fn is_alive_elsewhere(&self, broker: BrokerId, incarnation: Incarnation) -> bool {
        let registered = self.controller.with_state(|state| state.broker(broker).map(|b| b.incarnation));
        registered.is_some_and(|registered| registered != incarnation) && self.cluster.alive(broker)
    }

    pub(crate) const fn known(&self) -> &KnownBrokers {
        &self.known
    }

    /// Counts the tasks in the background, which end at the stop.
    pub(crate) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub const fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    pub const fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub const fn metrics(&self) -> &RequestMetrics {
        &self.metrics
    }

    /// Cancelled when streams that would go on for ever must end.
    pub fn drain(&self) -> &CancellationToken {
        &self.host.context.drain
    }

    /// Cancelled when the node stops.
    pub const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The open partition with this name and number.
    pub fn partition(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, RequestError> {
        self.registry.partition(topic, partition)
    }

    /// Proposes the batches of one partition; the outcome is awaited on what is returned.
    pub async fn submit(
        &self,
        topic: &str,
        partition: i32,
        records: Bytes,
        acks: i32,
        known_epoch: i32,
        charge: Charge,
    ) -> Submission {
        let ready = self.partition(topic, partition).and_then(|partition| {
            partition.check_epoch(known_epoch)?;
            Ok(partition)
        });
        match ready {
            Ok(partition) => {
                partition.submit(records, acks, self.batch_limits(), self.env().clock.now(), charge).await
            }
            Err(error) => Submission::refused(error),
        }
    }

    fn batch_limits(&self) -> BatchLimits {
        BatchLimits {
            records_max: self.config().requests.batch_records_max,
            decompressed_bytes_max: self.config().requests.decompressed_bytes_max,
            producers_max: self.config().storage.producer_ids_per_partition_max,
        }
    }

    /// Limits on batches of our own log, where the broker must look inside.
    pub fn read_limits(&self) -> Limits {
        let decompressed_bytes_max = self.config().requests.decompressed_bytes_max;
        Limits { decompressed_bytes_max, ..Limits::default() }
    }

    pub fn upkeep_settings(&self) -> UpkeepSettings {
        let storage = &self.config().storage;
        UpkeepSettings { producer_expiration: Duration::from_millis(storage.producer_id_expiration_ms) }
    }

    /// What keeps it from serving, for `/health/ready`.
    pub fn unready(&self) -> Option<String> {
        match self.controller.group().health() {
            // Reads are served from a full disk, and writes come back by themselves.
            Health::Running | Health::NoSpace => {
                Some(self.host.waiting()).filter(|waiting| !waiting.is_empty())
            }
            Health::Damaged(_) => Some("the metadata log is damaged".to_owned()),
            Health::Failed(reason) => Some(format!("the metadata group failed: {reason}")),
            Health::Stopped => Some("stopped".to_owned()),
        }
    }

    /// Figures that are read when they are asked for.
    pub fn scrape(&self, out: &mut Exposition) {
        if let Ok(space) = self.data_dir().space() {
            out.gauge("headwater_disk_free_bytes", "Free bytes of the data directory's file system.");
            out.sample("headwater_disk_free_bytes", &[], space.free_bytes);
        }
        let topics = self.controller.with_state(|state| state.topics().count());
        out.gauge("headwater_topics", "Topics of the cluster.");
        out.sample("headwater_topics", &[], topics);
        self.scrape_cluster(out);
        crate::partition::scrape(&self.registry.open_partitions(), out);
    }

    /// Gives the leadership of every group to another replica that can take it, as far as `within` allows.
    pub async fn hand_over(&self, within: Duration) {
        hand_over::hand_over(self, within).await;
    }

    /// Stops every group and makes the next start a clean one.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.cluster.stop().await;
        self.registry.close_all().await;
        self.controller.checkpoint().await;
        self.controller.group().shutdown().await;
        self.transport().close().await;
        if let Err(error) = self.data_dir().flush_clean().await {
            tracing::error!(%error, "the stop was not clean: the next start recovers");
        }
    }
}
