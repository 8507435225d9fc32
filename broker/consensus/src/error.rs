//! What can go wrong with a group.

use std::io;

use headwater_core::{ApplyError, DecodeError};
use headwater_proto::types::ReplicaId;
use headwater_storage::log::LogError;
use thiserror::Error;

/// A group could not be started, or stopped working.
#[derive(Debug, Error)]
pub enum ConsensusError {
    #[error("the log of the group failed: {0}")]
    Log(#[from] LogError),
    #[error("the group's facts in the journal could not be written: {0}")]
    Journal(#[source] io::Error),
    /// Bytes that a newer version wrote, or that are damaged.
    #[error("the stored state of the group cannot be read: {0}")]
    Decode(#[from] DecodeError),
    #[error("the log contradicts the state of the group: {0}")]
    Apply(#[from] ApplyError),
    /// No tables at or below the entry, nor a complete log to build them from.
    #[error("nothing is left to rebuild the state of the group from")]
    NoTables,
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),
    /// The identity of a replica is bound to the directory that it was created in.
    #[error("replica {replica_id} belongs to another data directory than this one")]
    OtherIncarnation { replica_id: ReplicaId },
    #[error("this directory holds replica {found} of the group, not replica {expected}")]
    OtherReplica { found: ReplicaId, expected: ReplicaId },
    #[error("invalid timing of the group: {0}")]
    Settings(String),
    /// See `Health::Damaged`.
    #[error(
        "the log of the group is damaged; what is intact can be read, and an operator may accept the loss"
    )]
    Damaged,
    /// Ask there; nothing was done here.
    #[error("this replica is not the leader of the group")]
    NotLeader { leader: Option<ReplicaId> },
    /// Leads perhaps, but too few voters answer. What was asked for may yet be done.
    #[error("too few voters of the group answer")]
    NoQuorum,
    #[error("an earlier change of the group's members is under way; try again when it is committed")]
    ChangeInProgress,
    #[error("it was not done in time")]
    TimedOut,
    /// Raft stopped on an error and stays stopped; restarting the broker may help.
    #[error("the group failed: {0}")]
    Failed(String),
    #[error("the group was shut down")]
    Stopped,
}

/// Why a proposal was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Not appended: this replica does not lead in the term of the stamp.
    #[error("this replica is not the leader of the group")]
    NotLeader { leader: Option<ReplicaId> },
    /// Not appended: the disk is full.
    #[error("the disk is full")]
    NoSpace,
    /// Not applied, and never will be: the proposer drains, rebuilds its gate and opens a new session.
    #[error("the proposal was refused; it can be made again")]
    Retry,
    /// Another leader took over while the entry was under way: it may or may not be in the log.
    #[error("leadership was lost while the proposal was under way: its outcome is unknown")]
    Unknown { leader: Option<ReplicaId> },
    /// The group stopped or failed while the entry was under way: its outcome is unknown.
    #[error("the group stopped: {0}")]
    Stopped(String),
}
