//! The broker behind its listeners: what both protocols call.
//!
//! Invariants: handlers translate, and everything that decides is below here; the node starts with
//! everything that its data directory holds open and led, and stops with everything durable.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_consensus::{ConsensusError, Health};
use headwater_core::metadata::{Broker, BrokerState};
use headwater_proto::record::Limits;
use headwater_proto::types::BrokerId;
use headwater_storage::data_dir::{DataDir, OpenError};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::controller::{
    Controller, Identity, IdentityError, Registry, establish_identity, start_metadata_group,
};
use crate::env::Env;
use crate::error::RequestError;
use crate::metrics::{Exposition, RequestMetrics};
use crate::partition::{BatchLimits, Partition, Submission, UpkeepSettings};
use crate::proposer::Charge;
use crate::retention;
use crate::server::NodeContext;

/// Why the node cannot start.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    DataDir(#[from] OpenError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the metadata of the cluster cannot be used: {0}")]
    Metadata(#[from] ConsensusError),
    #[error("this broker could not be registered: {0}")]
    Register(#[source] RequestError),
    #[error("what is left of deleted partitions could not be removed: {0}")]
    Leftovers(#[source] std::io::Error),
}

/// Everything that handlers call.
pub struct Node {
    config: Arc<Config>,
    env: Env,
    data_dir: Arc<DataDir>,
    controller: Arc<Controller>,
    registry: Arc<Registry>,
    metrics: RequestMetrics,
    drain: CancellationToken,
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
    /// Opens the data directory and starts every group.
    ///
    /// # Errors
    /// The data directory cannot be used, or the metadata in it. A partition that cannot be used is no
    /// error: it answers with its reason.
    pub async fn start(context: NodeContext) -> Result<Arc<Self>, NodeError> {
        let NodeContext { config, env, advertised, drain, .. } = context;
        let mut draw = || env.entropy.next_u64();
        let disk = Arc::clone(&env.disk);
        let data_dir = Box::pin(DataDir::open(disk, &config.broker.data_dir, &mut draw)).await?;
        let broker_id = BrokerId(config.broker.node_id);
        let identity = establish_identity(&data_dir, broker_id, env.entropy.as_ref()).await?;
        let metadata = Box::pin(start_metadata_group(&data_dir, &identity, env.entropy.next_u64())).await?;
        metadata.wait_leader().await?;
        let registry = Registry::new(Arc::clone(&data_dir), broker_id, Arc::clone(&env.entropy));
        let limits = config.topics.clone();
        let controller = Controller::new(&identity, metadata, Arc::clone(&registry), env.clone(), limits);
        let node = Arc::new(Self {
            config,
            env,
            data_dir,
            controller,
            registry,
            metrics: RequestMetrics::new(),
            drain,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        Box::pin(node.bring_up(&identity, &advertised)).await?;
        Ok(node)
    }

    async fn bring_up(
        self: &Arc<Self>,
        identity: &Identity,
        advertised: &crate::server::Advertised,
    ) -> Result<(), NodeError> {
        let own = Broker {
            id: identity.broker_id,
            incarnation: self.data_dir.incarnation(),
            grpc_address: advertised.grpc.to_string(),
            kafka_address: advertised.kafka.to_string(),
            peer_address: advertised.peer.to_string(),
            rack: self.config.broker.rack.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: BrokerState::Active,
        };
        self.controller.register(own).await.map_err(NodeError::Register)?;
        let wanted = self.controller.with_state(|state| {
            state.groups().map(|(group, _)| group).collect::<BTreeSet<_>>()
        });
        self.registry.delete_leftovers(&wanted).await.map_err(NodeError::Leftovers)?;
        self.registry.follow(self.controller.group()).await;
        self.tasks.spawn(follow_metadata(Arc::clone(self)));
        self.tasks.spawn(retention::run(Arc::clone(self)));
        self.tasks.spawn(retention::scrub(Arc::clone(self)));
        Ok(())
    }

    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub const fn env(&self) -> &Env {
        &self.env
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
    pub const fn drain(&self) -> &CancellationToken {
        &self.drain
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
                partition.submit(records, acks, self.batch_limits(), self.env.clock.now(), charge).await
            }
            Err(error) => Submission::refused(error),
        }
    }

    fn batch_limits(&self) -> BatchLimits {
        BatchLimits {
            records_max: self.config.requests.batch_records_max,
            decompressed_bytes_max: self.config.requests.decompressed_bytes_max,
            producers_max: self.config.storage.producer_ids_per_partition_max,
        }
    }

    /// Limits on batches of our own log, where the broker must look inside.
    pub fn read_limits(&self) -> Limits {
        let decompressed_bytes_max = self.config.requests.decompressed_bytes_max;
        Limits { decompressed_bytes_max, ..Limits::default() }
    }

    pub fn upkeep_settings(&self) -> UpkeepSettings {
        let storage = &self.config.storage;
        UpkeepSettings { producer_expiration: Duration::from_millis(storage.producer_id_expiration_ms) }
    }

    /// What keeps it from serving, for `/health/ready`.
    pub fn unready(&self) -> Option<String> {
        match self.controller.group().health() {
            // Reads are served from a full disk, and writes come back by themselves.
            Health::Running | Health::NoSpace => None,
            Health::Damaged(_) => Some("the metadata log is damaged".to_owned()),
            Health::Failed(reason) => Some(format!("the metadata group failed: {reason}")),
            Health::Stopped => Some("stopped".to_owned()),
        }
    }

    /// Figures that are read when they are asked for.
    pub fn scrape(&self, out: &mut Exposition) {
        if let Ok(space) = self.data_dir.space() {
            out.gauge("headwater_disk_free_bytes", "Free bytes of the data directory's file system.");
            out.sample("headwater_disk_free_bytes", &[], space.free_bytes);
        }
        let topics = self.controller.with_state(|state| state.topics().count());
        out.gauge("headwater_topics", "Topics of the cluster.");
        out.sample("headwater_topics", &[], topics);
        crate::partition::scrape(&self.registry.open_partitions(), out);
    }

    /// Stops every group and makes the next start a clean one.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.registry.close_all().await;
        self.controller.checkpoint().await;
        self.controller.group().shutdown().await;
        if let Err(error) = self.data_dir.flush_clean().await {
            tracing::error!(%error, "the stop was not clean: the next start recovers");
        }
    }
}

/// Opens and deletes partitions as the metadata changes.
async fn follow_metadata(node: Arc<Node>) {
    let mut progress = node.controller.group().progress();
    loop {
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = node.stop.cancelled() => return,
        }
        node.registry.follow(node.controller.group()).await;
    }
}
