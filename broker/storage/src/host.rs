//! What a log and the data directory that holds it need of each other.
//!
//! A log owns its files; the data directory owns the journal and the flush rounds. The log never
//! syncs its active segment itself: it announces itself dirty and is asked, once per round, what to
//! sync. Invariant: a round's point is journalled only after everything in the round was synced.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_proto::types::{GroupId, Incarnation, LogIndex};

use crate::disk::{Disk, DiskFile};

/// Kinds of the facts that logs keep in the journal. Numbers from 32 on belong to the layers above.
pub mod fact {
    /// How far the log was durable when its last journalled flush round ended.
    pub const DURABLE_POINT: u8 = 1;
    /// The newest truncation.
    pub const CUT: u8 = 2;
    /// How far the log was purged.
    pub const PURGED: u8 = 3;
    /// A torn tail was cut at a start and nobody has vouched for the end since.
    pub const TAIL_CUT: u8 = 4;
    /// Damage that was found below the durable point, and whether its loss was accepted.
    pub const DAMAGE: u8 = 5;
}

/// What one flush round has to do for one log.
#[derive(Debug, Default)]
pub struct FlushRound {
    /// To be synced, in any order.
    pub files: Vec<Arc<dyn DiskFile>>,
    /// To be synced, in any order.
    pub directories: Vec<PathBuf>,
    /// Value of [`fact::DURABLE_POINT`] that holds once all of it is synced; to be journalled with
    /// the next round.
    pub durable_point: Bytes,
}

/// Something with appended bytes that wait to be synced.
pub trait FlushSource: Send + Sync + Debug {
    /// The group whose fact the durable point is.
    fn group(&self) -> GroupId;

    /// Takes everything appended so far, and those who wait for it. Every round begun is ended, and
    /// rounds of one log do not overlap.
    fn begin_round(&self) -> FlushRound;

    /// Completes the waiters taken by `begin_round`, in the order in which they came. An error is final: the
    /// log refuses every later append.
    fn end_round(&self, result: io::Result<()>);
}

/// The data directory as a log sees it.
#[async_trait]
pub trait LogHost: Send + Sync + Debug {
    fn disk(&self) -> &Arc<dyn Disk>;

    /// Identity of the data directory, written into every index file.
    fn incarnation(&self) -> Incarnation;

    /// A journalled fact, as of the last completed put.
    fn fact(&self, group: GroupId, kind: u8) -> Option<Bytes>;

    /// Journals a fact; durable on return. Later puts of the same kind win. An empty value removes it.
    async fn put_fact(&self, group: GroupId, kind: u8, value: Bytes) -> io::Result<()>;

    /// Asks for a flush round that begins after this call. Asking again before it begins is free.
    fn mark_dirty(&self, source: Arc<dyn FlushSource>);

    /// An entry did not read back as it was written: somebody has to look at it soon.
    fn suspect(&self, group: GroupId, index: LogIndex);
}
