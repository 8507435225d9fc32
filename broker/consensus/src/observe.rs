//! What a harness sees of a replica: enough to check Raft's promises from outside, and nothing to act with.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use headwater_core::Machine;
use headwater_proto::types::{GroupId, ReplicaId, Term};
use headwater_storage::log::{Log, LogId};
use openraft::async_runtime::watch::WatchReceiver;

use crate::applied::Progress;
use crate::group::{Group, Health};

/// One replica at one moment.
#[derive(Debug, Clone)]
pub struct Observation {
    pub group: GroupId,
    pub replica_id: ReplicaId,
    /// Of the newest vote that it has stored.
    pub term: Term,
    /// Raft has made it leader of `term`, whether or not it serves yet.
    pub elected: bool,
    /// The term in which it serves as leader.
    pub leads: Option<Term>,
    /// The same whether or not its lease has run out: who looks from outside a simulation has another clock.
    pub led_term: Option<Term>,
    pub progress: Progress,
    /// One set of voters; two while they change.
    pub configs: Vec<BTreeSet<ReplicaId>>,
    /// The end of its log was lost, and nobody has vouched for the rest yet.
    pub torn: bool,
    /// Its group rests: no heartbeats, no elections.
    pub quiet: bool,
    /// It answers nothing any more: its log is damaged, or Raft has stopped.
    pub down: bool,
    pub log: Arc<Log>,
}

impl<M: Machine> Group<M> {
    /// The applied state as text, and the last entry that it holds: equal where replicas applied the same.
    #[must_use]
    pub fn shown_state(&self) -> (LogId, String)
    where
        M: fmt::Debug,
    {
        let applied = self.state.applied();
        (applied.log_id(), format!("{:?}", applied.machine))
    }

    /// What this replica is at the moment.
    #[must_use]
    pub fn observe(&self) -> Observation {
        let (term, elected) = self.raft.as_ref().map_or((Term(0), false), |raft| {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let running = metrics.running_state.is_ok();
            let elected = running && metrics.state.is_leader() && metrics.vote.committed;
            (Term(metrics.vote.leader_id.term), elected)
        });
        Observation {
            group: self.id,
            replica_id: self.replica_id,
            term,
            elected,
            leads: self.leadership().map(|leadership| leadership.term),
            led_term: self.led_term(),
            progress: *self.progress().borrow(),
            configs: self.membership().configs,
            torn: self.torn(),
            quiet: self.quiet(),
            down: !matches!(self.health(), Health::Running | Health::NoSpace),
            log: Arc::clone(self.log()),
        }
    }
}
