//! One entry of a segment's index: where a batch lies, and what finds it by offset and by time.
//!
//! Invariant: an entry proves itself. Its checksum covers its fields and its log index, seeded with the checksum of
//! its file's header, so that an entry of another place, file or log never passes.

use crc32c::crc32c_append;

/// Bytes of an encoded entry.
pub const ENTRY_BYTES: usize = 48;

/// The fields of an index entry. All deltas are relative to the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Byte position of the batch in the segment file.
    pub position: u32,
    pub size_bytes: u32,
    /// Base offset of the batch minus that of the segment.
    pub offset_delta: u32,
    /// Offsets that the batch consumes.
    pub offset_count: u32,
    pub term: u32,
    /// CRC-32C of the batch's 61 header bytes as stored: the stamped ones lie outside Kafka's own CRC.
    pub header_crc: u32,
    /// Entries without offsets in the segment up to this one, itself included: what ends a reader's run.
    pub control_count: u32,
    /// Largest timestamp in the batch; -1 for a batch without records.
    pub max_timestamp: i64,
    /// Largest timestamp of the data batches of the segment up to this one; -1 before the first. Never
    /// falls, so that the index is searched by time too.
    pub running_timestamp: i64,
}

impl IndexEntry {
    /// Where the batch ends in the segment file.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.position) + u64::from(self.size_bytes)
    }

    /// Delta of the offset that follows the batch.
    #[must_use]
    pub fn next_delta(&self) -> u64 {
        u64::from(self.offset_delta) + u64::from(self.offset_count)
    }

    /// Encodes the entry of log index `index` in the file whose header has checksum `seed`.
    #[must_use]
    pub fn encode(&self, seed: u32, index: u64) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let words = [
            self.position,
            self.size_bytes,
            self.offset_delta,
            self.offset_count,
            self.term,
            self.header_crc,
            self.control_count,
        ];
        for (slot, word) in out.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_be_bytes());
        }
        out[28..36].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[36..44].copy_from_slice(&self.running_timestamp.to_be_bytes());
        let crc = checksum(&out, seed, index);
        out[44..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// The inverse of [`IndexEntry::encode`]; `None` when the bytes do not prove to be that entry.
    #[must_use]
    pub fn decode(bytes: &[u8], seed: u32, index: u64) -> Option<Self> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().ok()?;
        (word(bytes, 44) == checksum(bytes, seed, index)).then(|| Self {
            position: word(bytes, 0),
            size_bytes: word(bytes, 4),
            offset_delta: word(bytes, 8),
            offset_count: word(bytes, 12),
            term: word(bytes, 16),
            header_crc: word(bytes, 20),
            control_count: word(bytes, 24),
            max_timestamp: long(bytes, 28),
            running_timestamp: long(bytes, 36),
        })
    }
}

fn checksum(bytes: &[u8; ENTRY_BYTES], seed: u32, index: u64) -> u32 {
    crc32c_append(crc32c_append(seed, &index.to_be_bytes()), &bytes[..44])
}

fn word(bytes: &[u8; ENTRY_BYTES], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn long(bytes: &[u8; ENTRY_BYTES], at: usize) -> i64 {
    (u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = IndexEntry> {
        (any::<[u32; 7]>(), any::<[i64; 2]>()).prop_map(|(w, t)| IndexEntry {
            position: w[0],
            size_bytes: w[1],
            offset_delta: w[2],
            offset_count: w[3],
            term: w[4],
            header_crc: w[5],
            control_count: w[6],
            max_timestamp: t[0],
            running_timestamp: t[1],
        })
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_only_as_itself(e in entry(), seed: u32, index: u64, bit in 0..ENTRY_BYTES * 8) {
            let mut bytes = e.encode(seed, index);
            prop_assert_eq!(IndexEntry::decode(&bytes, seed, index), Some(e));
            prop_assert_eq!(IndexEntry::decode(&bytes, seed, index ^ 1), None);
            prop_assert_eq!(IndexEntry::decode(&bytes, seed ^ 1, index), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(IndexEntry::decode(&bytes, seed, index), None);
        }
    }

    #[test]
    fn zeroed_space_is_no_entry() {
        assert_eq!(IndexEntry::decode(&[0; ENTRY_BYTES], 0, 0), None);
    }
}
