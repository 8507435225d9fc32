//! Idle groups without timers: a leader falls quiet, its followers rest, and any of them wakes.
//!
//! While a group is quiet its leader sends no heartbeats, so that its lease runs out and Raft refuses its writes:
//! it must be woken first, by a round of heartbeats. That the leader is alive is for the brokers to tell one another
//! meanwhile: followers rest only while they do. Invariants: a group falls quiet only with nothing in flight and every
//! living member's log equal to the leader's, all of it committed; what was said of a quiet group holds until it is woken.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_core::Machine;
use headwater_proto::types::{BrokerId, Term};
use headwater_storage::log::LogId;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::group::Group;
use crate::peer::RequestKind;
use crate::types::{from_raft_index, to_raft};

/// What a leader says when its group falls quiet; its followers rest if they agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    pub term: Term,
    pub last: LogId,
}

/// Whether this replica's timers are off, and since when.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    since: Mutex<Option<Instant>>,
    /// Held by who wakes a leader, so that others wait until its lease is fresh.
    pub(crate) waking: tokio::sync::Mutex<()>,
    /// Told when a candidate turns up that this replica must refuse.
    outranks: Notify,
}

impl Rest {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Machine> Group<M> {
    /// Whether this replica runs without timers because its group is idle.
    #[must_use]
    pub fn quiet(&self) -> bool {
        self.rest.since().is_some()
    }

    /// Timers were never started: see [`crate::RaftSettings::start_at_rest`].
    pub(crate) fn start_at_rest(&self) {
        if self.raft.is_some() {
            *self.rest.since() = Some(Instant::now());
        }
    }

    /// Stops the timers of a replica that knows of no leader, until it is woken or somebody is elected. `false`: it
    /// leads or is led.
    pub fn rest_without_leader(&self) -> bool {
        let Some(raft) = self.raft.as_ref().filter(|_| self.leader().is_none()) else { return false };
        let mut since = self.rest.since();
        if since.is_none() {
            raft.runtime_config().tick(false);
            *since = Some(Instant::now());
        }
        true
    }

    /// Stops the timers of a leader with nothing to do; `None`: it has, or does not lead.
    pub async fn fall_quiet(&self) -> Option<Quiet> {
        self.fall_quiet_without(&BTreeSet::new()).await
    }

    /// As [`Group::fall_quiet`], though members on these brokers may lack entries: they are dead, and who stops the
    /// timers wakes the group when they are back.
    pub async fn fall_quiet_without(&self, dead: &BTreeSet<BrokerId>) -> Option<Quiet> {
        // Nothing is proposed between the look and the end of the timers.
        let _held_back = self.turn.try_write().ok()?;
        let term = self.leadership()?.term;
        let raft = self.raft.as_ref()?;
        let last = self.last_queued(raft).await.ok()??;
        let all_there = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let members = metrics.membership_config.membership();
            let matched = |replica| {
                replica == self.replica_id
                    || metrics.replication.as_ref().and_then(|all| all.get(&replica).copied().flatten())
                        == to_raft(last)
            };
            metrics.vote.leader_id.term == term.get()
                && metrics.membership_config == metrics.committed_membership_config
                && members.get_joint_config().len() == 1
                && members.nodes().all(|(replica, peer)| dead.contains(&peer.broker_id) || matched(*replica))
        };
        if !all_there || self.state.progress.borrow().applied != last || self.log().tail_cut().is_some() {
            return None;
        }
        raft.runtime_config().tick(false);
        *self.rest.since() = Some(Instant::now());
        Some(Quiet { term, last })
    }

    /// Stops the timers of a follower whose leader says that the group is quiet. `false`: it is not as the leader
    /// says, and the timers stay on.
    pub fn rest(&self, term: Term, last: LogId) -> bool {
        let Some(raft) = &self.raft else { return false };
        let agrees = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.running_state.is_ok()
                && metrics.vote.committed
                && metrics.vote.leader_id.term == term.get()
                && !metrics.state.is_leader()
                && metrics.last_log_index.map(from_raft_index) == Some(last.index)
        };
        let bounds = self.log().bounds();
        let whole = bounds.last == Some(last) && self.state.progress.borrow().applied == last;
        if !agrees || !whole || self.log().tail_cut().is_some() {
            return false;
        }
        let mut since = self.rest.since();
        if since.is_none() {
            raft.runtime_config().tick(false);
            *since = Some(Instant::now());
        }
        true
    }

    /// Turns the timers on again; a leader also has its followers confirm it, so that its next write is not refused.
    /// Nothing to do for a group that is not quiet.
    pub async fn wake(&self) {
        if !self.quiet() {
            return;
        }
        let _one_at_a_time = self.rest.waking.lock().await;
        let Some(raft) = &self.raft else { return };
        let woken = *self.rest.since();
        if woken.is_none() {
            return;
        }
        raft.runtime_config().tick(true);
        // It may be that it leads no more, or that nobody answers: whoever woke it will be told so.
        if raft.metrics().borrow_watched().state.is_leader()
            && let Err(error) = self.confirm_leadership().await
        {
            tracing::debug!(group = %self.id, %error, "a quiet leader was not confirmed");
        }
        let mut since = self.rest.since();
        // It may have been put to rest again meanwhile, by another leader.
        if *since == woken {
            *since = None;
        }
    }

    /// Wakes a replica that leads nobody and is led by nobody, and has it ask for votes at once instead of when its
    /// election timeout is over. By pre-vote: nothing happens where others hear of a leader, have just voted
    /// for one, or know more.
    pub async fn campaign(&self) {
        self.wake().await;
        let Some(raft) = &self.raft else { return };
        let has_vote = self.membership().voters().contains(&self.replica_id);
        if self.leader().is_some_and(|leader| leader == self.replica_id) || self.torn() || !has_vote {
            return;
        }
        if raft.trigger().elect(true).await.is_err() {
            tracing::debug!(group = %self.id, "the replica has stopped, and does not campaign");
        }
    }

    /// Waits until a candidate asks this replica for its vote, at rest, and holds less than it: the candidate is not
    /// elected, and this one may be. What happened while nobody waited is told once.
    pub async fn outranked_a_candidate(&self) {
        self.rest.outranks.notified().await;
    }

    /// A candidate whose log ends at `last` asks for a vote.
    pub(crate) fn note_candidate(&self, last: LogId) {
        if self.quiet() && !self.torn() && self.log().bounds().last.is_some_and(|own| own > last) {
            self.rest.outranks.notify_one();
        }
    }

    /// A peer's request reached this replica: what changes anything ends its rest. A heartbeat does only if it cannot
    /// have been sent before the group fell quiet.
    pub(crate) fn stir(&self, kind: RequestKind) {
        let mut since = self.rest.since();
        let Some(at) = *since else { return };
        let late = at + 2 * self.settings.election_timeout_max;
        let stale = match kind {
            // Who votes for another must not campaign against it, with timers that ran out long ago. What the one
            // who wins sends next ends the rest.
            RequestKind::LogEnds | RequestKind::PreVote | RequestKind::Vote => true,
            RequestKind::Heartbeat => Instant::now() < late.max(at + Duration::from_secs(1)),
            _ => false,
        };
        if let (false, Some(raft)) = (stale, &self.raft) {
            raft.runtime_config().tick(true);
            *since = None;
        }
    }
}
