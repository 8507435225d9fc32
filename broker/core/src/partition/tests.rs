#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use headwater_proto::record::{
    BatchHeader, Compression, HEADER_BYTES, RecordBatchBuilder, empty_control_batch,
};
use headwater_proto::types::{ProducerId, Term};
use proptest::prelude::*;

use super::*;

/// One entry of a log that a leader could have accepted.
#[derive(Debug, Clone)]
enum Op {
    Records { producer: Option<i64>, count: i32 },
    Blank,
    LogStart(prop::sample::Index),
    Expire(i64),
    NewTerm,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (prop::option::of(0_i64..4), 1_i32..5).prop_map(|(producer, count)| Op::Records { producer, count }),
        1 => Just(Op::Blank),
        1 => any::<prop::sample::Index>().prop_map(Op::LogStart),
        1 => (0_i64..4).prop_map(Op::Expire),
        1 => Just(Op::NewTerm),
    ]
}

/// The next sequence of a producer by the state, as a well-behaved one would use.
fn next_sequence(state: &PartitionState, id: i64) -> i32 {
    let newest = state.producers.get(ProducerId(id)).and_then(|p| p.window.batches.back().copied());
    newest.map_or(0, |batch| batch.last.advance(1).get())
}

fn records(producer: Option<(i64, i32)>, count: i32) -> BatchHeader {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    for _ in 0..count {
        builder.append(0, None, None, &[]).unwrap();
    }
    if let Some((id, sequence)) = producer {
        builder.set_producer(id, 0, sequence);
    }
    BatchHeader::read(&builder.build().unwrap()).unwrap()
}

fn control(entry: &ControlEntry) -> BatchHeader {
    BatchHeader::read(&empty_control_batch(&entry.encode())).unwrap()
}

fn entry<'a>(state: &PartitionState, term: Term, header: &'a BatchHeader, body: EntryBody<'a>) -> Entry<'a> {
    Entry { index: state.log.applied_index.next(), term, base_offset: state.log.next_offset, header, body }
}

fn apply(state: &mut PartitionState, term: &mut u64, op: &Op) {
    let bytes = Bytes::new();
    let control_entry = match op {
        Op::Records { producer, count } => {
            let producer = producer.map(|id| (id, next_sequence(state, id)));
            let header = records(producer, *count);
            let entry = entry(state, Term(*term), &header, EntryBody::Records(&bytes));
            state.apply(entry).unwrap();
            return;
        }
        Op::Blank => ControlEntry::Blank,
        Op::LogStart(at) => {
            ControlEntry::LogStart(Offset(at.index(state.log.next_offset.get() as usize + 1) as i64))
        }
        Op::Expire(id) => ControlEntry::ProducerExpiry(vec![ProducerId(*id)]),
        Op::NewTerm => {
            *term += 1;
            ControlEntry::Blank
        }
    };
    let header = control(&control_entry);
    let entry = entry(state, Term(*term), &header, EntryBody::Control(&control_entry));
    state.apply(entry).unwrap();
}

proptest! {
    #[test]
    fn tables_taken_anywhere_lead_to_the_same_state(
        ops in prop::collection::vec(any_op(), 1..80),
        at in any::<prop::sample::Index>(),
    ) {
        let (mut scratch, mut term) = (PartitionState::default(), 1);
        let at = at.index(ops.len());
        for op in &ops[..at] {
            apply(&mut scratch, &mut term, op);
        }
        let mut restored = PartitionState::decode(&scratch.encode()).unwrap();
        prop_assert_eq!(&restored, &scratch);
        let mut restored_term = term;
        for op in &ops[at..] {
            apply(&mut scratch, &mut term, op);
            apply(&mut restored, &mut restored_term, op);
        }
        prop_assert_eq!(restored.encode(), scratch.encode());
        prop_assert!(scratch.log.log_start <= scratch.log.next_offset);
    }

    #[test]
    fn garbage_and_damaged_tables_never_panic(
        ops in prop::collection::vec(any_op(), 0..20),
        garbage in any::<Vec<u8>>(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let _ = PartitionState::decode(&garbage);
        let (mut state, mut term) = (PartitionState::default(), 1);
        for op in &ops {
            apply(&mut state, &mut term, op);
        }
        let mut bytes = state.encode();
        let at = at.index(bytes.len());
        let _ = PartitionState::decode(&bytes[..at]);
        bytes[at] ^= 1 << bit;
        if let Ok(state) = PartitionState::decode(&bytes) {
            prop_assert_eq!(PartitionState::decode(&state.encode()), Ok(state));
        }
    }
}

#[test]
fn an_entry_that_contradicts_the_state_is_an_error_and_changes_nothing() {
    let (mut state, mut term) = (PartitionState::default(), 3);
    apply(&mut state, &mut term, &Op::Records { producer: Some(1), count: 4 });
    let before = state.clone();
    let bytes = Bytes::new();
    let good = records(Some((1, 4)), 1);
    let again = records(Some((1, 0)), 4);
    let body = EntryBody::Records(&bytes);
    let next = entry(&before, Term(3), &good, body);
    let beyond = ControlEntry::LogStart(Offset(5));
    let beyond_header = control(&beyond);
    let cases = [
        Entry { base_offset: Offset(5), ..next },
        Entry { index: LogIndex(3), ..next },
        Entry { term: Term(2), ..next },
        Entry { header: &again, ..next },
        Entry { body: EntryBody::Control(&ControlEntry::Blank), ..next },
        Entry { header: &beyond_header, ..next },
        Entry { header: &beyond_header, body: EntryBody::Control(&beyond), ..next },
    ];
    for case in cases {
        assert!(state.apply(case).is_err(), "{case:?}");
        assert_eq!(state, before);
    }
    assert_eq!(state.apply(next).unwrap().base_offset, Offset(4));
}

#[test]
fn what_follows_a_loss_that_was_accepted_is_applied_whatever_was_lost() {
    let mut state = PartitionState::default();
    let bytes = Bytes::new();
    let mut append = |header: &BatchHeader| {
        let body = EntryBody::Records(&bytes);
        let index = state.log.applied_index.next();
        let entry = Entry { index, term: Term(1), base_offset: state.log.next_offset, header, body };
        let applied = state.apply(entry);
        // Tables written in between must not bring the strictness back.
        state = PartitionState::decode(&state.encode()).unwrap();
        applied
    };
    append(&records(Some((7, 0)), 2)).unwrap();
    // What the log shows in the place of a lost batch: its offsets, and nothing behind the header.
    let mut lost = records(None, 3);
    (lost.record_count, lost.batch_length) = (0, HEADER_BYTES as i32 - 12);
    append(&lost).unwrap();
    append(&records(Some((7, 5)), 1)).unwrap();
    append(&records(Some((8, 4)), 1)).unwrap();
    append(&records(Some((7, 6)), 1)).unwrap();
    assert!(append(&records(Some((7, 9)), 1)).is_err(), "a gap that no loss explains");
}
