//! The metadata log's own upkeep: tables, closed segments, and what lies before them given up.
//!
//! Every replica does it for its own log. Invariant: an entry is given up only when the state that holds it is durable
//! here; who lacks it gets that state as a snapshot.

use headwater_consensus::ConsensusError;
use headwater_storage::log::SegmentInfo;

use super::Controller;

impl Controller {
    /// Closes the segment being written once it is large enough, and gives up what the closed ones hold.
    pub async fn trim_log(&self, segment_bytes: u64) {
        if let Err(error) = self.try_trim_log(segment_bytes).await {
            tracing::warn!(%error, "the metadata log was not shortened; it is tried again");
        }
    }

    async fn try_trim_log(&self, segment_bytes: u64) -> Result<(), ConsensusError> {
        let (group, log) = (self.group(), self.group().log());
        if log.segments().last().is_some_and(|active| !active.sealed && active.size_bytes >= segment_bytes) {
            log.seal_active().await?;
        }
        let applied = self.applied_index();
        let segments = log.segments();
        let done = |segment: &&SegmentInfo| segment.sealed && segment.last.index <= applied;
        match segments.iter().take_while(done).last() {
            Some(last) => group.purge(last.last).await,
            None => Ok(()),
        }
    }
}
