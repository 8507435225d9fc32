//! What a broker has before it belongs to a cluster, and keeps afterwards: its directory, and a line to others.
//!
//! Invariant: nothing that is said to others, or journalled, before a cluster is entered binds this broker to one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use headwater_consensus::transport::NodeHandler;
use headwater_consensus::{GroupHost, RaftSettings};
use headwater_core::metadata::{Broker, BrokerState};
use headwater_core::mutant::{self, Mutant};
use headwater_proto::types::BrokerId;
use headwater_proto::v1;
use headwater_storage::data_dir::DataDir;
use tokio::sync::watch;

use crate::controller::{Entrance, Identity, IdentityError, KnownBrokers, Peers, rejoin, seeds};
use crate::node::NodeError;
use crate::server::{Advertised, NodeContext};

/// Everything that a node is built on.
pub struct Host {
    pub context: NodeContext,
    pub data_dir: Arc<DataDir>,
    pub peers: Arc<Peers>,
    /// What the broker waits for, in words; empty: for nothing.
    waiting: watch::Sender<String>,
    /// Why it must not go on, once that is known.
    failure: watch::Sender<Option<Arc<NodeError>>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// What a start finds in the data directory and in the configuration.
#[derive(Debug)]
pub enum Beginning {
    /// It is a broker of a cluster, which may be its own.
    Member(Identity),
    /// It has to ask others first.
    Stranger,
    /// It is one, and needs another replica of the metadata group.
    Returning(Identity),
}

impl Host {
    /// Opens the data directory, and answers other brokers from then on.
    ///
    /// # Errors
    /// The data directory cannot be used.
    pub async fn open(context: NodeContext) -> Result<Arc<Self>, NodeError> {
        let env = &context.env;
        let mut draw = || {
            // An emptied disk that takes itself for its predecessor.
            let stays = mutant::active(Mutant::EmptiedDiskVotes);
            if stays { context.config.broker.node_id.unsigned_abs().into() } else { env.entropy.next_u64() }
        };
        let (disk, path) = (Arc::clone(&env.disk), &context.config.broker.data_dir);
        let data_dir = Box::pin(DataDir::open(disk, path, &mut draw)).await?;
        let transport = &context.transport;
        transport.identify(data_dir.incarnation());
        let peers = Peers::new(Arc::clone(&context.config), Arc::clone(&data_dir), transport.clone());
        let handler: Arc<dyn NodeHandler> = Arc::clone(&peers) as _;
        transport.set_handler(Arc::downgrade(&handler));
        let (waiting, failure) = (watch::Sender::default(), watch::Sender::default());
        Ok(Arc::new(Self { context, data_dir, peers, waiting, failure }))
    }

    /// Reads who this broker is. One with an empty directory that is told of no others begins a cluster of its own.
    ///
    /// # Errors
    /// The directory is another broker's, or cannot be read or written.
    pub async fn begin(&self) -> Result<Beginning, NodeError> {
        let (config, env) = (&self.context.config, &self.context.env);
        let broker_id = BrokerId(config.broker.node_id);
        rejoin::finish(&self.data_dir).await.map_err(IdentityError::from)?;
        if let Some(identity) = Identity::read(&self.data_dir, broker_id)? {
            return Ok(match rejoin::is_due(&self.data_dir) {
                Some(_) => Beginning::Returning(identity),
                None => Beginning::Member(identity),
            });
        }
        if !config.cluster.nodes.0.is_empty() || !config.cluster.join.0.is_empty() {
            return Ok(Beginning::Stranger);
        }
        let identity = Identity::alone(&self.data_dir, broker_id, env.entropy.as_ref());
        identity.write(&self.data_dir).await?;
        Ok(Beginning::Member(identity))
    }

    /// Enters a cluster, however long that takes.
    ///
    /// # Errors
    /// No cluster can be entered as things are configured, or it refuses this broker.
    pub async fn enter(&self) -> Result<Identity, NodeError> {
        Ok(Entrance { host: self, introduction: self.introduction() }.enter().await?)
    }

