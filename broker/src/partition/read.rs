//! Reading committed records.
//!
//! Source of the rules: Kafka's Fetch, KIP-74 (the first batch comes whatever its size), KIP-392 (followers answer
//! within what they know to be committed).

use bytes::Bytes;
use headwater_consensus::{ConsensusError, Health, Role};
use headwater_proto::types::{Offset, Term};

use super::Partition;
use crate::error::RequestError;

/// Whole batches of one partition, mapped, not copied.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Empty at the end of the partition. The first batch may begin before the offset asked for.
    pub records: Bytes,
    pub next_offset: Offset,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub leader_epoch: i32,
}

/// Whom a replica answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Those who want the leader.
    OfTheLeader,
    /// Those who read from any replica.
    Followers,
    /// Everybody, as there is no other replica.
    OfTheOnlyReplica,
}

impl Partition {
    /// The replica's part in its group.
    pub fn role(&self) -> Role {
        self.group().role()
    }

    /// Waits until the role is another than `known`; for ever once the replica has stopped.
    pub async fn role_changed(&self, known: Role) {
        if self.group().role_changed(known).await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Records from `offset` on, below the high watermark: at most `max_bytes`, at least one batch where
    /// there is one.
    ///
    /// # Errors
    /// This replica does not answer such a reader; the leader epoch is not the one that the reader knows; the offset
    /// is not in the log, or not known to be committed here.
    pub async fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        known_epoch: i32,
        readers: Readers,
    ) -> Result<Slice, RequestError> {
        let leader_epoch = self.check_serves(readers, known_epoch)?;
        let progress = self.now();
        let (log_start, high_watermark) = (progress.log_start, progress.high_watermark);
        if offset < log_start.get() || offset > high_watermark.get() {
            // A follower may not have heard yet of what the reader has read elsewhere.
            let may_be_committed = offset > high_watermark.get() && self.leader_epoch() < 0;
            return Err(if may_be_committed && readers == Readers::Followers {
                RequestError::NotCommittedHere { offset, high_watermark }
            } else {
                RequestError::OffsetOutOfRange { offset, log_start, high_watermark }
            });
        }
        let mut slice = Slice {
            records: Bytes::new(),
            next_offset: Offset(offset),
            high_watermark,
            log_start,
            leader_epoch,
        };
        if offset < high_watermark.get() {
            let found = self.group().log().read_async(Offset(offset), high_watermark, max_bytes).await?;
            slice.records = found.bytes;
            slice.next_offset = found.next_offset;
        }
        Ok(slice)
    }

    /// Returns once everything acknowledged before the call can be read here: a leader that was deposed and does not
    /// know it finds out.
    ///
    /// # Errors
    /// This replica does not lead, or no majority answers.
    pub async fn catch_up(&self, readers: Readers) -> Result<(), RequestError> {
        match self.group().read_index().await {
            Ok(_) => Ok(()),
            Err(ConsensusError::Damaged | ConsensusError::Failed(_))
                if readers == Readers::OfTheOnlyReplica =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The epoch of the leadership under which this replica answers such a reader, who believes in `known_epoch` (-1:
    /// in none).
    fn check_serves(&self, readers: Readers, known_epoch: i32) -> Result<i32, RequestError> {
        let leads = self.leader_epoch();
        let current = match readers {
            _ if leads >= 0 => leads,
            Readers::OfTheLeader => return Err(RequestError::NotLeader),
            Readers::OfTheOnlyReplica if known_epoch < 0 => return Ok(-1),
            // Damaged while it led: it never will again by itself, and nobody else does.
            Readers::OfTheOnlyReplica if matches!(self.group().health(), Health::Damaged(_)) => {
                return Ok(-1);
            }
            Readers::OfTheOnlyReplica => return Err(RequestError::NotLeader),
            // It knows no more what is committed.
            Readers::Followers if matches!(self.group().health(), Health::Damaged(_)) => {
                return Err(RequestError::NotLeader);
            }
            Readers::Followers => epoch(self.role().term),
        };
        check(known_epoch, current).map(|()| current)
    }

    /// Compares the epoch that a client believes in; -1 when it knows none.
    pub fn check_epoch(&self, known: i32) -> Result<(), RequestError> {
        match self.leader_epoch() {
            ..0 if known >= 0 => Err(RequestError::NotLeader),
            current => check(known, current),
        }
    }
}

/// Kafka's leader epoch.
fn epoch(term: Term) -> i32 {
    i32::try_from(term.get()).unwrap_or(i32::MAX)
}

const fn check(known: i32, current: i32) -> Result<(), RequestError> {
    match known {
        ..0 => Ok(()),
        _ if known < current => Err(RequestError::FencedEpoch { known, current }),
        _ if known > current => Err(RequestError::UnknownEpoch { known, current }),
        _ => Ok(()),
    }
}
