//! One Raft group on this node, as the rest of the broker sees it.
//!
//! Invariants: a group leads only once an entry of its own term is applied; proposals are appended in the
//! order of the calls, each under the term that its stamp names or not at all; an answer "not appended" is
//! certain, every other failure is reported as unknown.

use std::fmt;
use std::sync::Arc;

use headwater_core::Machine;
use headwater_core::mutant::{self, Mutant};
use headwater_proto::types::{GroupId, LogIndex, ReplicaId, Term};
use headwater_storage::log::{Damage, Log, LogId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::impls::ProgressResponder;
use openraft::metrics::WaitError;
use openraft::{Instant as _, Raft};
use tokio::sync::{Mutex, RwLock, watch};
use tokio::time::Duration;

use crate::applied::Progress;
use crate::driver::{Driver, State};
use crate::error::{ConsensusError, ProposeError};
use crate::inbound::LastVote;
use crate::log_store::AppendState;
use crate::pending::Pending;
use crate::quiet::Rest;
use crate::settings::RaftSettings;
use crate::start::GroupHost;
use crate::tail::Tail;
use crate::types::{CommittedLeader, Proposal, Types};

pub(crate) type GroupRaft<M> = Raft<Types<<M as Machine>::Reply>, Driver<M>>;

/// That this replica leads its group, and may decide what is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    pub term: Term,
}

/// What a group can do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Running,
    /// The disk is full: writes wait, reads go on.
    NoSpace,
    /// Part of the log is damaged: what is intact can be read, nothing can be written until the loss is accepted.
    Damaged(Damage),
    /// Raft stopped on an error; the committed part of the log can still be read.
    Failed(String),
    Stopped,
}

/// Raft puts a purge off while it sends what is to go, and a leader that is deposed meanwhile comes back to it with
/// the next one only: that one must not wait behind it for ever.
const PURGE_WITHIN: Duration = Duration::from_secs(2);

/// One replica of one group. Dropping it does not stop it: see [`Group::shutdown`].
pub struct Group<M: Machine> {
    pub(crate) id: GroupId,
    pub(crate) replica_id: ReplicaId,
    pub(crate) host: GroupHost,
    pub(crate) state: Arc<State<M>>,
    /// Absent when the log is damaged: such a replica takes no part in its group.
    pub(crate) raft: Option<GroupRaft<M>>,
    /// One purge at a time: each moves the one snapshot.
    /// Purges go one after the other; the one that Raft put off, and the term in which this replica led then.
    pub(crate) purging: Mutex<Option<(Term, LogIndex)>>,
    pub(crate) settings: RaftSettings,
    /// Proposals share it; who must not be proposed to for a while takes it alone.
    pub(crate) turn: RwLock<()>,
    pub(crate) rest: Rest,
    pub(crate) last_vote: LastVote,
    pub(crate) tail: Tail,
}

impl<M: Machine> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id)
            .field("replica_id", &self.replica_id)
            .finish_non_exhaustive()
    }
}

