//! What a partition needs now and then: retention, sealing by age, expiry of producers, checkpoints.
//!
//! Invariants: the log start moves by a logged entry before anything is freed; only whole closed segments
//! are; what is kept is never less than the topic's configs ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_core::topic_config::TopicConfig;
use headwater_core::{ControlEntry, Decision, Gate, PartitionState, Refusal};
use headwater_proto::record::empty_control_batch;
use headwater_proto::types::{LogIndex, Offset, ProducerId, TimestampMs};
use headwater_storage::log::{Damage, SegmentInfo};
use tokio::time::Instant;

use super::Partition;
use crate::error::RequestError;
use crate::proposer::Await;

/// What upkeep is told by the broker's configuration.
#[derive(Debug, Clone, Copy)]
pub struct UpkeepSettings {
    pub producer_expiration: Duration,
}

/// What upkeep remembers of its last rounds; nothing of it needs to survive a restart.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Each producer's newest entry, and since when it is.
    silent_since: BTreeMap<ProducerId, (LogIndex, Instant)>,
    checkpoint: LogIndex,
}

impl Partition {
    /// One round. Errors of one part do not keep the others from their work.
    pub async fn tend(&self, settings: UpkeepSettings, now: TimestampMs) {
        let mut upkeep = self.upkeep.lock().await;
        let rounds = [
            ("retention", self.retain(now).await),
            ("producer expiry", self.expire_silent(&mut upkeep, settings.producer_expiration).await),
            ("checkpoint", self.checkpoint(&mut upkeep).await),
        ];
        for (what, outcome) in rounds {
            match outcome {
                // Another broker's work, or one for the next round.
                Ok(()) | Err(RequestError::NotLeader | RequestError::Stopping | RequestError::DiskFull) => {}
                Err(error) => {
                    let group = self.id();
                    tracing::warn!(topic = self.topic(), %group, what, %error, "upkeep failed; it is tried again");
                }
            }
        }
    }

    async fn retain(&self, now: TimestampMs) -> Result<(), RequestError> {
        let config = self.config();
        let log = self.group().log();
        if log.segments().last().is_some_and(|active| active_is_due(active, &config, now)) {
            log.seal_active().await?;
        }
        let (segments, progress) = (log.segments(), self.now());
        let target = expired_below(&segments, &config, now).min(progress.high_watermark);
        if target > progress.log_start {
            self.move_log_start(target).await?;
            tracing::info!(topic = self.topic(), group = %self.id(), log_start = %target, "records expired");
        }
        self.purge_below_log_start().await
    }

    /// Frees the closed segments all of whose records lie below the log start.
    pub(super) async fn purge_below_log_start(&self) -> Result<(), RequestError> {
        let segments = self.group().log().segments();
        let progress = self.now();
        let free = |segment: &&SegmentInfo| {
            segment.sealed
                && segment.next_offset <= progress.log_start
                && segment.last.index <= progress.applied.index
        };
        match segments.iter().take_while(free).last() {
            Some(last) => Ok(self.group().purge(last.last).await?),
            None => Ok(()),
        }
    }

    async fn expire_silent(&self, upkeep: &mut Upkeep, after: Duration) -> Result<(), RequestError> {
        let newest: BTreeMap<_, _> = self.group().with_state(|state| {
            state.producers.iter().map(|(id, producer)| (id, producer.last_index)).collect()
        });
        let now = Instant::now();
        upkeep.silent_since.retain(|id, _| newest.contains_key(id));
        let mut expired = Vec::new();
        for (id, index) in newest {
            let (known, since) = upkeep.silent_since.entry(id).or_insert((index, now));
            if *known != index {
                (*known, *since) = (index, now);
            } else if now.duration_since(*since) > after {
                expired.push(id);
            }
        }
        if expired.is_empty() { Ok(()) } else { self.expire_producers(expired).await }
    }

    /// Forgets those of the producers that have nothing in flight, on all replicas alike.
    pub(super) async fn expire_producers(&self, ids: Vec<ProducerId>) -> Result<(), RequestError> {
        let decide = |gate: &mut Gate, _: &PartitionState| match gate.expire(&ids) {
            Some((stamp, expired)) => {
                let entry = ControlEntry::ProducerExpiry(expired);
                (Decision::Append(stamp), empty_control_batch(&entry.encode()))
            }
            None => (Decision::Refuse(Refusal::Draining), bytes::Bytes::new()),
        };
        self.proposer.propose(None, Await::Commit, decide).await?.outcome().await.map(|_| ())
    }

    /// Writes the tables when something was applied since they were written last.
    async fn checkpoint(&self, upkeep: &mut Upkeep) -> Result<(), RequestError> {
        let applied = self.now().applied.index;
        if applied != upkeep.checkpoint {
            self.group().checkpoint().await?;
            upkeep.checkpoint = applied;
        }
        Ok(())
    }

    /// Writes the tables, so that the next start has nothing to replay.
    pub async fn checkpoint_now(&self) {
        let mut upkeep = self.upkeep.lock().await;
        if let Err(error) = self.checkpoint(&mut upkeep).await {
            tracing::warn!(topic = self.topic(), group = %self.id(), %error, "no checkpoint: the next start replays");
        }
    }
}

