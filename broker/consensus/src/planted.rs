//! The part of the planted bugs that takes more than a condition. Not in a release.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headwater_core::mutant::{self, Mutant};
use headwater_proto::types::{LogIndex, Term};
use headwater_storage::log::{LogError, NewEntry};

use crate::error::ConsensusError;
use crate::log_store::Shared;

/// A kind of fact that nothing else uses.
const STALE_TAIL: u8 = u8::MAX;

/// Keeps what a truncation is about to cut off, as a log would that only moves its end.
pub(crate) async fn keep_stale_tail(shared: &Shared, last: Option<LogIndex>) -> Result<(), LogError> {
    if !mutant::active(Mutant::StaleTailAfterTruncation) {
        return Ok(());
    }
    let begin = last.map_or(shared.log.bounds().first_index, LogIndex::next);
    let mut tail = BytesMut::new();
    for (meta, batch) in shared.log.batches(begin..LogIndex(u64::MAX), 1 << 20)? {
        tail.put_u64(meta.index.get());
        tail.put_u64(meta.term.get());
        tail.put_u32(batch.len() as u32);
        tail.put_slice(&batch);
    }
    Ok(shared.data_dir.put(Some(shared.group), STALE_TAIL, tail.freeze()).await?)
}

/// Finds it again behind the end of the log.
pub(crate) async fn find_stale_tail(shared: &Shared) -> Result<(), ConsensusError> {
    let Some(mut tail) = shared.data_dir.get(Some(shared.group), STALE_TAIL) else { return Ok(()) };
    if !mutant::active(Mutant::StaleTailAfterTruncation) || shared.log.bounds().last.is_none() {
        return Ok(());
    }
    while tail.remaining() >= 20 {
        let (index, term) = (LogIndex(tail.get_u64()), Term(tail.get_u64()));
        let length = tail.get_u32() as usize;
        let batch: Bytes = tail.split_to(length);
        if shared.log.bounds().last.is_some_and(|last| last.index.next() == index) {
            shared.log.append(&[NewEntry { term, batch }])?;
        }
    }
    Ok(shared.log.flush().await.map_err(LogError::from)?)
}
