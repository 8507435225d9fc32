//! The scrub: reads what was durable once again, and checks that every batch is what its producer sealed.

use std::sync::Arc;

use headwater_proto::types::{LogIndex, Offset};

use crate::index::IndexEntry;
use crate::log::{DamagedRange, Log, LogError, View};
use crate::segment::Segment;

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

    /// As [`Log::scrub`], but of one entry that did not read back: see
    /// [`DataDir::suspected`](crate::data_dir::DataDir::suspected).
    ///
    /// # Errors
    /// As [`Log::scrub`].
    pub async fn scrub_at(&self, index: LogIndex) -> Result<ScrubReport, LogError> {
        let mut report = ScrubReport::default();
        let view = self.view();
        let is_durable = self.bounds().durable_index.is_some_and(|durable| index <= durable);
        if let Some((segment, n)) = view.find(index).filter(|_| is_durable) {
            let found = scrub_window(segment, n, n + 1, &mut report).await;
            report.new_damage = self.report_new(&view, found).await?;
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
    let populated = match (start, end) {
        (Some(start), Some(end)) => segment.data.populate(start..end.min(segment.data.len())).await.is_ok(),
        _ => true,
    };
    let mut damaged = Vec::new();
    for (n, entry) in (from..to).zip(entries) {
        let intact = match &entry {
            // What the device does not give must not be touched: one after the other tells which batch that is.
            Some(entry) => (populated || is_readable(segment, entry).await) && verify(segment, n, entry),
            None => false,
        };
        report.batches += 1;
        report.bytes += entry.map_or(0, |e| u64::from(e.size_bytes));
        if !intact {
            damaged.push(range(segment, n, entry));
        }
    }
    damaged
}

async fn is_readable(segment: &Segment, entry: &IndexEntry) -> bool {
    segment.data.populate(Segment::extent(entry)).await.is_ok()
}

/// Whether the batch of an entry is stored as it was indexed and sealed.
fn verify(segment: &Segment, n: u32, entry: &IndexEntry) -> bool {
    let batch = segment.data.read(Segment::extent(entry));
    batch.is_ok_and(|batch| segment.prove(n, entry, &batch, true).is_ok())
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