/// Whether the segment being written must be closed: it is older than segment.ms, or all of it is expired.
fn active_is_due(active: &SegmentInfo, config: &TopicConfig, now: TimestampMs) -> bool {
    let age = |timestamp: TimestampMs| now.get().saturating_sub(timestamp.get());
    let has_records = active.next_offset > active.base_offset;
    !active.sealed
        && has_records
        && (age(active.first_timestamp) > config.segment_ms || is_expired(active, config, now))
}

fn is_expired(segment: &SegmentInfo, config: &TopicConfig, now: TimestampMs) -> bool {
    let age_ms = now.get().saturating_sub(segment.max_timestamp.get());
    config.retention_ms.is_some_and(|retention_ms| age_ms > retention_ms)
}

/// The log start that retention asks for: behind the closed segments at the front that are too old, or
/// that are not needed for the bytes to be kept.
fn expired_below(segments: &[SegmentInfo], config: &TopicConfig, now: TimestampMs) -> Offset {
    let mut bytes: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    let mut target = Offset(0);
    for segment in segments.iter().take_while(|segment| segment.sealed) {
        bytes -= segment.size_bytes;
        let too_many = config.retention_bytes.is_some_and(|keep| bytes >= keep);
        // A segment without records has no timestamp, and goes with the one that follows it.
        let has_records = segment.next_offset > segment.base_offset;
        if has_records && !too_many && !is_expired(segment, config, now) {
            break;
        }
        target = segment.next_offset;
    }
    target
}

/// Damage as an operator reads it.
pub(super) fn damage_in_words(damage: &Damage) -> String {
    let mut words: Vec<_> = damage
        .ranges
        .iter()
        .map(|range| {
            format!(
                "offsets {} to below {} ({} at byte {}) are damaged",
                range.first_offset, range.next_offset, range.file, range.position
            )
        })
        .collect();
    if let Some(index) = damage.end_missing_below {
        words.push(format!("the end of the log is missing: it held entries up to {index} at least"));
    }
    if damage.accepted {
        words.push("the loss was accepted".to_owned());
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use headwater_proto::types::Term;
    use headwater_storage::log::LogId;

    use super::*;

    /// Segments of 100 bytes and 10 records each; `timestamps` are their largest ones, the last is active.
    fn segments(timestamps: &[i64]) -> Vec<SegmentInfo> {
        let segment = |(n, timestamp): (usize, &i64)| {
            let n = n as i64;
            let records = if *timestamp < 0 { 0 } else { 10 };
            SegmentInfo {
                first_index: LogIndex(n as u64 + 1),
                last: LogId { term: Term(1), index: LogIndex(n as u64 + 1) },
                base_offset: Offset(n * 10),
                next_offset: Offset(n * 10 + records),
                size_bytes: 100,
                max_timestamp: TimestampMs(*timestamp),
                first_timestamp: TimestampMs(*timestamp),
                sealed: n as usize + 1 < timestamps.len(),
            }
        };
        timestamps.iter().enumerate().map(segment).collect()
    }

    fn config(retention_ms: Option<i64>, retention_bytes: Option<u64>) -> TopicConfig {
        TopicConfig { retention_ms, retention_bytes, segment_ms: 1_000, ..TopicConfig::default() }
    }

    #[test]
    fn retention_frees_closed_segments_from_the_front_only() {
        let now = TimestampMs(1_000);
        let by_time = config(Some(500), None);
        assert_eq!(expired_below(&segments(&[100, 200, 900, 300, 950]), &by_time, now), Offset(20));
        assert_eq!(expired_below(&segments(&[100, 100]), &by_time, now), Offset(10), "the active one stays");
        assert_eq!(expired_below(&segments(&[500, 1_000]), &by_time, now), Offset(0), "as old as allowed");
        assert_eq!(expired_below(&segments(&[100, 100, 100]), &config(None, None), now), Offset(0));
    }

    #[test]
    fn retention_by_size_keeps_at_least_what_is_asked_for() {
        let now = TimestampMs(1_000);
        let all = segments(&[1, 1, 1, 1]);
        for (keep, expected) in
            [(400, 0), (301, 0), (300, 10), (250, 10), (200, 20), (101, 20), (100, 30), (0, 30)]
        {
            assert_eq!(expired_below(&all, &config(None, Some(keep)), now), Offset(expected), "keep {keep}");
        }
    }

    #[test]
    fn the_active_segment_is_closed_by_age_or_when_all_of_it_is_expired() {
        let due = |timestamp, config: &TopicConfig, now| {
            segments(&[timestamp])
                .last()
                .is_some_and(|active| active_is_due(active, config, TimestampMs(now)))
        };
        let keep = config(None, None);
        assert!(!due(100, &keep, 1_100));
        assert!(due(100, &keep, 1_101));
        assert!(due(100, &config(Some(50), None), 151));
        assert!(!due(-1, &keep, i64::MAX), "nothing to close without records");
    }
}
