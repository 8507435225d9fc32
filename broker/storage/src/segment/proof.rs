//! Which batches of a segment are known to be what their producers sealed.
//!
//! What this process appended was checked before it came here. What it found at its start was not read by anybody yet:
//! recovery believes an index that proves itself, and the bytes behind it may have rotted since they were synced. Each
//! such batch counts as unproven until its CRC was compared once; how much that costs is bounded by the size of what a
//! start finds. Once any batch was found not to be what was sealed, none of its segment is believed any more: it is in memory
//! now as it is on the disk.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const WORD_BITS: u32 = u64::BITS;

/// One bit for each entry that was found at the start; no memory until the first of them is proven.
#[derive(Debug)]
pub(crate) struct Proofs {
    /// Entries below this number were found, the others appended.
    found: u32,
    proven: OnceLock<Box<[AtomicU64]>>,
    failed: AtomicBool,
}

impl Proofs {
    pub fn new(found: u32) -> Self {
        Self { found, proven: OnceLock::new(), failed: AtomicBool::new(false) }
    }

    /// Whether the batch of entry `n` has to be compared with its CRC.
    pub fn is_due(&self, n: u32) -> bool {
        self.has_failed() || self.is_unproven(n)
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn is_unproven(&self, n: u32) -> bool {
        let bit = 1 << (n % WORD_BITS);
        n < self.found
            && self
                .proven
                .get()
                .is_none_or(|words| words[(n / WORD_BITS) as usize].load(Ordering::Relaxed) & bit == 0)
    }

    /// Whether any batch of the range is due. What was appended is not even looked at.
    pub fn is_any_due(&self, range: Range<u32>) -> bool {
        self.has_failed() || (range.start..range.end.min(self.found)).any(|n| self.is_unproven(n))
    }

    /// A batch is not what was sealed.
    pub fn failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// The batch of entry `n` is what was sealed.
    pub fn proved(&self, n: u32) {
        if n < self.found {
            let words = || (0..self.found.div_ceil(WORD_BITS)).map(|_| AtomicU64::new(0)).collect();
            let words = self.proven.get_or_init(words);
            words[(n / WORD_BITS) as usize].fetch_or(1 << (n % WORD_BITS), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_due_until_it_is_proved_and_what_was_appended_never_is() {
        let proofs = Proofs::new(130);
        assert!(proofs.is_any_due(129..1_000) && !proofs.is_any_due(130..1_000));
        for n in (0..130).filter(|n| n % 3 != 0) {
            proofs.proved(n);
        }
        assert!((0..200).all(|n| proofs.is_due(n) == (n < 130 && n % 3 == 0)));
        assert!(!proofs.is_any_due(1..3) && proofs.is_any_due(1..4));
        (0..200).for_each(|n| proofs.proved(n));
        assert!(!proofs.is_any_due(0..u32::MAX));
        proofs.failed();
        assert!(proofs.is_any_due(1..2) && proofs.is_due(1_000));
    }
}
