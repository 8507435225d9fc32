//! The bytes of what replicas say to one another.
//!
//! A message is a version (`u16`), the length of its head (`u32`), the head's CRC-32C (`u32`), the head, and what
//! follows it: the batches of an append, the tables of a snapshot. Integers are big-endian; the head's first byte
//! says which message it is. Invariants: batches are handed over as the slices of the log that they are, and are
//! checked before Raft sees them: CRC-32C, length, and the stamps that the CRC does not cover against the head, which
//! has its own; no count is believed beyond what remains; what a leader could not have said is an error.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headwater_core::DecodeError;
use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::types::{LogIndex, Offset, ReplicaId, Term};
use headwater_storage::log::LogId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::encoding::{Input, Tables, put_log_id, put_vote};
use crate::log_reader::stored;
use crate::peer::Body;
use crate::types::{Payload, RaftEntry, RaftLogId, RaftVote, StoredBatch, Types, from_raft, to_raft};

const VERSION: u16 = 0;
const PREFIX_BYTES: usize = 2 + 4 + 4;
/// Of one entry in the head of an append: term, base offset, length.
const ENTRY_BYTES: usize = 8 + 8 + 4;

/// What the log holds may have been written under other limits than today's: here only the bytes that are there count.
const ANY_BATCH: Limits = Limits {
    batch_bytes_max: usize::MAX,
    record_count_max: i32::MAX,
    decompressed_bytes_max: usize::MAX,
    header_count_max: i32::MAX,
};

/// Which message a head belongs to.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Tag {
    Append = 1,
    Appended = 2,
    Vote = 3,
    Voted = 4,
    Transfer = 5,
    Transferred = 6,
    Snapshot = 7,
    Installed = 8,
}

impl Tag {
    const fn what(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Appended => "answer to an append",
            Self::Vote => "request for a vote",
            Self::Voted => "answer to a request for a vote",
            Self::Transfer => "transfer of leadership",
            Self::Transferred => "answer to a transfer of leadership",
            Self::Snapshot => "snapshot",
            Self::Installed => "answer to a snapshot",
        }
    }
}

fn head(tag: Tag) -> BytesMut {
    let mut head = BytesMut::with_capacity(64);
    head.put_u8(tag as u8);
    head
}

fn message(head: &BytesMut, rest: impl IntoIterator<Item = Bytes>) -> Body {
    let mut first = BytesMut::with_capacity(PREFIX_BYTES + head.len());
    first.put_u16(VERSION);
    first.put_u32(head.len() as u32);
    first.put_u32(crc32c::crc32c(head));
    first.extend_from_slice(head);
    Body::from_pieces(std::iter::once(first.freeze()).chain(rest).collect())
}

/// The head of a message, and what follows it.
fn open(tag: Tag, mut message: Bytes) -> Result<(Input, Bytes), DecodeError> {
    let what = tag.what();
    if message.len() < PREFIX_BYTES {
        return Err(DecodeError::Truncated { what });
    }
    let version = message.get_u16();
    if version > VERSION {
        return Err(DecodeError::Version { what, found: version.into(), supported: VERSION.into() });
    }
    let (length, crc) = (message.get_u32() as usize, message.get_u32());
    if message.len() < length {
        return Err(DecodeError::Truncated { what });
    }
    let head = message.split_to(length);
    if crc32c::crc32c(&head) != crc {
        return Err(malformed(what, "the checksum of its head is wrong"));
    }
    let mut head = Input::new(what, head);
    match head.u8()? {
        found if found == tag as u8 => Ok((head, message)),
        found => Err(malformed(what, &format!("it is message {found}"))),
    }
}

/// A message that is nothing but its head.
fn only_head(tag: Tag, message: Bytes) -> Result<Input, DecodeError> {
    match open(tag, message)? {
        (head, rest) if rest.is_empty() => Ok(head),
        (_, rest) => Err(malformed(tag.what(), &format!("{} bytes too many", rest.len()))),
    }
}

fn malformed(what: &'static str, reason: &str) -> DecodeError {
    DecodeError::Malformed { what, reason: reason.to_owned() }
}

fn put_raft_id(out: &mut BytesMut, id: Option<&RaftLogId>) {
    put_log_id(out, id.map(from_raft).unwrap_or_default());
}

fn raft_id(input: &mut Input) -> Result<Option<RaftLogId>, DecodeError> {
    Ok(to_raft(input.log_id()?))
}

