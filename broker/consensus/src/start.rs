//! Starting a group: from its creation record, its log and its seed.
//!
//! Invariants: a replica id is bound to one data directory and starts nowhere else; a group is initialized
//! once, with the voters of its creation record; a replica whose tail was torn does not vote until its end
//! was vouched for, which a sole voter does itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_core::Machine;
use headwater_core::mutant::{self, Mutant};
use headwater_proto::types::{GroupId, ReplicaId, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::journal::Change;
use headwater_storage::log::{Log, LogOptions};
use openraft::Raft;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::{Mutex, RwLock};

use crate::driver::{Driver, State};
use crate::encoding::{Creation, decode_creation, decode_vote, encode_creation};
use crate::error::ConsensusError;
use crate::group::{Group, GroupRaft};
use crate::inbound::{Inbound, LastVote};
use crate::log_store::{AppendState, LogStore, Shared, fact};
use crate::network::Network;
use crate::peer::{Messenger, NoPeers, Replicas};
use crate::quiet::Rest;
use crate::settings::RaftSettings;
use crate::tail::{Tail, is_torn};
use crate::types::{Peer, Runtime};

/// Where replicas live: what all groups of a broker share.
#[derive(Debug, Clone)]
pub struct GroupHost {
    pub data_dir: Arc<DataDir>,
    /// Carries what they say to their peers.
    pub messenger: Arc<dyn Messenger>,
    /// Where their peers find them.
    pub replicas: Arc<Replicas>,
}

impl GroupHost {
    /// A broker without peers.
    #[must_use]
    pub fn alone(data_dir: Arc<DataDir>) -> Self {
        Self { data_dir, messenger: Arc::new(NoPeers), replicas: Arc::default() }
    }
}

/// Which replica to start.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    pub id: GroupId,
    pub replica_id: ReplicaId,
    /// The voters with which the group was created, this replica among them unless it joins later.
    pub voters: BTreeMap<ReplicaId, Peer>,
    /// Whether to make them the group's voters if it has none yet. Idempotent.
    pub initialize: bool,
}

/// The record with which a replica was created in this data directory, if it was.
///
/// # Errors
/// The record was written by a newer version.
pub fn creation(data_dir: &DataDir, group: GroupId) -> Result<Option<Creation>, ConsensusError> {
    let record = data_dir.get(Some(group), fact::CREATION);
    Ok(record.map(|bytes| decode_creation(&bytes)).transpose()?)
}

/// What journals a creation record; for whoever must journal it together with facts of its own. Otherwise
/// [`Group::start`] does.
#[must_use]
pub fn creation_change(group: GroupId, record: &Creation) -> Change {
    Change::Put { group: Some(group), kind: fact::CREATION, value: encode_creation(record) }
}

/// Opens the log of a replica. It holds no entry of a term that the replica has not voted in, or taken a leader's word
/// for: each is journalled first.
///
/// # Errors
/// Those of [`DataDir::open_log`]; the vote was written by a newer version.
pub async fn open_log(
    data_dir: &Arc<DataDir>,
    group: GroupId,
    options: LogOptions,
) -> Result<Arc<Log>, ConsensusError> {
    let vote = data_dir.get(Some(group), fact::VOTE).map(|bytes| decode_vote(&bytes)).transpose()?;
    let term_max = match vote {
        Some(vote) if !mutant::active(Mutant::VoteNotSaved) => vote.leader_id.term,
        _ => u64::MAX,
    };
    Ok(data_dir.open_log_up_to(group, options, Term(term_max)).await?)
}

impl<M: Machine> Group<M> {
    /// Opens or creates the replica, and starts it. `seed` gives it all the entropy it draws; `machine` is its state
    /// before the first entry. Returns before a leader is known: see [`Group::wait_leader`].
    ///
    /// A damaged log is not an error: such a group can be read, and says so in [`Group::health`].
    ///
    /// # Errors
    /// The replica belongs to another data directory or was created otherwise; its files are unreadable.
    pub async fn start(
        spec: GroupSpec,
        host: GroupHost,
        log_options: LogOptions,
        settings: RaftSettings,
        seed: u64,
        machine: M,
    ) -> Result<Arc<Self>, ConsensusError> {
        let data_dir = Arc::clone(&host.data_dir);
        record_creation(&spec, &data_dir).await?;
        let log = open_log(&data_dir, spec.id, log_options).await?;
        let damaged = is_damaged(&log);
        let shared = Shared::open(spec.id, data_dir, log)?;
        #[cfg(feature = "mutants")]
        crate::planted::find_stale_tail(&shared).await?;
        let state = Arc::new(State::open(shared, &machine)?);
        let raft = if damaged { None } else { run_if_whole(&spec, &host, &state, settings, seed).await? };
        if raft.is_none() {
            state.expose_damaged();
        }
        let (id, replica_id) = (spec.id, spec.replica_id);
        let voted = state.shared.vote().map(|vote| Term(vote.leader_id.term)).unwrap_or_default();
        let group = Arc::new(Self {
            id,
            replica_id,
            host,
            state,
            raft,
            purging: Mutex::new(None),
            settings,
            turn: RwLock::default(),
            rest: Rest::default(),
            last_vote: LastVote::default(),
            tail: Tail::new(voted, spec.voters),
        });
        let leads = settings.lone_voter_leads && group.membership().voters().into_iter().eq([replica_id]);
        if settings.start_at_rest && !leads {
            group.start_at_rest();
        }
        let inbound = Inbound(Arc::downgrade(&group));
        group.host.replicas.insert(id, replica_id, Arc::new(inbound));
        group.watch_tail();
        group.watch_end();
        Ok(group)
    }
}

