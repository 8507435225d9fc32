//! What was sent, and what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use headwater_client::{Delivered, Delivery, DeliveryError};

/// A record whose fate is not known yet.
#[derive(Debug)]
pub struct Sent {
    pub delivery: Delivery,
    /// Number of its source, from [`Ledger::source`].
    pub source: u32,
    pub line: u64,
    pub bytes: u32,
}

/// Records acknowledged in one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionTotals {
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// `None` where acks are not waited for.
    pub offsets: Option<(i64, i64)>,
}

/// The first record that was not acknowledged.
#[derive(Debug)]
pub struct Lost {
    pub place: String,
    pub error: DeliveryError,
}

/// Counts deliveries. Holds no more than the client's buffer lets in flight.
#[derive(Debug, Default)]
pub struct Ledger {
    waiting: VecDeque<Sent>,
    sources: Vec<Arc<str>>,
    pub partitions: BTreeMap<i32, PartitionTotals>,
    pub failed: u64,
    pub unknown: u64,
    pub first_lost: Option<Lost>,
}

impl Ledger {
    /// The number of a source; the last one when it is the same.
    pub fn source(&mut self, name: &Arc<str>) -> u32 {
        if self.sources.last() != Some(name) {
            self.sources.push(Arc::clone(name));
        }
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    pub fn sent(&mut self, sent: Sent) {
        self.waiting.push_back(sent);
    }

    /// Takes what is known from the front. A slow partition holds back the count, not the records.
    pub fn collect(&mut self) {
        while let Some(result) = self.waiting.front().and_then(|sent| sent.delivery.try_result()) {
            if let Some(sent) = self.waiting.pop_front() {
                self.count(&sent, result);
            }
        }
    }

    fn count(&mut self, sent: &Sent, result: Result<Delivered, DeliveryError>) {
        match result {
            Ok(delivered) => {
                let totals = self.partitions.entry(delivered.partition).or_default();
                totals.records += 1;
                totals.bytes += u64::from(sent.bytes);
                if delivered.offset >= 0 {
                    let (first, last) = totals.offsets.unwrap_or((delivered.offset, delivered.offset));
                    totals.offsets = Some((first.min(delivered.offset), last.max(delivered.offset)));
                }
            }
            Err(error) => {
                if error.is_outcome_unknown() {
                    self.unknown += 1;
                } else {
                    self.failed += 1;
                }
                let name = self.sources.get(sent.source as usize).map_or("input", |name| name);
                let place = format!("{name} line {}", sent.line);
                self.first_lost.get_or_insert(Lost { place, error });
            }
        }
    }

    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.first_lost.is_some()
    }

    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.partitions.values().map(|p| p.records).sum()
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.partitions.values().map(|p| p.bytes).sum()
    }

    /// Records that nobody waited for to the end.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.waiting.len() as u64
    }
}