/// What a leader sends. `None`: an entry did not come from the log, which alone gives an entry its bytes.
pub(crate) fn encode_append<R>(request: &AppendEntriesRequest<Types<R>>) -> Option<Body>
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Append);
    put_vote(&mut head, &request.vote);
    put_raft_id(&mut head, request.prev_log_id.as_ref());
    put_raft_id(&mut head, request.leader_commit.as_ref());
    head.put_u32(request.entries.len() as u32);
    let mut batches = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let Payload::Stored(StoredBatch { base_offset, batch, .. }) = &entry.payload else { return None };
        head.put_u64(entry.log_id.leader_id.term);
        head.put_i64(base_offset.get());
        head.put_u32(batch.len() as u32);
        batches.push(batch.clone());
    }
    Some(message(&head, batches))
}

/// The entries of an append, each checked.
pub(crate) fn decode_append<R>(message: Bytes) -> Result<AppendEntriesRequest<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let what = Tag::Append.what();
    let (mut head, mut batches) = open(Tag::Append, message)?;
    let vote = leader(&mut head)?;
    let prev = head.log_id()?;
    let leader_commit = raft_id(&mut head)?;
    let count = head.count(ENTRY_BYTES)?;
    let mut entries = Vec::with_capacity(count);
    let (mut last, mut next_offset) = (prev, None);
    for _ in 0..count {
        let id = LogId { term: Term(head.u64()?), index: LogIndex(last.index.get().saturating_add(1)) };
        let base_offset = Offset(head.i64()?);
        let length = head.u32()? as usize;
        if batches.len() < length {
            return Err(DecodeError::Truncated { what });
        }
        if id.term < last.term || id.term.get() > vote.leader_id.term {
            return Err(malformed(what, &format!("an entry of {:?} behind one of {:?}", id.term, last.term)));
        }
        if next_offset.is_some_and(|next| next != base_offset) {
            return Err(malformed(what, "offsets are not dense"));
        }
        let stored = received(id.term, base_offset, batches.split_to(length))?;
        next_offset = Some(Offset(base_offset.get().saturating_add(stored.header.offset_count())));
        let log_id = to_raft(id).ok_or_else(|| malformed(what, "an entry without a place"))?;
        entries.push(RaftEntry { log_id, payload: Payload::Stored(stored) });
        last = id;
    }
    head.end()?;
    if !batches.is_empty() {
        return Err(malformed(what, &format!("{} bytes too many", batches.len())));
    }
    Ok(AppendEntriesRequest { vote, prev_log_id: to_raft(prev), entries, leader_commit })
}

/// A batch that came from another replica: as good as one from a producer, and stamped as its leader says.
fn received(term: Term, base_offset: Offset, batch: Bytes) -> Result<StoredBatch, DecodeError> {
    let what = "replicated batch";
    let batch = RecordBatch::validate(batch, &ANY_BATCH).map_err(|e| malformed(what, &e.to_string()))?;
    let header = batch.header();
    if base_offset.get() < 0 || header.base_offset != base_offset.get() {
        return Err(malformed(what, "it is stamped with another offset"));
    }
    if u64::try_from(header.partition_leader_epoch) != Ok(term.get()) {
        return Err(malformed(what, "it is stamped with another term"));
    }
    stored(base_offset, batch.into_bytes()).map_err(|reason| malformed(what, &reason))
}

/// The vote of a leader: it was granted.
fn leader(input: &mut Input) -> Result<RaftVote, DecodeError> {
    match input.vote()? {
        vote if vote.committed => Ok(vote),
        _ => Err(input.malformed("its sender was not elected".to_owned())),
    }
}

pub(crate) fn encode_appended<R>(answer: &AppendEntriesResponse<Types<R>>) -> Option<Body>
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Appended);
    match answer {
        AppendEntriesResponse::Success => head.put_u8(0),
        AppendEntriesResponse::Conflict => head.put_u8(1),
        AppendEntriesResponse::HigherVote(vote) => {
            head.put_u8(2);
            put_vote(&mut head, vote);
        }
        // Only a network may give this answer, and ours does not.
        AppendEntriesResponse::PartialSuccess(_) => return None,
    }
    Some(message(&head, []))
}

pub(crate) fn decode_appended<R>(message: Bytes) -> Result<AppendEntriesResponse<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let mut head = only_head(Tag::Appended, message)?;
    let answer = match head.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::Conflict,
        2 => AppendEntriesResponse::HigherVote(head.vote()?),
        answer => return Err(head.malformed(format!("answer {answer}"))),
    };
    head.end()?;
    Ok(answer)
}

