//! From what a group's state is rebuilt: tables in files, and the log behind them.
//!
//! Tables are written when apply crosses a segment boundary, and by a checkpoint. Invariants: no tables
//! are written beyond the durable end of this replica's own log, for Raft would purge a log that ends
//! before them; the log is purged only up to an entry as of which tables are durable.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, pin_mut};
use headwater_core::Machine;
use headwater_core::mutant::{self, Mutant};
use headwater_proto::types::LogIndex;
use headwater_storage::log::{LogError, LogId};
use tokio::task::JoinSet;

use crate::applied::Applied;
use crate::encoding::Tables;
use crate::error::ConsensusError;
use crate::log_reader::LogReader;
use crate::log_store::Shared;

/// The newest state that the files alone give, at or below `below`.
pub(crate) fn restore<M: Machine>(
    shared: &Shared,
    initial: &Bytes,
    below: LogIndex,
) -> Result<Applied<M>, ConsensusError> {
    match shared.log.tables(below)? {
        Some((_, bytes)) => Applied::from_tables(&Tables::decode(&bytes)?),
        None if shared.log.bounds().purged.is_none() => Applied::initial(initial),
        None => Err(ConsensusError::NoTables),
    }
}

/// The state as of one entry: from tables at or below it, and the entries between.
pub(crate) async fn state_at<M: Machine>(
    shared: &Arc<Shared>,
    initial: &Bytes,
    at: LogId,
) -> Result<Applied<M>, ConsensusError> {
    let mut state = restore::<M>(shared, initial, at.index)?;
    let entries = LogReader::new(Arc::clone(shared)).stream(state.log_id().index.next()..at.index.next());
    pin_mut!(entries);
    while let Some(entry) = entries.next().await {
        state.apply(&entry.map_err(LogError::from)?)?;
    }
    if state.log_id() == at {
        Ok(state)
    } else {
        Err(ConsensusError::InvalidRequest("no such entry in the log"))
    }
}

/// Writes tables, once the log is durable as far as they reach.
pub(crate) async fn write(shared: &Shared, tables: &Tables) -> Result<(), ConsensusError> {
    let durable = shared.log.bounds().durable_index.is_some_and(|durable| tables.at.index <= durable);
    if !durable && !mutant::active(Mutant::AppliedBeyondDurable) {
        shared.log.flush().await.map_err(LogError::from)?;
    }
    let _one_at_a_time = shared.tables.lock().await;
    Ok(shared.log.write_tables(tables.at, tables.encode()).await?)
}

/// Writes the tables of segment boundaries beside the apply that crosses them.
#[derive(Debug, Default)]
pub(crate) struct BoundaryWriter {
    writes: Mutex<JoinSet<()>>,
}

impl BoundaryWriter {
    /// Begins to write. A failure costs a longer replay at the next start, nothing else, and is logged.
    pub(crate) fn write(&self, shared: &Arc<Shared>, tables: Tables) {
        let shared = Arc::clone(shared);
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        while writes.try_join_next().is_some() {}
        writes.spawn(async move {
            if let Err(error) = write(&shared, &tables).await {
                tracing::warn!(group = %shared.group, at = %tables.at.index, %error, "tables were not written");
            }
        });
    }

    /// Waits for what was begun.
    pub(crate) async fn finish(&self) {
        let mut writes = std::mem::take(&mut *self.writes.lock().unwrap_or_else(PoisonError::into_inner));
        while writes.join_next().await.is_some() {}
    }
}
