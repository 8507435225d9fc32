//! Header and footer of an index file, byte by byte (see `broker/docs/format.md`).

use crc32c::crc32c;
use headwater_proto::types::{GroupId, Incarnation, LogIndex, Offset, Term};

use crate::codec::{Reader, Writer};
use crate::log::LogId;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 64;

const HEADER_MAGIC: [u8; 8] = *b"HWINDEX\0";
const FOOTER_MAGIC: [u8; 8] = *b"HWSEAL\0\0";
const VERSION: u16 = 1;

/// Identity of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    pub incarnation: Incarnation,
    pub group: GroupId,
    /// Grows with each segment that the log begins, so that no file name is used twice.
    pub generation: u32,
    pub first_index: LogIndex,
    pub base_offset: Offset,
    /// The entry before the first, if there ever was one.
    pub previous: Option<LogId>,
}

impl IndexHeader {
    /// Encodes the header; the checksum that seeds those of the entries is its last word.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut w = Writer::default();
        w.bytes(&HEADER_MAGIC).u16(VERSION).u16(0).u32(self.generation);
        w.bytes(&self.incarnation.0).bytes(&self.group.to_bytes()).u32(u32::from(self.previous.is_some()));
        let previous = self.previous.unwrap_or_default();
        w.u64(self.first_index.0).i64(self.base_offset.0).u64(previous.term.0).u64(previous.index.0);
        seal(w)
    }

    /// Checksum of the encoded header.
    #[must_use]
    pub fn seed(&self) -> u32 {
        crc32c(&self.encode()[..HEADER_BYTES - 4])
    }

    /// The inverse of [`IndexHeader::encode`]; `None` when the bytes do not prove to be a header of
    /// this version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(unseal::<HEADER_BYTES>(bytes, 0)?);
        if r.array()? != HEADER_MAGIC || r.u16()? != VERSION {
            return None;
        }
        r.u16()?;
        let generation = r.u32()?;
        let incarnation = Incarnation(r.array()?);
        let group = GroupId::from_bytes(r.array()?);
        let has_previous = r.u32()? == 1;
        let (first_index, base_offset) = (LogIndex(r.u64()?), Offset(r.i64()?));
        let previous = LogId { term: Term(r.u64()?), index: LogIndex(r.u64()?) };
        let previous = has_previous.then_some(previous);
        Some(Self { incarnation, group, generation, first_index, base_offset, previous })
    }
}

/// What a sealed segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexFooter {
    pub entry_count: u32,
    pub last_term: Term,
    /// Bytes of the segment file that count; what the file holds beyond is void.
    pub data_bytes: u64,
    pub next_offset: Offset,
    /// Largest timestamp of its data batches, -1 without any.
    pub max_timestamp: i64,
    /// Largest timestamp of its first data batch, -1 without any.
    pub first_timestamp: i64,
    /// CRC-32C of the encoded entries, seeded with the header's checksum.
    pub entries_crc: u32,
}

impl IndexFooter {
    /// Encodes the footer of the file whose header has checksum `seed`.
    #[must_use]
    pub fn encode(&self, seed: u32) -> [u8; FOOTER_BYTES] {
        let mut w = Writer::default();
        w.bytes(&FOOTER_MAGIC).u32(self.entry_count).u32(self.last_term.0 as u32).u64(self.data_bytes);
        w.i64(self.next_offset.0).i64(self.max_timestamp).i64(self.first_timestamp);
        w.u32(self.entries_crc);
        seal_seeded(w, seed)
    }

    /// The inverse of [`IndexFooter::encode`]; `None` when the bytes do not prove to be the footer of
    /// that file.
    #[must_use]
    pub fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let mut r = Reader::new(unseal::<FOOTER_BYTES>(bytes, seed)?);
        if r.array()? != FOOTER_MAGIC {
            return None;
        }
        Some(Self {
            entry_count: r.u32()?,
            last_term: Term(u64::from(r.u32()?)),
            data_bytes: r.u64()?,
            next_offset: Offset(r.i64()?),
            max_timestamp: r.i64()?,
            first_timestamp: r.i64()?,
            entries_crc: r.u32()?,
        })
    }
}

fn seal<const N: usize>(w: Writer) -> [u8; N] {
    seal_seeded(w, 0)
}

/// Pads with zeros to `N` bytes, of which the last four are the checksum of the others.
fn seal_seeded<const N: usize>(w: Writer, seed: u32) -> [u8; N] {
    let content = w.finish();
    let mut out = [0; N];
    out[..content.len()].copy_from_slice(&content);
    let crc = crc32c::crc32c_append(seed, &out[..N - 4]);
    out[N - 4..].copy_from_slice(&crc.to_be_bytes());
    out
}

fn unseal<const N: usize>(bytes: &[u8], seed: u32) -> Option<&[u8]> {
    let bytes: &[u8; N] = bytes.try_into().ok()?;
    let (content, crc) = bytes.split_at(N - 4);
    (crc == crc32c::crc32c_append(seed, content).to_be_bytes()).then_some(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use headwater_proto::types::{PartitionId, TopicId};

    use super::*;

    fn header() -> IndexHeader {
        IndexHeader {
            incarnation: Incarnation([3; 16]),
            group: GroupId { topic_id: TopicId([7; 16]), partition: PartitionId(5) },
            generation: 9,
            first_index: LogIndex(12),
            base_offset: Offset(3_000),
            previous: Some(LogId { term: Term(2), index: LogIndex(11) }),
        }
    }

    #[test]
    fn header_and_footer_read_back_and_no_flipped_bit_passes() {
        let bytes = header().encode();
        assert_eq!(IndexHeader::decode(&bytes), Some(header()));
        let footer = IndexFooter {
            entry_count: 4,
            last_term: Term(2),
            data_bytes: 400,
            next_offset: Offset(3_040),
            max_timestamp: 17,
            first_timestamp: 11,
            entries_crc: 99,
        };
        let sealed = footer.encode(header().seed());
        assert_eq!(IndexFooter::decode(&sealed, header().seed()), Some(footer));
        assert_eq!(IndexFooter::decode(&sealed, 1), None, "a footer of another file");
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(IndexHeader::decode(&flipped), None, "bit {bit}");
        }
    }
}
