//! The node-wide journal: a small durable map of facts, in two copies.
use crate::disk::Disk;
use bytes::Bytes;
use headwater_proto::types::GroupId;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// One change of the map. Later changes of the same key win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets a fact of a group, or of the node; an empty value removes it.
    Put { group: Option<GroupId>, kind: u8, value: Bytes },
    /// Removes every fact of a group.
    RemoveGroup(GroupId),
}

#[derive(Debug, Error)]
pub enum JournalError {
    #[error("{0} is unreadable: {1}")]
    Unreadable(PathBuf, String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub struct Journal {}

#[allow(unused_variables, clippy::todo, clippy::unused_async)]
impl Journal {
    pub async fn create(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        first: &[Change],
    ) -> Result<Self, JournalError> {
        todo!()
    }
    pub async fn open(disk: Arc<dyn Disk>, directory: PathBuf) -> Result<Self, JournalError> {
        todo!()
    }
    /// Durable on return.
    pub async fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        todo!()
    }
}
