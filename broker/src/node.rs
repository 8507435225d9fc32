//! The broker behind its listeners.

use std::sync::Arc;

use thiserror::Error;

use crate::metrics::Exposition;
use crate::server::NodeContext;

/// Why the node cannot start.
#[derive(Debug, Error)]
pub enum NodeError {}

/// Everything that handlers call.
#[derive(Debug)]
pub struct Node {}

impl Node {
    /// Opens the data directory and starts every group.
    ///
    /// # Errors
    /// The data directory cannot be used.
    #[allow(clippy::unused_async)]
    pub async fn start(_context: NodeContext) -> Result<Arc<Self>, NodeError> {
        Ok(Arc::new(Self {}))
    }

    /// What keeps it from serving, for `/health/ready`.
    pub fn unready(&self) -> Option<String> {
        None
    }

    /// Figures that are read when they are asked for.
    pub fn scrape(&self, _out: &mut Exposition) {}

    /// Stops every group and makes the next start a clean one.
    #[allow(clippy::unused_async)]
    pub async fn shutdown(&self) {}
}
