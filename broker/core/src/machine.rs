//! What a Raft group replicates: a [`Machine`] that applies the committed [`Entry`]s of a log in order.
//!
//! Invariants: `apply` is a function of the state and the entry alone; entries come in log order, each
//! once; an error of `apply` means that the log and the state contradict each other, and is fatal for
//! the replica. Must not decide anything: what is in the log was accepted by the leader.

use bytes::Bytes;
use headwater_proto::record::BatchHeader;
use headwater_proto::types::{LogIndex, Offset, Term};
use thiserror::Error;

use crate::control::ControlEntry;

/// A deterministic state machine over one log.
pub trait Machine: Send + Sync + Sized + 'static {
    /// What the proposer of an entry learns when it is applied.
    type Reply: Send + Sync + 'static;

    /// Applies the next committed entry.
    ///
    /// # Errors
    /// The entry contradicts the state; the state is as before, and no later entry may be applied.
    fn apply(&mut self, entry: Entry<'_>) -> Result<Self::Reply, ApplyError>;

    /// The whole state, such that [`Machine::decode`] restores an equal one. Equal states have equal encodings.
    fn encode(&self) -> Vec<u8>;

    /// Restores an encoded state.
    ///
    /// # Errors
    /// Bytes that [`Machine::encode`] of this or an older version did not write.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// The offset that the next record will get; with everything committed applied, the high watermark.
    fn next_offset(&self) -> Offset;

    /// The first offset that readers may see.
    fn log_start(&self) -> Offset;
}

/// One committed entry: one batch, as its log holds it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub index: LogIndex,
    pub term: Term,
    /// The offset that the log stamped, whether or not `header` carries the stamp already.
    pub base_offset: Offset,
    /// The header of the batch; its base offset and leader epoch are not looked at.
    pub header: &'a BatchHeader,
    pub body: EntryBody<'a>,
}

/// What an entry carries.
#[derive(Debug, Clone, Copy)]
pub enum EntryBody<'a> {
    /// Records of users (or commands, in the metadata group): the whole batch, header included.
    Records(&'a Bytes),
    /// An entry of Headwater's own; it consumes no offset.
    Control(&'a ControlEntry),
}

/// A committed entry contradicts the state that it is applied to: a bug or a damaged log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    #[error("entry {index} begins at offset {found}, but the state expects offset {expected}")]
    BaseOffset { index: LogIndex, expected: Offset, found: Offset },
    #[error("entry {index} follows entry {applied}, which is not its predecessor")]
    Index { index: LogIndex, applied: LogIndex },
    #[error("entry {index} has term {found}, older than term {applied} of the entry before it")]
    Term { index: LogIndex, applied: Term, found: Term },
    #[error("entry {index} consumes {found} offsets, which a batch of its kind cannot")]
    OffsetCount { index: LogIndex, found: i64 },
    #[error("entry {index} moves the log start to {found}, beyond the end {next_offset}")]
    LogStart { index: LogIndex, found: Offset, next_offset: Offset },
    #[error("entry {index} breaks the sequence of its producer: {reason}")]
    Sequence { index: LogIndex, reason: String },
    #[error("entry {index} cannot be read: {reason}")]
    Command { index: LogIndex, reason: String },
}

/// Bytes that do not decode into a state or a control entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("{what} ends too early")]
    Truncated { what: &'static str },
    #[error("{what} of version {found} was written by a newer Headwater; this one reads up to {supported}")]
    Version { what: &'static str, found: u32, supported: u32 },
    #[error("{what}: {reason}")]
    Malformed { what: &'static str, reason: String },
}
