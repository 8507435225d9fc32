//! Entries of Headwater's own, and their encoding as the payload of a zero-record control batch.
//!
//! Payload: kind `u16`, version `u16`, body; integers big-endian. Invariants: a control entry consumes
//! no offset and is never sent to a client; what a kind and version mean never changes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headwater_proto::types::{Offset, ProducerId};

use crate::machine::DecodeError;

const BLANK: u16 = 0;
const MEMBERSHIP: u16 = 1;
const LOG_START: u16 = 2;
const PRODUCER_EXPIRY: u16 = 3;
const VOID: u16 = 4;
const VERSION: u16 = 0;
const WHAT: &str = "control entry";

/// An entry that is not records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEntry {
    /// A new leader's first entry.
    Blank,
    /// Raft's configuration, in consensus' own encoding.
    Membership(Bytes),
    /// No reader sees records below this offset any more.
    LogStart(Offset),
    /// These producers are forgotten, on all replicas alike.
    ProducerExpiry(Vec<ProducerId>),
    /// A proposal that the leader's log refused as stale: its place is taken, its content is not.
    Void,
}

impl ControlEntry {
    /// The payload of the batch that carries this entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16);
        match self {
            Self::Blank => put_kind(&mut out, BLANK),
            Self::Membership(membership) => {
                put_kind(&mut out, MEMBERSHIP);
                out.put_slice(membership);
            }
            Self::LogStart(offset) => {
                put_kind(&mut out, LOG_START);
                out.put_i64(offset.get());
            }
            Self::ProducerExpiry(producers) => {
                put_kind(&mut out, PRODUCER_EXPIRY);
                for producer in producers {
                    out.put_i64(producer.get());
                }
            }
            Self::Void => put_kind(&mut out, VOID),
        }
        out.freeze()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// A kind or version that is not known, or a body of another length than its kind has.
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        let mut body = payload.clone();
        if body.remaining() < 4 {
            return Err(DecodeError::Truncated { what: WHAT });
        }
        let kind = body.get_u16();
        let version = body.get_u16();
        if version > VERSION {
            return Err(DecodeError::Version {
                what: WHAT,
                found: version.into(),
                supported: VERSION.into(),
            });
        }
        match kind {
            BLANK if body.is_empty() => Ok(Self::Blank),
            VOID if body.is_empty() => Ok(Self::Void),
            MEMBERSHIP => Ok(Self::Membership(body)),
            LOG_START if body.len() == 8 => Ok(Self::LogStart(Offset(body.get_i64()))),
            PRODUCER_EXPIRY if body.len().is_multiple_of(8) => {
                let mut producers = Vec::with_capacity(body.len() / 8);
                while body.has_remaining() {
                    producers.push(ProducerId(body.get_i64()));
                }
                Ok(Self::ProducerExpiry(producers))
            }
            BLANK | VOID | LOG_START | PRODUCER_EXPIRY => Err(malformed(kind, body.len())),
            _ => Err(DecodeError::Malformed { what: WHAT, reason: format!("kind {kind} is not known") }),
        }
    }
}

fn put_kind(out: &mut BytesMut, kind: u16) {
    out.put_u16(kind);
    out.put_u16(VERSION);
}

fn malformed(kind: u16, body_bytes: usize) -> DecodeError {
    DecodeError::Malformed {
        what: WHAT,
        reason: format!("kind {kind} cannot have a body of {body_bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn any_entry() -> impl Strategy<Value = ControlEntry> {
        prop_oneof![
            Just(ControlEntry::Blank),
            Just(ControlEntry::Void),
            any::<Vec<u8>>().prop_map(|bytes| ControlEntry::Membership(bytes.into())),
            any::<i64>().prop_map(|offset| ControlEntry::LogStart(Offset(offset))),
            prop::collection::vec(any::<i64>().prop_map(ProducerId), 0..20)
                .prop_map(ControlEntry::ProducerExpiry),
        ]
    }

    proptest! {
        #[test]
        fn every_entry_survives_its_encoding(entry in any_entry()) {
            prop_assert_eq!(ControlEntry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn garbage_is_an_error_or_an_entry_with_the_same_bytes(bytes in any::<Vec<u8>>()) {
            let bytes = Bytes::from(bytes);
            if let Ok(entry) = ControlEntry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let payload = Bytes::from_static(&[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(
            ControlEntry::decode(&payload),
            Err(DecodeError::Version { what: WHAT, found: 1, supported: 0 })
        );
    }
}
