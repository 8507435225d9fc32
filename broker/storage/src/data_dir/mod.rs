//! A broker's data directory: who may open it, what it knows of its groups, and their logs.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_proto::types::{GroupId, Incarnation};
use thiserror::Error;

use crate::disk::{Disk, Space};
use crate::host::{FlushSource, LogHost};
use crate::journal::{Change, JournalError};
use crate::log::{Log, LogError, LogOptions};

/// Kind of the fact that makes a group exist in a data directory; [`DataDir::groups`] lists those that have it.
pub const GROUP_CREATED: u8 = 32;

/// Why a data directory can't be used.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{0} is in use by another broker: stop it, or choose another directory with --data-dir")]
    InUse(PathBuf),
    #[error(
        "{path} has format version {found}, this program reads version {supported}: use the headwater version that wrote it"
    )]
    WrongVersion { path: PathBuf, found: String, supported: u32 },
    #[error("{0} is not a Headwater data directory and not empty: choose an empty one with --data-dir")]
    NotADataDirectory(PathBuf),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

#[derive(Debug, Clone, Copy, Default)]
pub struct DataDirOptions {}

#[derive(Debug)]
pub struct DataDir {}

#[allow(unused_variables, clippy::todo, clippy::unused_async)]
impl DataDir {
    pub async fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        entropy: &mut (dyn FnMut() -> u64 + Send),
        options: DataDirOptions,
    ) -> Result<Arc<Self>, OpenError> {
        todo!()
    }
    pub fn path(&self) -> &Path {
        todo!()
    }
    pub fn incarnation(&self) -> Incarnation {
        todo!()
    }
    /// Whether the last broker that used the directory stopped by `flush_clean`.
    pub fn was_clean(&self) -> bool {
        todo!()
    }
    /// A durable fact of a group, or of the node.
    pub fn get(&self, group: Option<GroupId>, kind: u8) -> Option<Bytes> {
        todo!()
    }
    /// All durable facts of a group (or the node).
    pub fn facts(&self, group: Option<GroupId>) -> BTreeMap<u8, Bytes> {
        todo!()
    }
    /// Enqueued on call, in call order; resolves when durable. An empty value removes the fact.
    pub fn put(
        &self,
        group: Option<GroupId>,
        kind: u8,
        value: Bytes,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        async { todo!() }
    }
    /// As `put`, all or none.
    pub fn put_many(&self, changes: Vec<Change>) -> impl Future<Output = io::Result<()>> + Send + use<> {
        async { todo!() }
    }
    pub fn groups(&self) -> Vec<GroupId> {
        todo!()
    }
    /// The log of a group; the same one while any handle of it lives.
    pub async fn open_log(
        self: &Arc<Self>,
        group: GroupId,
        options: LogOptions,
    ) -> Result<Arc<Log>, LogError> {
        todo!()
    }
    /// Forgets the group's facts durably, then removes its files.
    pub async fn delete_group(&self, group: GroupId) -> io::Result<()> {
        todo!()
    }
    pub fn space(&self) -> io::Result<Space> {
        todo!()
    }
    /// Clean stop; later puts and appends fail. Frees the directory.
    pub async fn flush_clean(&self) -> io::Result<()> {
        todo!()
    }
}

#[allow(unused_variables, clippy::todo)]
#[async_trait]
impl LogHost for DataDir {
    fn disk(&self) -> &Arc<dyn Disk> {
        todo!()
    }
    fn incarnation(&self) -> Incarnation {
        todo!()
    }
    fn fact(&self, group: GroupId, kind: u8) -> Option<Bytes> {
        todo!()
    }
    async fn put_fact(&self, group: GroupId, kind: u8, value: Bytes) -> io::Result<()> {
        todo!()
    }
    fn mark_dirty(&self, source: Arc<dyn FlushSource>) {
        todo!()
    }
}
