//! Values of records: slices of one buffer of noise, made once.

use std::time::Duration;

use bytes::Bytes;

/// Larger than a CPU's caches would forgive, smaller than anyone would mind.
const POOL_BYTES: usize = 4 << 20;

/// Bytes at the start of an end-to-end value: the run, then the time at which it was due.
pub const STAMP_BYTES: usize = 16;

/// Hands out values of one length. Clones share the buffer.
#[derive(Debug, Clone)]
pub struct Payload {
    pool: Bytes,
    record_bytes: usize,
    next: usize,
}

impl Payload {
    #[must_use]
    pub fn new(record_bytes: u32) -> Self {
        let record_bytes = record_bytes as usize;
        let mut pool = vec![0; (POOL_BYTES + record_bytes).next_multiple_of(8)];
        for (n, word) in (0..).zip(pool.chunks_exact_mut(8)) {
            word.copy_from_slice(&split_mix(n).to_le_bytes());
        }
        Self { pool: pool.into(), record_bytes, next: 0 }
    }

    /// The next value; each begins a little behind the last one.
    pub fn next_value(&mut self) -> &[u8] {
        let start = self.next;
        // Odd and far from a power of two, so that neighbours share little.
        self.next = (self.next + 1_009) % POOL_BYTES;
        &self.pool[start..start + self.record_bytes]
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014): no codec finds anything in it, and each run sends the same.
const fn split_mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes run and due time in front of a value.
pub fn stamp(value: &mut [u8], run: u64, due: Duration) {
    let nanos = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
    value[..8].copy_from_slice(&run.to_be_bytes());
    value[8..STAMP_BYTES].copy_from_slice(&nanos.to_be_bytes());
}

/// When a value of this run was due; `None` for anybody else's.
#[must_use]
pub fn due(value: &[u8], run: u64) -> Option<Duration> {
    let (head, rest) = value.split_first_chunk::<8>()?;
    let (nanos, _) = rest.split_first_chunk::<8>()?;
    (u64::from_be_bytes(*head) == run).then(|| Duration::from_nanos(u64::from_be_bytes(*nanos)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_have_their_length_and_differ() {
        let mut payload = Payload::new(100);
        let first = payload.next_value().to_vec();
        let second = payload.next_value().to_vec();
        assert_eq!((first.len(), second.len()), (100, 100));
        assert_ne!(first, second);
        (0..10_000).for_each(|_| assert_eq!(payload.next_value().len(), 100));
    }

    #[test]
    fn the_largest_record_can_be_made() {
        assert_eq!(Payload::new(1 << 24).next_value().len(), 1 << 24);
    }

    #[test]
    fn a_stamp_is_read_back_by_its_run_only() {
        let mut value = [0; 20];
        stamp(&mut value, 7, Duration::from_micros(123));
        assert_eq!(due(&value, 7), Some(Duration::from_micros(123)));
        assert_eq!(due(&value, 8), None);
        assert_eq!(due(&value[..15], 7), None);
    }
}
