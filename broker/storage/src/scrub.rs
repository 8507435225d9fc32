//! The scrub: reads what was durable once again, and checks that every batch is what its producer sealed.

use std::sync::Arc;

use headwater_proto::record::BatchHeader;
use headwater_proto::types::{LogIndex, Offset};

use crate::index::IndexEntry;
use crate::log::{DamagedRange, Log, LogError, View};
use crate::segment::{Segment, batch};

/// Bytes that are brought into memory at once.
const WINDOW_BYTES: u64 = 4 << 20;

/// What a scrub did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubReport {
    pub bytes: u64,
    pub batches: u64,
    /// Damage that nobody knew of before.
    pub new_damage: usize,
}

impl Log {
    /// Reads every durable batch and verifies its header and its CRC. What fails is in [`Log::damage`] from
    /// then on, over restarts, and appends are refused. Yields between windows of a few MB.
    ///
    /// # Errors
    /// I/O errors other than those of reading a damaged file, and those of the journal.
    pub async fn scrub(&self) -> Result<ScrubReport, LogError> {
        let mut report = ScrubReport::default();
        let view = self.view();
        let Some(durable) = self.bounds().durable_index else {
            return Ok(report);
        };
        for segment in view.segments.iter() {
            let mut n = 0;
            while let Some(window) = window(segment, n, durable) {
                let found = scrub_window(segment, n, window, &mut report).await;
                report.new_damage += self.report_new(&view, found).await?;
                n = window;
                tokio::task::yield_now().await;
            }
        }
        Ok(report)
    }

    async fn report_new(&self, view: &View, found: Vec<DamagedRange>) -> Result<usize, LogError> {
        // What was purged or cut while it was read is nobody's loss.
        let now = self.view();
        let lives = |range: &DamagedRange| {
            let still = |v: &View| v.find(range.first_index).map(|(s, _)| Arc::as_ptr(s));
            range.last_index >= now.first_index() && still(&now) == still(view)
        };
        let before = self.known_damage().ranges.len();
        let found: Vec<DamagedRange> = found.into_iter().filter(lives).collect();
        if !found.is_empty() {
            self.report_damage(found).await?;
        }
        Ok(self.known_damage().ranges.len() - before)
    }
}

/// Number behind the last entry of the window that begins with entry `n`; `None` at the durable end.
fn window(segment: &Segment, n: u32, durable: LogIndex) -> Option<u32> {
    let durable = (durable.0 + 1).saturating_sub(segment.first_index().0);
    let count = u64::from(segment.entry_count()).min(durable) as u32;
    if n >= count {
        return None;
    }
    let mut bytes = 0;
    let mut end = n;
    while end < count && (end == n || bytes < WINDOW_BYTES) {
        // An entry that does not prove itself is found again, and reported, when the window is read.
        bytes += segment.entry(end).map_or(0, |e| u64::from(e.size_bytes));
        end += 1;
    }
    Some(end)
}

async fn scrub_window(segment: &Segment, from: u32, to: u32, report: &mut ScrubReport) -> Vec<DamagedRange> {
    let entries: Vec<Option<IndexEntry>> = (from..to).map(|n| segment.entry(n).ok()).collect();
    let start = entries.iter().flatten().map(|e| u64::from(e.position)).min();
    let end = entries.iter().flatten().map(IndexEntry::end).max();
    if let (Some(start), Some(end)) = (start, end) {
        // Where this fails, the reads below fail too, and say which batch.
        drop(segment.data.populate(start..end.min(segment.data.len())).await);
    }
    let mut damaged = Vec::new();
    for (n, entry) in (from..to).zip(entries) {
        let intact = entry.is_some_and(|e| verify(segment, n, &e));
        report.batches += 1;
        report.bytes += entry.map_or(0, |e| u64::from(e.size_bytes));
        if !intact {
            damaged.push(range(segment, n, entry));
        }
    }
    damaged
}

/// Whether the batch of an entry is stored as it was indexed and sealed.
fn verify(segment: &Segment, n: u32, entry: &IndexEntry) -> bool {
    let meta = segment.meta_of(n, entry);
    let Ok(bytes) = segment.batch(&meta, entry.header_crc) else {
        return false;
    };
    BatchHeader::read(&bytes).is_some_and(|header| batch::crc_holds(&header, &bytes))
}

/// What is lost with entry `n`; where its own index entry is, its neighbours tell.
fn range(segment: &Segment, n: u32, entry: Option<IndexEntry>) -> DamagedRange {
    let before = n.checked_sub(1).and_then(|n| segment.entry(n).ok());
    let after = (n + 1 < segment.entry_count()).then(|| segment.entry(n + 1).ok()).flatten();
    let base = segment.base_offset().0;
    let offset = |delta: u64| Offset(base + delta.cast_signed());
    let first = entry.map(|e| u64::from(e.offset_delta)).or(before.map(|e| e.next_delta())).unwrap_or(0);
    let next = match (entry, after) {
        (Some(entry), _) => offset(entry.next_delta()),
        (None, Some(after)) => offset(u64::from(after.offset_delta)),
        (None, None) => segment.next_offset(),
    };
    let index = LogIndex(segment.first_index().0 + u64::from(n));
    DamagedRange {
        first_index: index,
        last_index: index,
        first_offset: offset(first),
        next_offset: next,
        file: segment.name().log_file(),
        position: entry.map(|e| u64::from(e.position)).or(before.map(|e| e.end())).unwrap_or(0),
    }
}