impl<M: Machine> Group<M> {
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    #[must_use]
    pub fn replica_id(&self) -> ReplicaId {
        self.replica_id
    }

    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.state.shared.log
    }

    /// Looks at the applied state. Applying waits meanwhile: keep it short, and await nothing in it.
    pub fn with_state<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.state.applied().machine)
    }

    /// How far the group got; changes once per run of applied entries, before their proposers are answered.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.state.progress.subscribe()
    }

    /// Whether this replica leads, with everything of earlier terms applied, and can do so: a leader that no quorum has
    /// answered for as long as its lease may have been replaced. A quiet one is believed to lead.
    #[must_use]
    pub fn leadership(&self) -> Option<Leadership> {
        let term = self.led_term()?;
        let metrics = self.raft.as_ref()?.metrics();
        let metrics = metrics.borrow_watched();
        let alone = match metrics.membership_config.membership().get_joint_config().as_slice() {
            [voters] => voters.len() == 1 && voters.contains(&self.replica_id),
            _ => false,
        };
        let fresh = metrics
            .last_quorum_acked
            .is_some_and(|heard| heard.elapsed() < self.settings.election_timeout_max);
        (alone || fresh || self.quiet()).then_some(Leadership { term })
    }

    /// The term in which this replica leads, with everything of earlier terms applied, whether or not it still can: no
    /// clock is asked.
    pub(crate) fn led_term(&self) -> Option<Term> {
        // Raft learns of a failure of the store when it next looks.
        if self.state.shared.failure.borrow().is_some() {
            return None;
        }
        let metrics = self.raft.as_ref()?.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.running_state.is_err() || !metrics.state.is_leader() || !metrics.vote.committed {
            return None;
        }
        let term = Term(metrics.vote.leader_id.term);
        let own_term = self.state.progress.borrow().applied.term == term;
        (own_term || mutant::active(Mutant::HighWatermarkBeforeOwnTerm)).then_some(term)
    }

    /// The replica that leads, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.raft.as_ref()?.metrics().borrow_watched().current_leader
    }

    /// Waits until this replica leads.
    ///
    /// # Errors
    /// The group is damaged, failed or was shut down.
    pub async fn wait_leader(&self) -> Result<Leadership, ConsensusError> {
        let raft = self.raft()?;
        let mut progress = self.progress();
        let mut role = raft.metrics();
        loop {
            if let Some(leadership) = self.leadership() {
                return Ok(leadership);
            }
            self.check_running()?;
            tokio::select! {
                changed = role.changed() => changed.map_err(|_| self.stopped())?,
                _ = progress.changed() => {}
            }
        }
    }

    /// Hands a proposal to Raft; returns as soon as it is in the queue, behind those of earlier calls. Wakes a quiet group.
    /// What becomes of it is what [`Pending`] resolves to.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::NoSpace`], [`ProposeError::Retry`]: certainly not appended.
    pub async fn propose(&self, proposal: Proposal) -> Result<Pending<M::Reply>, ProposeError> {
        let Some(raft) = &self.raft else { return Err(ProposeError::NotLeader { leader: None }) };
        if *self.state.shared.appends.borrow() == AppendState::NoSpace {
            return Err(ProposeError::NoSpace);
        }
        // Raft would refuse it: a quiet leader's lease has run out.
        self.wake().await;
        // A transfer of leadership is under way: the next leader is to have everything.
        let Ok(_in_turn) = self.turn.try_read() else { return Err(ProposeError::Retry) };
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = CommittedLeader::new(proposal.stamp.term.get());
        match raft.write(proposal).with_leader(leader).responder(responder).await {
            Ok(()) => Ok(Pending::new(answer)),
            Err(error) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// Gives up the entries up to `upto`, which must be applied: takes the snapshot there, then purges. Raft may put
    /// off the second while a follower still reads what is to go; the call waits for that, 2 s at most, and what is put
    /// off for longer goes with a later purge. Once begun it goes on, whether or not the result is awaited.
    ///
    /// # Errors
    /// `upto` is not applied or not in the log; the state as of it cannot be rebuilt or stored; the group stopped.
    pub async fn purge(self: &Arc<Self>, upto: LogId) -> Result<(), ConsensusError> {
        // Given up halfway, it would leave Raft with a snapshot under way, during which Raft ignores the request for
        // another: the next purge would wait for its own for ever.
        let group = Arc::clone(self);
        let purged = tokio::spawn(async move { group.purge_in_turn(upto).await });
        purged.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    async fn purge_in_turn(&self, upto: LogId) -> Result<(), ConsensusError> {
        let raft = self.raft()?;
        let mut put_off = self.purging.lock().await;
        if upto.index > self.state.applied().log_id().index {
            return Err(ConsensusError::InvalidRequest("only applied entries can be purged"));
        }
        if self.log().bounds().purged.is_some_and(|purged| upto.index <= purged.index) {
            return Ok(());
        }
        let purged = self.log().bounds().purged.map(|purged| purged.index);
        // A leader comes back to it, but not if the goal moves ahead of a slow follower again and again.
        if put_off.is_some_and(|(term, index)| self.led_term() == Some(term) && purged < Some(index)) {
            return Ok(());
        }
        *put_off = None;
        self.snapshot(raft, upto).await?;
        let index = upto.index.get() - 1;
        raft.trigger().purge_log(index).await.map_err(|_| self.stopped())?;
        let wait = raft.wait(Some(PURGE_WITHIN));
        match wait.metrics(move |m| m.purged.is_some_and(|p| p.index >= index), "purged").await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => {
                tracing::debug!(group = %self.id, upto = %upto.index, "the purge is put off");
                *put_off = self.led_term().map(|term| (term, upto.index));
                Ok(())
            }
            Err(WaitError::ShuttingDown) => Err(self.stopped()),
        }
    }

    async fn snapshot(&self, raft: &GroupRaft<M>, at: LogId) -> Result<(), ConsensusError> {
        let taken = self.state.snapshot_log_id();
        if taken.is_some_and(|taken| taken.index >= at.index) {
            return Ok(());
        }
        self.state.prepare_snapshot(at).await?;
        raft.trigger().snapshot().await.map_err(|_| self.stopped())?;
        let index = at.index.get() - 1;
        let taken =
            raft.wait(None).metrics(move |m| m.snapshot.is_some_and(|s| s.index >= index), "snapshot").await;
        taken.map(|_| ()).map_err(|_| self.stopped())
    }

    /// Writes the state as of the last applied entry, so that the next start has nothing to replay.
    ///
    /// # Errors
    /// The files could not be written; what they held before still holds.
    pub async fn checkpoint(&self) -> Result<(), ConsensusError> {
        self.state.checkpoint().await
    }

    #[must_use]
    pub fn health(&self) -> Health {
        let damage = self.log().damage().filter(|damage| !damage.accepted);
        let (None, Some(raft)) = (&damage, &self.raft) else {
            return Health::Damaged(damage.unwrap_or_default());
        };
        match &raft.metrics().borrow_watched().running_state {
            Err(openraft::errors::Fatal::Stopped) => Health::Stopped,
            Err(error) => Health::Failed(error.to_string()),
            Ok(()) if let Some(reason) = &*self.state.shared.failure.borrow() => {
                Health::Failed(reason.clone())
            }
            Ok(()) if *self.state.shared.appends.borrow() == AppendState::NoSpace => Health::NoSpace,
            Ok(()) => Health::Running,
        }
    }

    /// Resolves, to the reason, once the replica has failed for good and takes part in its group no more; never when
    /// it is shut down.
    pub async fn failed(&self) -> String {
        let mut failure = self.state.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match failed {
            Ok(Some(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Stops the replica. What was proposed and not answered by then has an unknown outcome.
    pub async fn shutdown(&self) {
        self.host.replicas.remove(self.id, self.replica_id);
        self.state.shared.appends.send_replace(AppendState::Stopping);
        if let Some(raft) = &self.raft
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!(group = %self.id, %error, "the group's task ended badly");
        }
        self.state.boundaries.finish().await;
    }

    /// Notes when Raft ends by itself: without a trace, if it panicked.
    pub(crate) fn watch_end(&self) {
        let Some(raft) = &self.raft else { return };
        let (mut changes, last) = (raft.server_metrics(), raft.metrics());
        let shared = Arc::clone(&self.state.shared);
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {}
            let ended = last.borrow_watched().running_state.clone();
            match ended {
                Err(openraft::errors::Fatal::Stopped) => {}
                Err(error) => shared.fail(&error),
                Ok(()) => shared.fail(&"Raft broke off"),
            }
        });
    }

    pub(crate) fn raft(&self) -> Result<&GroupRaft<M>, ConsensusError> {
        self.raft.as_ref().ok_or(ConsensusError::Damaged)
    }

    pub(crate) fn check_running(&self) -> Result<(), ConsensusError> {
        match self.health() {
            Health::Running | Health::NoSpace => Ok(()),
            Health::Damaged(_) => Err(ConsensusError::Damaged),
            Health::Failed(reason) => Err(ConsensusError::Failed(reason)),
            Health::Stopped => Err(ConsensusError::Stopped),
        }
    }

    pub(crate) fn stopped(&self) -> ConsensusError {
        self.check_running().err().unwrap_or(ConsensusError::Stopped)
    }
}
