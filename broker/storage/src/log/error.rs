//! What can go wrong with a log.

use std::io;

use headwater_proto::types::{LogIndex, Offset};
use thiserror::Error;

/// Errors of a [`crate::log::Log`].
#[derive(Debug, Error)]
pub enum LogError {
    /// The file system refused space before anything was written: the log is as it was, and the same append
    /// may succeed later.
    #[error("no space for the append: {0}")]
    NoSpace(#[source] io::Error),

    /// A batch whose header contradicts itself; nothing of the call was written.
    #[error("invalid batch: {0}")]
    InvalidBatch(&'static str),

    /// The offset was deleted or not yet written.
    #[error("offset {offset} is outside the log, which holds {first} to below {next}")]
    OffsetOutOfRange { offset: Offset, first: Offset, next: Offset },

    /// The range is damaged: it stays unreadable, and appends are refused until the loss is accepted.
    #[error(
        "entries from {first_index} (offset {first_offset}) are damaged; the next intact offset is {next_intact:?}"
    )]
    Damaged { first_index: LogIndex, first_offset: Offset, next_intact: Option<Offset> },

    /// Bytes that do not prove themselves; `at` is the entry that was to be read, if it was one. Another replica may hold
    /// it: whoever keeps the log was told, and will know it for damaged if it is.
    #[error("{file}: {detail}")]
    Corrupt { file: String, detail: String, at: Option<LogIndex> },

    /// A write or a sync failed earlier: the state on disk is unknown, and the log refuses everything that
    /// would add to it.
    #[error("the log stopped after an earlier failure: {0}")]
    Stopped(String),

    /// The caller asked for what its contract rules out.
    #[error("invalid request: {0}")]
    InvalidRequest(&'static str),

    #[error(transparent)]
    Io(#[from] io::Error),
}