pub(crate) fn encode_vote_request<R>(request: &VoteRequest<Types<R>>) -> Body
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Vote);
    put_vote(&mut head, &request.vote);
    put_raft_id(&mut head, request.last_log_id.as_ref());
    head.put_u8(request.leadership_transfer.into());
    message(&head, [])
}

pub(crate) fn decode_vote_request<R>(message: Bytes) -> Result<VoteRequest<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let mut head = only_head(Tag::Vote, message)?;
    let (vote, last_log_id) = (head.vote()?, raft_id(&mut head)?);
    let leadership_transfer = head.flag()?;
    head.end()?;
    if vote.committed {
        return Err(head.malformed("who asks has been elected".to_owned()));
    }
    Ok(VoteRequest { leadership_transfer, ..VoteRequest::new(vote, last_log_id) })
}

pub(crate) fn encode_voted<R>(answer: &VoteResponse<Types<R>>) -> Body
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Voted);
    put_vote(&mut head, &answer.vote);
    head.put_u8(answer.vote_granted.into());
    put_raft_id(&mut head, answer.last_log_id.as_ref());
    message(&head, [])
}

pub(crate) fn decode_voted<R>(message: Bytes) -> Result<VoteResponse<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let mut head = only_head(Tag::Voted, message)?;
    let (vote, vote_granted, last_log_id) = (head.vote()?, head.flag()?, raft_id(&mut head)?);
    head.end()?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

pub(crate) fn encode_transfer<R>(request: &TransferLeaderRequest<Types<R>>) -> Body
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Transfer);
    put_vote(&mut head, request.from_leader());
    head.put_u64(request.to_node_id().get());
    put_raft_id(&mut head, request.last_log_id());
    message(&head, [])
}

pub(crate) fn decode_transfer<R>(message: Bytes) -> Result<TransferLeaderRequest<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let mut head = only_head(Tag::Transfer, message)?;
    let (from, to, last) = (leader(&mut head)?, ReplicaId(head.u64()?), raft_id(&mut head)?);
    head.end()?;
    Ok(TransferLeaderRequest::new(from, to, last))
}

pub(crate) fn encode_transferred<R>(answer: &TransferLeaderResponse<Types<R>>) -> Body
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Transferred);
    match answer {
        Ok(()) => head.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            head.put_u8(1);
            put_vote(&mut head, expected);
            put_vote(&mut head, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            head.put_u8(2);
            put_raft_id(&mut head, expected.as_ref());
            put_raft_id(&mut head, actual.as_ref());
        }
    }
    message(&head, [])
}

pub(crate) fn decode_transferred<R>(message: Bytes) -> Result<TransferLeaderResponse<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let mut head = only_head(Tag::Transferred, message)?;
    let answer = match head.u8()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged { expected: head.vote()?, actual: head.vote()? }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: raft_id(&mut head)?,
            actual: raft_id(&mut head)?,
        }),
        answer => return Err(head.malformed(format!("answer {answer}"))),
    };
    head.end()?;
    Ok(answer)
}

/// A snapshot is its tables.
pub(crate) fn encode_snapshot(leader: &RaftVote, tables: Bytes) -> Body {
    let mut head = head(Tag::Snapshot);
    put_vote(&mut head, leader);
    head.put_u32(crc32c::crc32c(&tables));
    message(&head, [tables])
}

pub(crate) fn decode_snapshot(message: Bytes) -> Result<(RaftVote, Tables), DecodeError> {
    let (mut head, tables) = open(Tag::Snapshot, message)?;
    let vote = leader(&mut head)?;
    let crc = head.u32()?;
    head.end()?;
    if crc32c::crc32c(&tables) != crc {
        return Err(head.malformed("the checksum of its tables is wrong".to_owned()));
    }
    let tables = Tables::decode(&tables)?;
    if tables.at.index == LogIndex(0) || tables.at.term.get() > vote.leader_id.term {
        return Err(head.malformed("its leader cannot have taken it there".to_owned()));
    }
    Ok((vote, tables))
}

pub(crate) fn encode_installed<R>(answer: &SnapshotResponse<Types<R>>) -> Body
where
    R: Send + Sync + 'static,
{
    let mut head = head(Tag::Installed);
    put_vote(&mut head, &answer.vote);
    message(&head, [])
}

pub(crate) fn decode_installed<R>(message: Bytes) -> Result<SnapshotResponse<Types<R>>, DecodeError>
where
    R: Send + Sync + 'static,
{
    let mut head = only_head(Tag::Installed, message)?;
    let vote = head.vote()?;
    head.end()?;
    Ok(SnapshotResponse::new(vote))
}

#[cfg(test)]
mod tests;
