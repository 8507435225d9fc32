//! What readers see of a log: its segments and how far it was purged.

use std::sync::Arc;

use headwater_proto::types::{LogIndex, Offset};

use super::LogId;
use super::facts::Purged;
use crate::segment::Segment;

/// A consistent picture; cheap to clone. Segments that are pictured here and removed since stay readable.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// In the order of their first index, each with at least one entry.
    pub segments: Arc<Vec<Arc<Segment>>>,
    pub purged: Option<Purged>,
    /// Index of the first entry of a log that never held one.
    pub begin: LogIndex,
}

impl View {
    pub fn first_index(&self) -> LogIndex {
        match (self.purged, self.segments.first()) {
            (Some(purged), _) => purged.upto.index.next(),
            (None, Some(first)) => first.first_index(),
            (None, None) => self.begin,
        }
    }

    pub fn next_index(&self) -> LogIndex {
        let purged = self.purged.map_or(self.begin, |p| p.upto.index.next());
        self.segments.last().map_or(purged, |s| s.next_index().max(purged))
    }

    pub fn next_offset(&self) -> Offset {
        let purged = self.purged.map_or(Offset(0), |p| p.next_offset);
        self.segments.last().map_or(purged, |s| s.next_offset())
    }

    pub fn last(&self) -> Option<LogId> {
        let purged = self.purged.map(|p| p.upto);
        self.segments.last().and_then(|s| s.last()).max_by_index(purged)
    }

    /// The segment that holds `index` and its number therein.
    pub fn find(&self, index: LogIndex) -> Option<(&Arc<Segment>, u32)> {
        let at = self.segments.partition_point(|s| s.first_index() <= index).checked_sub(1)?;
        let segment = &self.segments[at];
        let n = u32::try_from(index.0 - segment.first_index().0).ok()?;
        (n < segment.entry_count()).then_some((segment, n))
    }
}

trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<LogId> {
    fn max_by_index(self, other: Self) -> Self {
        if other.map(|id| id.index) > self.map(|id| id.index) { other } else { self }
    }
}
