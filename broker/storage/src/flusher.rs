//! Group commit for one data directory.
use crate::disk::Disk;
use crate::host::FlushSource;
use crate::journal::{Change, Journal};
use std::io;
use std::sync::Arc;

#[derive(Debug)]
pub struct Flusher {}

#[allow(unused_variables, clippy::todo)]
impl Flusher {
    pub fn start(disk: Arc<dyn Disk>, journal: Journal) -> Self {
        todo!()
    }
    /// Enqueued on call, in call order; resolves when durable.
    pub fn put(&self, changes: Vec<Change>) -> impl Future<Output = io::Result<()>> + Send + use<> {
        async { todo!() }
    }
    pub fn mark_dirty(&self, source: Arc<dyn FlushSource>) {
        todo!()
    }
}
