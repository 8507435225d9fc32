//! What is sent arrives, and nothing else does.
#![allow(clippy::unwrap_used)]
use headwater_core::ControlEntry;
use headwater_proto::record::{Compression, RecordBatchBuilder, empty_control_batch};
use proptest::prelude::*;

use super::*;
use crate::types::StoredMembership;

fn any_vote() -> impl Strategy<Value = RaftVote> {
    (any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(term, node, committed)| RaftVote { committed, ..RaftVote::new(term, ReplicaId(node)) })
}

fn any_id() -> impl Strategy<Value = Option<RaftLogId>> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(term, index)| to_raft(LogId { term: Term(term), index: LogIndex(index) }))
}

/// A batch as a leader's log holds it.
fn stamped(term: u64, base_offset: i64, value: Option<Vec<u8>>) -> Bytes {
    let batch = match value {
        Some(value) => {
            let mut builder = RecordBatchBuilder::new(Compression::None, None);
            builder.append(1, None, Some(&value), &[]).unwrap();
            builder.build().unwrap()
        }
        None => empty_control_batch(&ControlEntry::Blank.encode()),
    };
    let mut batch = batch.to_vec();
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&(term as i32).to_be_bytes());
    batch.into()
}

prop_compose! {
    /// What a leader may send: terms rise, offsets are dense.
    fn any_append()(
        (prev, first, offset) in (0..9_u64, 1..1_000_000_u64, 0..1_u64 << 50),
        entries in prop::collection::vec((0..2_u64, any::<Option<Vec<u8>>>()), 0..6),
        leader_commit in any_id(),
        leader in any::<u64>(),
    ) -> AppendEntriesRequest<Types<()>> {
        let (mut term, mut offset) = (prev, offset as i64);
        let prev_log_id = to_raft(LogId { term: Term(prev), index: LogIndex(first) });
        let entries = (first..).zip(entries).map(|(index, (step, value))| {
            term += step;
            let stored = stored(Offset(offset), stamped(term, offset, value)).unwrap();
            offset += stored.header.offset_count();
            let log_id = to_raft(LogId { term: Term(term), index: LogIndex(index + 1) }).unwrap();
            RaftEntry { log_id, payload: Payload::Stored(stored) }
        }).collect();
        let vote = RaftVote::new_committed(term, ReplicaId(leader));
        AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }
    }
}

fn sent(body: Option<Body>) -> Bytes {
    body.unwrap().into_bytes()
}

fn contents(request: &AppendEntriesRequest<Types<()>>) -> Vec<(RaftLogId, StoredBatch)> {
    let stored = |entry: &RaftEntry| match &entry.payload {
        Payload::Stored(stored) => (entry.log_id, stored.clone()),
        other => panic!("{other}"),
    };
    request.entries.iter().map(stored).collect()
}