/// Journals the creation record, or compares with it.
async fn record_creation(spec: &GroupSpec, data_dir: &DataDir) -> Result<(), ConsensusError> {
    let own = spec.voters.get(&spec.replica_id);
    if own.is_some_and(|peer| peer.incarnation != data_dir.incarnation())
        && !mutant::active(Mutant::EmptiedDiskVotes)
    {
        return Err(ConsensusError::OtherIncarnation { replica_id: spec.replica_id });
    }
    match creation(data_dir, spec.id)? {
        Some(found) if found.replica_id == spec.replica_id => Ok(()),
        Some(found) => {
            Err(ConsensusError::OtherReplica { found: found.replica_id, expected: spec.replica_id })
        }
        None => {
            let record = Creation { replica_id: spec.replica_id, voters: spec.voters.clone() };
            let stored = data_dir.put(Some(spec.id), fact::CREATION, encode_creation(&record));
            stored.await.map_err(ConsensusError::Journal)
        }
    }
}

fn is_damaged(log: &Log) -> bool {
    log.damage().is_some_and(|damage| !damage.is_empty() && !damage.accepted)
}

/// Starts Raft; `None` if what it reads turns out to be rotten. Recovery trusts an index that proves itself and looks
/// through the end of the log only: what is wrong before it is met here first. A replica that only failed would stay
/// as it is for ever, and a damaged one is built anew.
async fn run_if_whole<M: Machine>(
    spec: &GroupSpec,
    host: &GroupHost,
    state: &Arc<State<M>>,
    settings: RaftSettings,
    seed: u64,
) -> Result<Option<GroupRaft<M>>, ConsensusError> {
    let shared = &state.shared;
    match run(spec, host, state, settings, seed).await {
        Ok(raft) => Ok(Some(raft)),
        Err(error) if shared.take_unreadable() => {
            tracing::error!(group = %spec.id, %error, "the log cannot be read: looking for what is damaged");
            shared.log.scrub().await?;
            if is_damaged(&shared.log) { Ok(None) } else { Err(error) }
        }
        Err(error) => Err(error),
    }
}

async fn run<M: Machine>(
    spec: &GroupSpec,
    host: &GroupHost,
    state: &Arc<State<M>>,
    settings: RaftSettings,
    seed: u64,
) -> Result<GroupRaft<M>, ConsensusError> {
    let config = settings.config(spec.id).map_err(|error| ConsensusError::Settings(error.to_string()))?;
    let torn = is_torn(&state.shared.log);
    let store = LogStore::new(Arc::clone(&state.shared));
    let network = Network::new(spec.id, spec.replica_id, Arc::clone(&host.messenger));
    let driver = Driver(Arc::clone(state));
    // Everything that a group draws comes from the scope in which its tasks were spawned.
    let raft = Runtime::scope(seed, async {
        let raft = Raft::build(spec.replica_id, Arc::new(config), network, store, driver).await?;
        raft.runtime_config().elect(!torn);
        raft.run();
        Ok(raft)
    });
    let raft = Box::pin(raft).await.map_err(|error: openraft::errors::Fatal<_>| failed(&error))?;
    if let Err(error) = enter(&raft, spec, state, settings).await {
        // The next try must not find this one still writing to the log.
        state.shared.appends.send_replace(AppendState::Stopping);
        if let Err(error) = raft.shutdown().await {
            tracing::error!(group = %spec.id, %error, "the group's task ended badly");
        }
        return Err(error);
    }
    Ok(raft)
}

/// Makes a replica that runs take its part in the group.
async fn enter<M: Machine>(
    raft: &GroupRaft<M>,
    spec: &GroupSpec,
    state: &State<M>,
    settings: RaftSettings,
) -> Result<(), ConsensusError> {
    if spec.initialize {
        initialize(raft, &spec.voters).await?;
    }
    let members = raft.with_raft_state(|state| {
        let effective = state.membership_state.effective();
        (effective.voter_ids().collect::<BTreeSet<_>>(), *effective.log_id())
    });
    let (voters, at) = members.await.map_err(|error| failed(&error))?;
    // Raft reports its members a moment later, and whoever holds the group goes by the report.
    let report = raft.wait(None);
    let reported = report.metrics(move |m| *m.membership_config.log_id() >= at, "members").await;
    reported.map_err(|error| failed(&error))?;
    if settings.lone_voter_leads && voters == BTreeSet::from([spec.replica_id]) {
        // The only voter holds all there is: it has nobody to wait for, neither now nor in time.
        state.shared.log.clear_tail_cut().await?;
        raft.runtime_config().elect(true);
        raft.trigger().elect(false).await.map_err(|error| failed(&error))?;
    } else {
        raft.runtime_config().tick(!settings.start_at_rest);
    }
    Ok(())
}

async fn initialize<M: Machine>(
    raft: &GroupRaft<M>,
    voters: &BTreeMap<ReplicaId, Peer>,
) -> Result<(), ConsensusError> {
    match raft.initialize(voters.clone()).await {
        // Not allowed: it was initialized before.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &impl std::fmt::Display) -> ConsensusError {
    ConsensusError::Failed(error.to_string())
}
