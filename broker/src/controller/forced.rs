//! Going on with one replica of the metadata group, after a majority of its voters is lost for good.
//!
//! Done on the data directory of a broker that is stopped, by an operator who accepts the loss, and then recorded in
//! the metadata by the first leader. Invariants: without the explicit word nothing is changed; the replicas of all
//! other brokers are given up, so that no majority of the old voters comes back; a damaged log is no survivor.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use headwater_consensus::{Group, GroupHost, Health, Peer, RaftSettings, recovery};
use headwater_core::MetadataState;
use headwater_core::metadata::Command;
use headwater_proto::types::{BrokerId, ClusterId, GroupId, ReplicaId, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::log::LogId;
use thiserror::Error;

use super::identity::{Identity, IdentityError};
use super::recovery::RECOVERED_ABOVE;
use super::{Controller, rejoin, start_metadata_group};
use crate::config::Config;
use crate::env::Env;
use crate::error::RequestError;
use crate::node::NodeError;

/// The survivor does not know in which terms others led since it last heard of them; none can be that far ahead.
const TERMS_AHEAD: u64 = 1_000;

/// What the survivor holds, and what became of it.
#[derive(Debug, Clone)]
pub struct MetadataOutlook {
    pub cluster_id: ClusterId,
    pub broker_id: BrokerId,
    pub replica_id: ReplicaId,
    /// Where the voters are, as far as this broker knows.
    pub voters: Vec<BrokerId>,
    pub last: LogId,
    pub is_done: bool,
}

/// Why the metadata cannot be recovered from a data directory.
#[derive(Debug, Error)]
pub enum MetadataRecoveryError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the data directory belongs to no cluster: there is nothing to recover")]
    Stranger,
    #[error("broker {0} is the only voter of the metadata already: start it")]
    SoleVoter(BrokerId),
    #[error("this broker's replica of the metadata is damaged or given up: recover from another broker's")]
    Useless,
}

/// What would be lost; with `accept_loss`, goes on without it. The broker must not run.
///
/// # Errors
/// The data directory cannot be used, or nothing is to be recovered from it.
pub async fn recover_metadata(
    config: &Config,
    env: &Env,
    accept_loss: bool,
) -> Result<MetadataOutlook, MetadataRecoveryError> {
    let mut draw = || env.entropy.next_u64();
    let opened = DataDir::open(Arc::clone(&env.disk), &config.broker.data_dir, &mut draw);
    let data_dir = Box::pin(opened).await.map_err(NodeError::from)?;
    let done = recover(config, env, &data_dir, accept_loss).await;
    if let Err(error) = data_dir.flush_clean().await {
        tracing::error!(%error, "the stop was not clean: the next start recovers");
    }
    done
}

async fn recover(
    config: &Config,
    env: &Env,
    data_dir: &Arc<DataDir>,
    accept_loss: bool,
) -> Result<MetadataOutlook, MetadataRecoveryError> {
    rejoin::finish(data_dir).await.map_err(IdentityError::from).map_err(NodeError::from)?;
    let identity = Identity::read(data_dir, BrokerId(config.broker.node_id)).map_err(NodeError::from)?;
    let Some(identity) = identity else { return Err(MetadataRecoveryError::Stranger) };
    // Read by its own means, and at rest: it must neither ask nor tell anybody anything.
    let settings = RaftSettings { start_at_rest: true, ..RaftSettings::default() };
    let (host, seed) = (GroupHost::alone(Arc::clone(data_dir)), env.entropy.next_u64());
    let segment_bytes = config.cluster.metadata_segment_bytes;
    let group = start_metadata_group(&identity, host, settings, segment_bytes, seed);
    let group = Box::pin(group).await.map_err(NodeError::from)?;
    let (health, members) = (group.health(), group.membership());
    let last = group.log().bounds().last.unwrap_or_default();
    group.shutdown().await;
    drop(group);
    if health != Health::Running || rejoin::is_due(data_dir).is_some() || members.configs.is_empty() {
        return Err(MetadataRecoveryError::Useless);
    }
    let Identity { cluster_id, broker_id, replica_id, .. } = identity;
    if members.voters().into_iter().eq([replica_id]) {
        return Err(MetadataRecoveryError::SoleVoter(broker_id));
    }
    let voters = members.voters().into_iter().filter_map(|voter| Some(members.peers.get(&voter)?.broker_id));
    let voters = voters.collect();
    if accept_loss {
        let min_term = Term(last.term.get().saturating_add(TERMS_AHEAD));
        tracing::warn!(%cluster_id, %broker_id, ?voters, ?last, "a loss is accepted: the metadata goes on with one replica");
        // First: a sole voter without this note would not give up the others.
        let note = Bytes::copy_from_slice(&min_term.get().to_be_bytes());
        let noted = data_dir.put(Some(GroupId::METADATA), RECOVERED_ABOVE, note).await;
        noted.map_err(IdentityError::from).map_err(NodeError::from)?;
        let peer = Peer { broker_id, incarnation: data_dir.incarnation() };
        let made = recovery::make_sole_voter(data_dir, GroupId::METADATA, replica_id, peer, min_term).await;
        made.map_err(NodeError::from)?;
    }
    Ok(MetadataOutlook { cluster_id, broker_id, replica_id, voters, last, is_done: accept_loss })
}

impl fmt::Display for MetadataOutlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster_id, broker_id, last, .. } = self;
        let voters: Vec<_> = self.voters.iter().map(BrokerId::to_string).collect();
        writeln!(f, "cluster {cluster_id}, broker {broker_id}")?;
        writeln!(f, "voters of the metadata: brokers {}", voters.join(", "))?;
        writeln!(f, "this broker's log of it ends at entry {}, of term {}", last.index, last.term)?;
        writeln!(
            f,
            "lost: topics, configurations and assignments made after that, and the records of topics that only \
             those knew. Of several survivors, recover from the one with the highest term, then the last entry."
        )?;
        if self.is_done {
            write!(
                f,
                "Broker {broker_id} is the only voter from now on. Start it, then recover the partitions without a \
                 majority: streamctl partition list --unhealthy, streamctl partition recover TOPIC/N --accept-loss. \
                 Other brokers that are left stop when they hear of it, and rejoin when they are started again."
            )
        } else {
            write!(f, "Nothing was changed. To go on so: --recover-metadata --accept-loss")
        }
    }
}

impl Controller {
    /// Gives up the other brokers' replicas of the metadata group, where this one's was made its only voter by force
    /// and nobody has yet. This broker must be registered.
    pub async fn settle_recovery(&self, data_dir: &DataDir) -> Result<(), RequestError> {
        let noted = data_dir.get(Some(GroupId::METADATA), RECOVERED_ABOVE);
        let Some(above) =
            noted.and_then(|fact| Some(Term(u64::from_be_bytes(fact.as_ref().try_into().ok()?))))
        else {
            return Ok(());
        };
        let own = self.group().replica_id();
        let is_sole_voter = self.group().membership().voters().into_iter().eq([own]);
        if !is_sole_voter || recovered_above(self.group()) >= above {
            return Ok(());
        }
        tracing::warn!(%above, "the metadata was recovered by force: the replicas of all other brokers are given up");
        self.submit(Command::RecoverMetadata { survivor: own, above }).await.map(|_| ())
    }
}

/// The term above which the metadata was recovered last, as this replica knows; 0: it never was.
pub fn recovered_above(group: &Group<MetadataState>) -> Term {
    group
        .with_state(|state| state.group(GroupId::METADATA).and_then(|g| g.recovered_above))
        .unwrap_or_default()
}
