//! Counters of a producer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::DeliveryError;

/// Counters since the producer was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records accepted by `send`.
    pub records_accepted: u64,
    pub records_delivered: u64,
    /// Records that are certainly not stored.
    pub records_failed: u64,
    /// Records that may or may not be stored.
    pub records_unknown: u64,
    /// Bytes of delivered batches, as sent.
    pub bytes_delivered: u64,
    pub batches_delivered: u64,
    /// Batches that had to be sent again.
    pub batches_retried: u64,
    /// Bytes of the buffer in use now.
    pub buffered_bytes: usize,
}

/// The counters as senders and driver move them.
#[derive(Debug, Default)]
pub struct Counters {
    records_accepted: AtomicU64,
    records_delivered: AtomicU64,
    records_failed: AtomicU64,
    records_unknown: AtomicU64,
    bytes_delivered: AtomicU64,
    batches_delivered: AtomicU64,
    batches_retried: AtomicU64,
}

impl Counters {
    pub fn accepted(&self) {
        self.records_accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn retried(&self) {
        self.batches_retried.fetch_add(1, Ordering::Relaxed);
    }

    pub fn delivered(&self, records: u64, bytes: u64) {
        self.records_delivered.fetch_add(records, Ordering::Relaxed);
        self.bytes_delivered.fetch_add(bytes, Ordering::Relaxed);
        self.batches_delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub fn undelivered(&self, records: u64, error: &DeliveryError) {
        let counter = if error.is_outcome_unknown() { &self.records_unknown } else { &self.records_failed };
        counter.fetch_add(records, Ordering::Relaxed);
    }

    pub fn snapshot(&self, buffered_bytes: usize) -> ProducerStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProducerStats {
            records_accepted: get(&self.records_accepted),
            records_delivered: get(&self.records_delivered),
            records_failed: get(&self.records_failed),
            records_unknown: get(&self.records_unknown),
            bytes_delivered: get(&self.bytes_delivered),
            batches_delivered: get(&self.batches_delivered),
            batches_retried: get(&self.batches_retried),
            buffered_bytes,
        }
    }
}
