//! Why a data directory can't be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::journal::JournalError;

/// Errors of [`super::DataDir::open`]. Nothing was changed, except that missing directories were made.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(
        "the data directory {path} is in use by another broker: stop that one, or choose another directory \
         with --data-dir"
    )]
    InUse { path: PathBuf },

    #[error(
        "the data directory {path} has format {found}, and this program reads format {supported}: start the \
         version of headwater that wrote it, or choose another directory with --data-dir"
    )]
    WrongVersion { path: PathBuf, found: String, supported: u32 },

    #[error(
        "{path} holds {entry} but is not a Headwater data directory: choose an empty or a new directory with \
         --data-dir"
    )]
    NotADataDirectory { path: PathBuf, entry: String },

    #[error(transparent)]
    Journal(#[from] JournalError),

    #[error("the data directory {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}
