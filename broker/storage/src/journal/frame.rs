//! One frame of the journal: the changes of one flush round. All integers are big-endian.
//!
//! ```text
//! 0  u32 magic "HWJ1"            16 u64 generation
//! 4  u32 CRC-32C of all from 8   24 u64 sequence
//! 8  u32 CRC of the frame before 32 body: changes
//! 12 u32 body bytes
//! ```
//! A change is `1` kind u8, length u32, value (a fact of the node); `2` group (20 bytes), then the same; or
//! `3` group (all its facts are gone).

use bytes::{Buf, BufMut, Bytes};
use headwater_proto::types::GroupId;

use super::Change;

const MAGIC: u32 = 0x4857_4a31;
const HEADER_BYTES: usize = 32;
const GROUP_BYTES: usize = 20;

/// A frame begins at a multiple of this, so that no write touches a sector that holds an older frame.
pub const ALIGN_BYTES: u64 = 512;

const NODE_FACT: u8 = 1;
const GROUP_FACT: u8 = 2;
const GROUP_REMOVED: u8 = 3;

/// Where a frame stands in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub generation: u64,
    /// One more than that of the frame before, across generations.
    pub sequence: u64,
    /// The CRC of the frame before.
    pub previous_crc: u32,
}

/// An intact frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub link: Link,
    pub crc: u32,
    pub changes: Vec<Change>,
    /// What it takes up, a multiple of [`ALIGN_BYTES`].
    pub bytes: u64,
}

/// The bytes of a frame, without padding, and its CRC.
pub fn encode<'a>(link: Link, changes: impl IntoIterator<Item = &'a Change>) -> (Vec<u8>, u32) {
    let mut frame = Vec::with_capacity(256);
    frame.put_u32(MAGIC);
    frame.put_u32(0);
    frame.put_u32(link.previous_crc);
    frame.put_u32(0);
    frame.put_u64(link.generation);
    frame.put_u64(link.sequence);
    changes.into_iter().for_each(|change| put_change(&mut frame, change));
    let body_bytes = (frame.len() - HEADER_BYTES) as u32;
    frame[12..16].copy_from_slice(&body_bytes.to_be_bytes());
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_be_bytes());
    (frame, crc)
}

/// The frame at the beginning of `bytes`; `None` if it is not intact.
pub fn decode(bytes: &Bytes) -> Option<Frame> {
    let mut header = bytes.get(..HEADER_BYTES)?;
    if header.get_u32() != MAGIC {
        return None;
    }
    let crc = header.get_u32();
    let previous_crc = header.get_u32();
    let end = HEADER_BYTES.checked_add(header.get_u32() as usize)?;
    if end > bytes.len() || crc32c::crc32c(&bytes[8..end]) != crc {
        return None;
    }
    let link = Link { generation: header.get_u64(), sequence: header.get_u64(), previous_crc };
    let mut body = bytes.slice(HEADER_BYTES..end);
    let mut changes = Vec::new();
    while body.has_remaining() {
        changes.push(take_change(&mut body)?);
    }
    Some(Frame { link, crc, changes, bytes: padded(end) })
}

/// The room that a frame takes up.
pub fn padded(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(ALIGN_BYTES)
}

fn put_change(frame: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Put { group, kind, value } => {
            match group {
                None => frame.put_u8(NODE_FACT),
                Some(group) => {
                    frame.put_u8(GROUP_FACT);
                    frame.put_slice(&group.to_bytes());
                }
            }
            frame.put_u8(*kind);
            frame.put_u32(value.len() as u32);
            frame.put_slice(value);
        }
        Change::RemoveGroup(group) => {
            frame.put_u8(GROUP_REMOVED);
            frame.put_slice(&group.to_bytes());
        }
    }
}

fn take_change(body: &mut Bytes) -> Option<Change> {
    let tag = body.try_get_u8().ok()?;
    let group = match tag {
        NODE_FACT => None,
        GROUP_FACT | GROUP_REMOVED => {
            let mut group = [0; GROUP_BYTES];
            body.try_copy_to_slice(&mut group).ok()?;
            Some(GroupId::from_bytes(group))
        }
        _ => return None,
    };
    if let (GROUP_REMOVED, Some(group)) = (tag, group) {
        return Some(Change::RemoveGroup(group));
    }
    let kind = body.try_get_u8().ok()?;
    let value_bytes = body.try_get_u32().ok()? as usize;
    if value_bytes > body.remaining() {
        return None;
    }
    // Copied: a slice would keep the whole journal in memory.
    let value = Bytes::copy_from_slice(&body.split_to(value_bytes));
    Some(Change::Put { group, kind, value })
}
