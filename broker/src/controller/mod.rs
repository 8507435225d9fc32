//! The metadata group: how the cluster's brokers, topics and producer ids change.
//!
//! Invariants: one command at a time, checked against the applied state and proposed only if that lets it
//! pass; what is random or timed is drawn here, before the log.

mod admin;
mod entrance;
mod forced;
mod founding;
mod identity;
mod known;
mod log;
mod peers;
mod recovery;
mod registry;
pub mod rejoin;
mod submit;

use std::sync::Arc;
use std::time::Duration;

use headwater_consensus::transport::Transport;
use headwater_consensus::{ConsensusError, Group, GroupHost, GroupSpec, Peer, RaftSettings};
use headwater_core::MetadataState;
use headwater_core::metadata::{Broker, Command, Effect, Topic};
use headwater_proto::types::{
    BrokerId, ClusterId, GroupId, LogIndex, Offset, ProducerEpoch, ProducerId, TopicId,
};
use headwater_storage::log::LogOptions;
use tokio::sync::{Mutex, watch};

use crate::cluster::Cluster;
use crate::config::TopicsConfig;
use crate::env::Env;
use crate::error::RequestError;
use crate::proposer::Proposer;

pub use admin::{ConfigChange, NewTopic, TopicOutcome};
pub use entrance::{Entrance, EntranceError, probe_request, seeds};
pub use forced::{MetadataOutlook, MetadataRecoveryError, recover_metadata, recovered_above};
pub use identity::{Identity, IdentityError};
pub use known::KnownBrokers;
pub use peers::{Peers, cluster_of};
pub use registry::Registry;

/// Ids that a broker fetches at once (KIP-730); those left over at a stop are never used.
const PRODUCER_ID_BLOCK: u32 = 1_000;
/// How long a broker that does not know of something may take to hear of it.
const HEARS_WITHIN: Duration = Duration::from_secs(2);

/// Ids given to this broker and not yet to a producer.
#[derive(Debug, Default)]
struct Block {
    next: i64,
    end: i64,
}

/// This broker's view of the metadata group, and its way to change it.
pub struct Controller {
    identity: Identity,
    proposer: Arc<Proposer<MetadataState>>,
    registry: Arc<Registry>,
    cluster: Arc<Cluster>,
    transport: Transport,
    env: Env,
    limits: TopicsConfig,
    /// Held from check to apply.
    one_at_a_time: Mutex<()>,
    producer_ids: Mutex<Block>,
    /// The last entry whose state was written to tables.
    checkpoint: Mutex<LogIndex>,
    current: watch::Sender<bool>,
}

/// What a controller works with.
pub struct Resources {
    pub registry: Arc<Registry>,
    pub cluster: Arc<Cluster>,
    pub transport: Transport,
    pub env: Env,
    pub limits: TopicsConfig,
}

/// Starts this broker's replica of the metadata group.
pub async fn start_metadata_group(
    identity: &Identity,
    host: GroupHost,
    settings: RaftSettings,
    segment_bytes: u64,
    seed: u64,
) -> Result<Arc<Group<MetadataState>>, ConsensusError> {
    let spec = GroupSpec {
        id: GroupId::METADATA,
        replica_id: identity.replica_id,
        voters: identity.founders.clone(),
        initialize: identity.is_founder(),
    };
    let options = LogOptions { segment_bytes, ..LogOptions::default() };
    Box::pin(Group::start(spec, host, options, settings, seed, MetadataState::default())).await
}

impl Controller {
    pub fn new(identity: Identity, group: Arc<Group<MetadataState>>, resources: Resources) -> Arc<Self> {
        let Resources { registry, cluster, transport, env, limits } = resources;
        Arc::new(Self {
            identity,
            // Nobody asks where a metadata command lies.
            proposer: Proposer::new(group, |_| Offset(0)),
            registry,
            cluster,
            transport,
            env,
            limits,
            one_at_a_time: Mutex::new(()),
            producer_ids: Mutex::default(),
            checkpoint: Mutex::default(),
            current: watch::Sender::new(false),
        })
    }

    /// Whether the state reflects everything that was acknowledged before this broker started: only then may what is
    /// on disk be judged by it.
    pub fn current(&self) -> watch::Receiver<bool> {
        self.current.subscribe()
    }

