//! The facts that a log keeps in the journal, beside its files. Each begins with a version.

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset, Term};

use super::{Damage, DamagedRange, LogId, TailCut};
use crate::codec::{Reader, Writer};

const VERSION: u16 = 1;
/// More ranges than a report can use; a bound on what a record may make us allocate.
const DAMAGED_RANGES_MAX: u32 = 10_000;

/// How far the log was durable when a flush round ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DurablePoint {
    /// Number of the last cut before the round; a cut with a higher one makes this point void.
    pub cuts: u64,
    /// Every entry below this index was durable.
    pub next_index: LogIndex,
    pub next_offset: Offset,
    /// First index of the last segment then, for the case that its index file is lost.
    pub segment_first_index: LogIndex,
    pub segment_generation: u32,
}

/// A truncation. It applies to every segment of a lower generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Counts the cuts of this log, from 1.
    pub number: u64,
    /// The first index that was cut.
    pub next_index: LogIndex,
    /// The first generation that may hold it again.
    pub generation: u32,
    /// The durable point, lowered by the cut.
    pub durable_next_index: LogIndex,
}

/// How far the log was purged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Purged {
    pub upto: LogId,
    /// Base offset of what follows.
    pub next_offset: Offset,
    /// The first generation that a segment behind an emptied log may have.
    pub generation: u32,
    /// First index of the first segment that was kept, for the case that its index file is lost.
    pub segment_first_index: LogIndex,
    /// Its generation: every lower one was deleted.
    pub segment_generation: u32,
}

impl DurablePoint {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u16(VERSION).u64(self.cuts).u64(self.next_index.0).i64(self.next_offset.0);
        w.u64(self.segment_first_index.0).u32(self.segment_generation);
        w.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = versioned(bytes)?;
        Some(Self {
            cuts: r.u64()?,
            next_index: LogIndex(r.u64()?),
            next_offset: Offset(r.i64()?),
            segment_first_index: LogIndex(r.u64()?),
            segment_generation: r.u32()?,
        })
    }
}

impl Cut {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u16(VERSION).u64(self.number).u64(self.next_index.0);
        w.u32(self.generation).u64(self.durable_next_index.0);
        w.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = versioned(bytes)?;
        Some(Self {
            number: r.u64()?,
            next_index: LogIndex(r.u64()?),
            generation: r.u32()?,
            durable_next_index: LogIndex(r.u64()?),
        })
    }
}

impl Purged {
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u16(VERSION).u64(self.upto.term.0).u64(self.upto.index.0).i64(self.next_offset.0);
        w.u32(self.generation).u64(self.segment_first_index.0).u32(self.segment_generation);
        w.finish().into()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = versioned(bytes)?;
        Some(Self {
            upto: log_id(&mut r)?,
            next_offset: Offset(r.i64()?),
            generation: r.u32()?,
            segment_first_index: LogIndex(r.u64()?),
            segment_generation: r.u32()?,
        })
    }
}

pub(crate) fn encode_tail_cut(cut: TailCut) -> Bytes {
    let last = cut.last.unwrap_or_default();
    let mut w = Writer::default();
    w.u16(VERSION).u8(u8::from(cut.last.is_some())).u64(last.term.0).u64(last.index.0);
    w.finish().into()
}

pub(crate) fn decode_tail_cut(bytes: &[u8]) -> Option<TailCut> {
    let mut r = versioned(bytes)?;
    let present = r.u8()? == 1;
    let last = log_id(&mut r)?;
    Some(TailCut { last: present.then_some(last) })
}

pub(crate) fn encode_damage(damage: &Damage) -> Bytes {
    let mut w = Writer::default();
    w.u16(VERSION).u8(u8::from(damage.accepted)).u8(u8::from(damage.end_missing_below.is_some()));
    w.u64(damage.end_missing_below.unwrap_or_default().0).u32(damage.ranges.len() as u32);
    for range in &damage.ranges {
        w.u64(range.first_index.0).u64(range.last_index.0).i64(range.first_offset.0).i64(range.next_offset.0);
        w.u64(range.position).u16(range.file.len() as u16).bytes(range.file.as_bytes());
    }
    w.finish().into()
}

pub(crate) fn decode_damage(bytes: &[u8]) -> Option<Damage> {
    let mut r = versioned(bytes)?;
    let accepted = r.u8()? == 1;
    let end_missing = r.u8()? == 1;
    let below = LogIndex(r.u64()?);
    let count = r.u32()?.min(DAMAGED_RANGES_MAX);
    let mut ranges = Vec::new();
    for _ in 0..count {
        let (first_index, last_index) = (LogIndex(r.u64()?), LogIndex(r.u64()?));
        let (first_offset, next_offset) = (Offset(r.i64()?), Offset(r.i64()?));
        let position = r.u64()?;
        let length = usize::from(r.u16()?);
        let file = String::from_utf8_lossy(r.take(length)?).into_owned();
        ranges.push(DamagedRange { first_index, last_index, first_offset, next_offset, file, position });
    }
    Some(Damage { ranges, end_missing_below: end_missing.then_some(below), accepted })
}

fn versioned(bytes: &[u8]) -> Option<Reader<'_>> {
    let mut r = Reader::new(bytes);
    (r.u16()? == VERSION).then_some(r)
}

fn log_id(r: &mut Reader<'_>) -> Option<LogId> {
    Some(LogId { term: Term(r.u64()?), index: LogIndex(r.u64()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_read_back() {
        let id = LogId { term: Term(4), index: LogIndex(9) };
        let point = DurablePoint {
            cuts: 2,
            next_index: LogIndex(9),
            next_offset: Offset(70),
            segment_first_index: LogIndex(3),
            segment_generation: 5,
        };
        assert_eq!(DurablePoint::decode(&point.encode()), Some(point));
        let cut = Cut { number: 1, next_index: LogIndex(7), generation: 4, durable_next_index: LogIndex(6) };
        assert_eq!(Cut::decode(&cut.encode()), Some(cut));
        let purged = Purged {
            upto: id,
            next_offset: Offset(8),
            generation: 2,
            segment_first_index: LogIndex(7),
            segment_generation: 1,
        };
        assert_eq!(Purged::decode(&purged.encode()), Some(purged));
        let tail = TailCut { last: Some(id) };
        assert_eq!(decode_tail_cut(&encode_tail_cut(tail)), Some(tail));
        let range = DamagedRange {
            first_index: LogIndex(2),
            last_index: LogIndex(3),
            first_offset: Offset(20),
            next_offset: Offset(40),
            file: "00000000000000000000.1.log".to_owned(),
            position: 777,
        };
        let damage = Damage { ranges: vec![range], end_missing_below: Some(LogIndex(50)), accepted: true };
        assert_eq!(decode_damage(&encode_damage(&damage)), Some(damage));
        assert_eq!(Cut::decode(&[0, 2]), None, "another version");
    }
}
