//! The bytes that consensus keeps: votes and committed entries in the journal, memberships in the log,
//! a replica's creation record, and the tables from which a group's state is rebuilt.
//!
//! Integers big-endian, each value behind a `u16` version; an entry is (term `u64`, index `u64`), index 0
//! meaning "none". Invariants: what was written by this version is read by every later one; bytes that
//! were not are an error, and no count is believed beyond what remains.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headwater_core::DecodeError;
use headwater_proto::types::{BrokerId, Incarnation, LogIndex, Offset, ReplicaId, Term};
use headwater_storage::log::LogId;

use crate::types::{Membership, Peer, RaftVote, StoredMembership, from_raft, to_raft};

const VERSION: u16 = 0;
const PEER_BYTES: usize = 8 + 4 + 16;
const SECTION_HEAD_BYTES: usize = 2 + 4;

/// Sections of the tables. A section that is not known belongs to a newer version.
mod section {
    pub(super) const POSITION: u16 = 1;
    pub(super) const MEMBERSHIP: u16 = 2;
    pub(super) const MACHINE: u16 = 3;
}

/// What makes a replica: its id and the group's first voters, fixed when it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    pub replica_id: ReplicaId,
    pub voters: BTreeMap<ReplicaId, Peer>,
}

/// A group's state as of one of its entries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tables {
    /// The last entry that the state holds.
    pub(crate) at: LogId,
    pub(crate) next_offset: Offset,
    pub(crate) membership: StoredMembership,
    /// The machine's own encoding.
    pub(crate) machine: Bytes,
}

pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    let mut out = versioned(19);
    put_vote(&mut out, vote);
    out.freeze()
}

pub(crate) fn decode_vote(bytes: &Bytes) -> Result<RaftVote, DecodeError> {
    let mut input = Input::versioned("vote", bytes)?;
    let vote = input.vote()?;
    input.end()?;
    Ok(vote)
}

pub(crate) fn encode_log_id(id: LogId) -> Bytes {
    let mut out = versioned(18);
    put_log_id(&mut out, id);
    out.freeze()
}

pub(crate) fn decode_log_id(bytes: &Bytes) -> Result<LogId, DecodeError> {
    let mut input = Input::versioned("committed entry", bytes)?;
    let id = input.log_id()?;
    input.end()?;
    Ok(id)
}

pub(crate) fn encode_creation(creation: &Creation) -> Bytes {
    let mut out = versioned(64);
    out.put_u64(creation.replica_id.get());
    put_peers(&mut out, creation.voters.iter());
    out.freeze()
}

pub(crate) fn decode_creation(bytes: &Bytes) -> Result<Creation, DecodeError> {
    let mut input = Input::versioned("creation record", bytes)?;
    let replica_id = ReplicaId(input.u64()?);
    let voters = input.peers()?;
    input.end()?;
    Ok(Creation { replica_id, voters })
}

pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let mut out = versioned(64);
    put_membership(&mut out, membership);
    out.freeze()
}

pub(crate) fn decode_membership(bytes: &Bytes) -> Result<Membership, DecodeError> {
    let mut input = Input::versioned("membership", bytes)?;
    let membership = input.membership()?;
    input.end()?;
    Ok(membership)
}

impl Tables {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = versioned(128 + self.machine.len());
        put_section(&mut out, section::POSITION, |out| {
            put_log_id(out, self.at);
            out.put_i64(self.next_offset.get());
        });
        put_section(&mut out, section::MEMBERSHIP, |out| {
            put_log_id(out, self.membership.log_id().as_ref().map(from_raft).unwrap_or_default());
            put_membership(out, self.membership.membership());
        });
        put_section(&mut out, section::MACHINE, |out| out.put_slice(&self.machine));
        out.freeze()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut input = Input::versioned("tables", bytes)?;
        let (mut position, mut membership, mut machine) = (None, None, None);
        while input.rest.has_remaining() {
            let (tag, mut body) = input.section()?;
            match tag {
                section::POSITION => {
                    position = Some((body.log_id()?, Offset(body.i64()?)));
                    body.end()?;
                }
                section::MEMBERSHIP => {
                    let log_id = body.log_id()?;
                    membership = Some(StoredMembership::new(to_raft(log_id), body.membership()?));
                    body.end()?;
                }
                section::MACHINE => machine = Some(body.rest),
                _ => return Err(input.malformed(format!("section {tag} is not known"))),
            }
        }
        match (position, membership, machine) {
            (Some((at, next_offset)), Some(membership), Some(machine)) => {
                Ok(Self { at, next_offset, membership, machine })
            }
            _ => Err(DecodeError::Truncated { what: "tables" }),
        }
    }
}