    /// Has the cluster give this broker another replica of the metadata group, however long that takes.
    ///
    /// # Errors
    /// The cluster refuses this broker.
    pub async fn rejoin(&self, identity: &Identity) -> Result<Identity, NodeError> {
        Ok(Entrance { host: self, introduction: self.introduction() }.rejoin(identity).await?)
    }

    /// Whether there may be others that hold the metadata too.
    pub fn has_others(&self, identity: &Identity) -> bool {
        let is_other = |broker: &BrokerId| *broker != identity.broker_id;
        let founders = identity.founders.values().map(|founder| founder.broker_id);
        let known = KnownBrokers::read(&self.data_dir).addresses();
        !seeds(&self.context.config.cluster, identity.broker_id).is_empty()
            || founders.chain(known.into_keys()).any(|broker| is_other(&broker))
    }

    /// This broker as metadata shows it.
    pub fn broker(&self) -> Broker {
        let introduction = self.introduction();
        Broker {
            id: BrokerId(introduction.broker_id),
            incarnation: self.data_dir.incarnation(),
            grpc_address: introduction.grpc_address,
            kafka_address: introduction.kafka_address,
            peer_address: introduction.peer_address,
            rack: introduction.rack,
            version: introduction.software_version,
            state: BrokerState::Active,
        }
    }

    fn introduction(&self) -> v1::JoinRequest {
        let Advertised { grpc, kafka, peer, .. } = &self.context.advertised;
        let broker = &self.context.config.broker;
        v1::JoinRequest {
            broker_id: broker.node_id,
            incarnation: self.data_dir.incarnation().0.to_vec().into(),
            peer_address: peer.to_string(),
            grpc_address: grpc.to_string(),
            kafka_address: kafka.to_string(),
            rack: broker.rack.clone(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: bytes::Bytes::new(),
            lost_replica: 0,
        }
    }

    /// Where groups run.
    pub fn groups(&self) -> GroupHost {
        let transport = &self.context.transport;
        GroupHost {
            data_dir: Arc::clone(&self.data_dir),
            messenger: Arc::new(transport.clone()),
            replicas: Arc::clone(transport.replicas()),
        }
    }

    /// How groups keep time.
    pub fn raft_settings(&self) -> RaftSettings {
        let cluster = &self.context.config.cluster;
        RaftSettings {
            heartbeat_interval: Duration::from_millis(cluster.heartbeat_interval_ms),
            election_timeout_min: Duration::from_millis(cluster.election_timeout_min_ms),
            election_timeout_max: Duration::from_millis(cluster.election_timeout_max_ms),
            ..RaftSettings::default()
        }
    }

    /// What it waits for, in words; empty: for nothing.
    pub fn waiting(&self) -> String {
        self.waiting.borrow().clone()
    }

    pub fn wait_for(&self, what: &str) {
        self.waiting.send_if_modified(|before| {
            let changed = before != what;
            if changed {
                what.clone_into(before);
                if !what.is_empty() {
                    tracing::info!("{what}");
                }
            }
            changed
        });
    }

    /// Ends what the broker has where there is no node.
    pub async fn close(&self) {
        self.context.transport.close().await;
        if let Err(error) = self.data_dir.abandon().await {
            tracing::error!(%error, "the last writes to the data directory failed");
        }
    }

    /// This broker must not go on.
    pub fn fail(&self, error: NodeError) {
        tracing::error!(%error, "this broker cannot go on");
        self.failure.send_replace(Some(Arc::new(error)));
    }

    /// Why this broker must not go on, once it is so.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().as_ref().map(ToString::to_string)
    }

    /// Resolves when the broker must not go on, and says why.
    pub async fn failed(&self) -> Arc<NodeError> {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(error) = failure.borrow_and_update().clone() {
                return error;
            }
            // The sender lives as long as this.
            let _ = failure.changed().await;
        }
    }
}