proptest! {
    #[test]
    fn an_append_arrives_as_it_was_sent(request in any_append()) {
        let got: AppendEntriesRequest<Types<()>> =
            decode_append(sent(encode_append(&request))).unwrap();
        prop_assert_eq!((got.vote, got.prev_log_id), (request.vote, request.prev_log_id));
        prop_assert_eq!(got.leader_commit, request.leader_commit);
        prop_assert_eq!(contents(&got), contents(&request));
    }

    /// Any bit: the head, the stamps that a batch's own CRC does not cover, the records.
    #[test]
    fn a_damaged_append_never_reaches_raft(
        request in any_append(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let good = sent(encode_append(&request));
        let mut bad = good.to_vec();
        bad[at.index(good.len())] ^= 1_u8 << bit;
        prop_assert!(decode_append::<()>(bad.into()).is_err());
        prop_assert!(decode_append::<()>(good.slice(..cut.index(good.len()))).is_err());
        let longer = [&good[..], &[0]].concat();
        prop_assert!(decode_append::<()>(longer.into()).is_err());
    }

    #[test]
    fn everything_else_survives_its_encoding(
        (vote, other) in (any_vote(), any_vote()),
        (id, another) in (any_id(), any_id()),
        (flag, to, machine) in any::<(bool, u64, Vec<u8>)>(),
    ) {
        let candidate = RaftVote { committed: false, ..vote };
        let request = VoteRequest::<Types<()>> { vote: candidate, last_log_id: id, leadership_transfer: flag };
        prop_assert_eq!(decode_vote_request(encode_vote_request(&request).into_bytes()).unwrap(), request);
        let answer = VoteResponse::<Types<()>> { vote, vote_granted: flag, last_log_id: id };
        prop_assert_eq!(decode_voted(encode_voted(&answer).into_bytes()).unwrap(), answer);

        let leader = RaftVote { committed: true, ..vote };
        let request = TransferLeaderRequest::<Types<()>>::new(leader, ReplicaId(to), id);
        prop_assert_eq!(decode_transfer(encode_transfer(&request).into_bytes()).unwrap(), request);
        for answer in [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote, actual: other }),
            Err(TransferLeaderError::LogNotFlushed { expected: id, actual: another }),
        ] {
            let got = decode_transferred::<()>(encode_transferred(&answer).into_bytes()).unwrap();
            prop_assert_eq!(got, answer);
        }

        let higher = AppendEntriesResponse::<Types<()>>::HigherVote(vote);
        for answer in [AppendEntriesResponse::Success, AppendEntriesResponse::Conflict, higher] {
            prop_assert_eq!(decode_appended(sent(encode_appended(&answer))).unwrap(), answer);
        }
        let installed = SnapshotResponse::<Types<()>>::new(vote);
        let got = decode_installed::<()>(encode_installed(&installed).into_bytes()).unwrap();
        prop_assert_eq!(got.vote, vote);

        let at = LogId { term: Term(vote.leader_id.term), index: LogIndex(to.max(1)) };
        let membership = StoredMembership::default();
        let tables = Tables { at, next_offset: Offset(7), membership, machine: machine.into() };
        let message = encode_snapshot(&leader, tables.encode()).into_bytes();
        prop_assert_eq!(decode_snapshot(message).unwrap(), (leader, tables));
    }

    #[test]
    fn garbage_is_an_error(bytes in any::<Vec<u8>>()) {
        // Behind a head that is what it says, so that the fields are reached.
        for tag in 1..=8_u8 {
            let head = BytesMut::from(&[&[tag], bytes.as_slice()].concat()[..]);
            let message = message(&head, []).into_bytes();
            prop_assert!(decode_append::<()>(message.clone()).is_err() || tag == 1);
            let _ = (decode_appended::<()>(message.clone()), decode_vote_request::<()>(message.clone()));
            let _ = (decode_voted::<()>(message.clone()), decode_transfer::<()>(message.clone()));
            let _ = (decode_transferred::<()>(message.clone()), decode_installed::<()>(message.clone()));
            let _ = decode_snapshot(message);
        }
        prop_assert!(decode_append::<()>(bytes.into()).is_err());
    }
}

#[test]
fn what_no_leader_says_is_refused() {
    let append = |vote, terms: &[(u64, i64)]| {
        let entry = |(index, (term, offset)): (u64, &(u64, i64))| {
            let stored = stored(Offset(*offset), stamped(*term, *offset, Some(vec![1]))).unwrap();
            let log_id = to_raft(LogId { term: Term(*term), index: LogIndex(index) }).unwrap();
            RaftEntry { log_id, payload: Payload::Stored(stored) }
        };
        let entries = (1..).zip(terms).map(entry).collect();
        let request =
            AppendEntriesRequest::<Types<()>> { vote, prev_log_id: None, entries, leader_commit: None };
        decode_append::<()>(sent(encode_append(&request)))
    };
    let leader = RaftVote::new_committed(5, ReplicaId(1));
    assert!(append(leader, &[(3, 0), (5, 1)]).is_ok());
    assert!(append(RaftVote::new(5, ReplicaId(1)), &[(3, 0)]).is_err(), "a candidate");
    assert!(append(leader, &[(5, 0), (3, 1)]).is_err(), "terms that fall");
    assert!(append(leader, &[(6, 0)]).is_err(), "a term to come");
    assert!(append(leader, &[(5, 0), (5, 2)]).is_err(), "a hole in the offsets");
}