fn versioned(capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(capacity);
    out.put_u16(VERSION);
    out
}

pub(crate) fn put_vote(out: &mut BytesMut, vote: &RaftVote) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.voted_for.get());
    out.put_u8(vote.committed.into());
}

pub(crate) fn put_log_id(out: &mut BytesMut, id: LogId) {
    out.put_u64(id.term.get());
    out.put_u64(id.index.get());
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u32(configs.len() as u32);
    for config in configs {
        out.put_u32(config.len() as u32);
        for replica in config {
            out.put_u64(replica.get());
        }
    }
    put_peers(out, membership.nodes());
}

fn put_peers<'a>(out: &mut BytesMut, peers: impl Iterator<Item = (&'a ReplicaId, &'a Peer)>) {
    let count_at = out.len();
    out.put_u32(0);
    let mut count = 0_u32;
    for (replica, peer) in peers {
        out.put_u64(replica.get());
        out.put_i32(peer.broker_id.get());
        out.put_slice(&peer.incarnation.0);
        count += 1;
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_be_bytes());
}

fn put_section(out: &mut BytesMut, tag: u16, body: impl FnOnce(&mut BytesMut)) {
    out.put_u16(tag);
    let length_at = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Bytes being read, and what they are said to be.
pub(crate) struct Input {
    what: &'static str,
    rest: Bytes,
}

impl Input {
    pub(crate) const fn new(what: &'static str, bytes: Bytes) -> Self {
        Self { what, rest: bytes }
    }

    fn versioned(what: &'static str, bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut input = Self::new(what, bytes.clone());
        let version = input.need(2)?.get_u16();
        if version > VERSION {
            return Err(DecodeError::Version { what, found: version.into(), supported: VERSION.into() });
        }
        Ok(input)
    }

    fn need(&mut self, bytes: usize) -> Result<&mut Bytes, DecodeError> {
        if self.rest.remaining() < bytes {
            return Err(DecodeError::Truncated { what: self.what });
        }
        Ok(&mut self.rest)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.need(1)?.get_u8())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.need(4)?.get_u32())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(self.need(8)?.get_u64())
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            flag => Err(self.malformed(format!("flag {flag}"))),
        }
    }

    pub(crate) fn vote(&mut self) -> Result<RaftVote, DecodeError> {
        let term = self.u64()?;
        let voted_for = ReplicaId(self.u64()?);
        Ok(match self.flag()? {
            true => RaftVote::new_committed(term, voted_for),
            false => RaftVote::new(term, voted_for),
        })
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(self.need(8)?.get_i64())
    }

    /// A count of things of `each` bytes, all of which are there.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, DecodeError> {
        let count = self.need(4)?.get_u32() as usize;
        if count > self.rest.remaining() / each {
            return Err(DecodeError::Truncated { what: self.what });
        }
        Ok(count)
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId, DecodeError> {
        Ok(LogId { term: Term(self.u64()?), index: LogIndex(self.u64()?) })
    }

    fn peers(&mut self) -> Result<BTreeMap<ReplicaId, Peer>, DecodeError> {
        let count = self.count(PEER_BYTES)?;
        let mut peers = BTreeMap::new();
        for _ in 0..count {
            let replica = ReplicaId(self.u64()?);
            let bytes = self.need(20)?;
            let broker_id = BrokerId(bytes.get_i32());
            let mut incarnation = Incarnation::NONE;
            bytes.copy_to_slice(&mut incarnation.0);
            peers.insert(replica, Peer { broker_id, incarnation });
        }
        Ok(peers)
    }

    fn membership(&mut self) -> Result<Membership, DecodeError> {
        let mut configs = Vec::new();
        for _ in 0..self.count(4)? {
            let mut config = BTreeSet::new();
            for _ in 0..self.count(8)? {
                config.insert(ReplicaId(self.u64()?));
            }
            configs.push(config);
        }
        let peers = self.peers()?;
        if configs.is_empty() && peers.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, peers).map_err(|error| self.malformed(error.to_string()))
    }

    fn section(&mut self) -> Result<(u16, Self), DecodeError> {
        let head = self.need(SECTION_HEAD_BYTES)?;
        let tag = head.get_u16();
        let length = head.get_u32() as usize;
        let rest = self.need(length)?.split_to(length);
        Ok((tag, Self { what: self.what, rest }))
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.rest.remaining() {
            0 => Ok(()),
            more => Err(self.malformed(format!("{more} bytes too many"))),
        }
    }

    pub(crate) fn malformed(&self, reason: String) -> DecodeError {
        DecodeError::Malformed { what: self.what, reason }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn any_peers() -> impl Strategy<Value = BTreeMap<ReplicaId, Peer>> {
        let peer = (any::<i32>(), any::<[u8; 16]>()).prop_map(|(broker, bytes)| Peer {
            broker_id: BrokerId(broker),
            incarnation: Incarnation(bytes),
        });
        prop::collection::btree_map(any::<u64>().prop_map(ReplicaId), peer, 1..5)
    }

    fn any_log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), 1..u64::MAX)
            .prop_map(|(term, index)| LogId { term: Term(term), index: LogIndex(index) })
    }

    /// One configuration or two, and perhaps learners beside them.
    fn any_membership() -> impl Strategy<Value = Membership> {
        (any_peers(), 1_usize..5, any::<bool>()).prop_map(|(peers, voters, joint)| {
            let config: BTreeSet<_> = peers.keys().take(voters).copied().collect();
            let configs = if joint { vec![config.clone(), config] } else { vec![config] };
            Membership::new(configs, peers).unwrap()
        })
    }

    fn any_tables() -> impl Strategy<Value = Tables> {
        let membership = (any_log_id(), any_membership());
        (any_log_id(), any::<i64>(), membership, any::<Vec<u8>>()).prop_map(
            |(at, offset, (id, members), machine)| {
                let membership = StoredMembership::new(to_raft(id), members);
                Tables { at, next_offset: Offset(offset), membership, machine: machine.into() }
            },
        )
    }

    proptest! {
        #[test]
        fn everything_survives_its_encoding(
            (term, node, committed) in any::<(u64, u64, bool)>(),
            id in any_log_id(),
            membership in any_membership(),
            (replica, voters) in (any::<u64>(), any_peers()),
            tables in any_tables(),
        ) {
            let vote = RaftVote { committed, ..RaftVote::new(term, ReplicaId(node)) };
            prop_assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
            prop_assert_eq!(decode_log_id(&encode_log_id(id)).unwrap(), id);
            prop_assert_eq!(decode_membership(&encode_membership(&membership)).unwrap(), membership);
            let creation = Creation { replica_id: ReplicaId(replica), voters };
            prop_assert_eq!(decode_creation(&encode_creation(&creation)).unwrap(), creation);
            prop_assert_eq!(Tables::decode(&tables.encode()).unwrap(), tables);
        }

        #[test]
        fn damaged_tables_are_an_error_or_other_tables(
            tables in any_tables(),
            cut in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let good = tables.encode();
            let mut bytes = good.to_vec();
            let at = flip.index(bytes.len());
            bytes[at] ^= 0x80;
            let _ = Tables::decode(&bytes.into());
            prop_assert!(Tables::decode(&good.slice(..cut.index(good.len()))).is_err());
        }

        #[test]
        fn garbage_never_takes_memory_it_does_not_fill(bytes in any::<Vec<u8>>()) {
            let bytes = Bytes::from([&[0, 0], bytes.as_slice()].concat());
            let _ = (decode_vote(&bytes), decode_log_id(&bytes), decode_creation(&bytes));
            let _ = (decode_membership(&bytes), Tables::decode(&bytes));
        }
    }
}