    /// Those with whom the cluster began, where this broker was one of them.
    pub fn founders(&self) -> impl Iterator<Item = Peer> {
        self.identity.founders.values().copied()
    }

    /// From now on it does.
    pub fn set_current(&self) {
        self.current.send_replace(true);
    }

    pub const fn cluster_id(&self) -> ClusterId {
        self.identity.cluster_id
    }

    pub const fn broker_id(&self) -> BrokerId {
        self.identity.broker_id
    }

    pub fn group(&self) -> &Arc<Group<MetadataState>> {
        self.proposer.group()
    }

    /// Looks at the applied state. Keep it short.
    pub fn with_state<T>(&self, look: impl FnOnce(&MetadataState) -> T) -> T {
        self.group().with_state(look)
    }

    /// A topic by its name.
    pub fn topic(&self, name: &str) -> Result<Topic, RequestError> {
        self.with_state(|state| known_topic(state, name))
    }

    /// As [`Controller::topic`], once this broker has heard of what it may have missed.
    pub async fn find_topic(&self, name: &str) -> Result<Topic, RequestError> {
        self.look_up(|state| known_topic(state, name)).await
    }

    /// What is found in the state. Before it is said that there is no such thing, a broker that was away hears of it.
    ///
    /// # Errors
    /// There is no such thing; or nobody leads the metadata, and it may exist.
    pub async fn look_up<T>(
        &self,
        look: impl Fn(&MetadataState) -> Result<T, RequestError>,
    ) -> Result<T, RequestError> {
        if let Ok(found) = self.with_state(&look) {
            return Ok(found);
        }
        self.catch_up(HEARS_WITHIN).await?;
        self.with_state(&look)
    }

    /// Registers this broker where the cluster knows it otherwise or not at all.
    pub async fn register(&self, broker: Broker) -> Result<(), RequestError> {
        if self.with_state(|state| state.is_registered(&broker)) {
            return Ok(());
        }
        let Identity { replica_id, founders, .. } = &self.identity;
        let metadata_replica = founders.contains_key(replica_id).then_some(*replica_id);
        self.submit(Command::RegisterBroker { broker, metadata_replica }).await.map(|_| ())
    }

    /// A producer id that nobody ever had, with its first epoch.
    pub async fn new_producer(&self) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let mut block = self.producer_ids.lock().await;
        if block.next == block.end {
            match self.submit(Command::AllocateProducerIds { count: PRODUCER_ID_BLOCK }).await? {
                Effect::ProducerIds { first, count } => {
                    *block = Block { next: first.get(), end: first.get() + i64::from(count) };
                }
                other => {
                    return Err(RequestError::Internal(format!("asked for producer ids, got {other:?}")));
                }
            }
        }
        let id = ProducerId(block.next);
        block.next += 1;
        Ok((id, ProducerEpoch(0)))
    }

    /// Writes the state where it changed, so that the next start has nothing to replay.
    pub async fn checkpoint(&self) {
        let mut checkpoint = self.checkpoint.lock().await;
        let applied = self.with_state(|state| state.log.applied_index);
        if applied == *checkpoint {
            return;
        }
        match self.group().checkpoint().await {
            Ok(()) => *checkpoint = applied,
            Err(error) => {
                tracing::warn!(%error, "no checkpoint of the metadata: the next start replays its log");
            }
        }
    }

    /// Checks a command as it would be by [`Controller::submit`], and changes nothing.
    fn check(&self, command: &Command) -> Result<(), RequestError> {
        self.with_state(|state| state.check(command)).map_err(RequestError::from)
    }

    fn new_topic_id(&self) -> TopicId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.env.entropy.next_u64().to_be_bytes());
        id[8..].copy_from_slice(&self.env.entropy.next_u64().to_be_bytes());
        TopicId(id)
    }
}

/// Bounds a change of the cluster in time; what is late may still happen.
async fn within<T>(
    timeout_ms: u64,
    change: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    let timed_out = |_| Err(RequestError::NotFinished { timeout_ms });
    tokio::time::timeout(Duration::from_millis(timeout_ms), change).await.unwrap_or_else(timed_out)
}

/// A topic of this name.
///
/// # Errors
/// There is none.
pub fn known_topic(state: &MetadataState, name: &str) -> Result<Topic, RequestError> {
    state.topic(name).cloned().ok_or_else(|| RequestError::UnknownTopic { topic: name.to_owned() })
}
