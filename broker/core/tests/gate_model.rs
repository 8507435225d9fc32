//! The producer window as a whole: producers, a network that delays, repeats, reorders and loses, the
//! leader's gate, a log that refuses, leaders that change, and replicas that restore from tables.
//!
//! Checked against the simplest model: the list of batches that the log holds. Whatever happens, no batch
//! is in the log twice, batches of a producer are there in order, and what was acknowledged is there.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use headwater_core::gate::StampCheck;
use headwater_core::{ControlEntry, Decision, Entry, EntryBody, Gate, Machine, Original, PartitionState};
use headwater_core::{Refusal, Stamp};
use headwater_proto::record::{BatchHeader, Compression, RecordBatchBuilder, empty_control_batch};
use headwater_proto::types::{LogIndex, Offset, ProducerId, Term};
use proptest::prelude::*;

/// A batch as its producer knows it; `id` is what must not be doubled or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Batch {
    id: u64,
    producer: i64,
    epoch: i16,
    first: i32,
    count: i32,
}

#[derive(Debug, Clone)]
enum Content {
    Batch(Batch),
    Control(ControlEntry),
}

struct Client {
    epoch: i16,
    next_sequence: i32,
    unacked: VecDeque<Batch>,
}

#[derive(Debug, Clone)]
enum Step {
    Send { producer: usize, count: i32 },
    Resend { producer: usize, which: prop::sample::Index },
    Deliver { which: prop::sample::Index, lose_answer: bool },
    LoseRequest { which: prop::sample::Index },
    Append { refuse: bool },
    Apply { lose_answer: bool },
    Expire { producer: usize },
    NewLeader,
    RestoreReplica,
}

struct World {
    clients: Vec<Client>,
    network: Vec<Batch>,
    proposals: VecDeque<(Stamp, Content)>,
    log: Vec<(Term, Content)>,
    check: StampCheck,
    term: Term,
    gate: Option<Gate>,
    leader: PartitionState,
    /// Log index to the number under which the gate in charge knows the proposal.
    pending: BTreeMap<usize, u64>,
    /// Answers that duplicates wait for: number in the session to batch ids.
    waiting: BTreeMap<u64, Vec<u64>>,
    acked: BTreeSet<u64>,
    replica: PartitionState,
    next_id: u64,
}

impl World {
    fn new() -> Self {
        let client = || Client { epoch: 0, next_sequence: 0, unacked: VecDeque::new() };
        let mut world = Self {
            clients: (0..3).map(|_| client()).collect(),
            network: Vec::new(),
            proposals: VecDeque::new(),
            log: Vec::new(),
            check: StampCheck::default(),
            term: Term(0),
            gate: None,
            leader: PartitionState::default(),
            pending: BTreeMap::new(),
            waiting: BTreeMap::new(),
            acked: BTreeSet::new(),
            replica: PartitionState::default(),
            next_id: 0,
        };
        world.new_leader();
        world
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { producer, count } => self.send(producer, count),
            Step::Resend { producer, which } => {
                let unacked = &self.clients[producer].unacked;
                if !unacked.is_empty() {
                    self.network.push(unacked[which.index(unacked.len())]);
                }
            }
            Step::Deliver { which, lose_answer } if !self.network.is_empty() => {
                let batch = self.network.swap_remove(which.index(self.network.len()));
                self.deliver(batch, lose_answer);
            }
            Step::LoseRequest { which } if !self.network.is_empty() => {
                self.network.swap_remove(which.index(self.network.len()));
            }
            Step::Append { refuse } => self.append(refuse),
            Step::Apply { lose_answer } => self.apply_next(lose_answer),
            Step::Expire { producer } => self.expire(producer),
            Step::NewLeader => self.new_leader(),
            Step::RestoreReplica => self.restore_replica(),
            Step::Deliver { .. } | Step::LoseRequest { .. } => {}
        }
    }

    fn send(&mut self, producer: usize, count: i32) {
        let client = &mut self.clients[producer];
        if client.unacked.len() >= 8 {
            return;
        }
        let (epoch, first) = (client.epoch, client.next_sequence);
        let batch = Batch { id: self.next_id, producer: producer as i64, epoch, first, count };
        self.next_id += 1;
        client.next_sequence += count;
        client.unacked.push_back(batch);
        self.network.push(batch);
    }

    fn deliver(&mut self, batch: Batch, lose_answer: bool) {
        let Some(gate) = &mut self.gate else { return };
        gate.reopen();
        match gate.decide(&self.leader.producers, &header(&batch)) {
            Decision::Append(stamp) => self.proposals.push_back((stamp, Content::Batch(batch))),
            Decision::Duplicate(Original::Applied(offset)) => {
                let original = self.at_offset(offset);
                assert_eq!(original.id, batch.id, "a duplicate is answered with its own original");
                self.answer(batch.id, lose_answer);
            }
            Decision::Duplicate(Original::InFlight(n)) => self.waiting.entry(n).or_default().push(batch.id),
            Decision::Refuse(Refusal::DuplicateSequence { .. }) => {
                assert!(self.applied_ids().contains(&batch.id), "appended long ago means applied");
                self.answer(batch.id, lose_answer);
            }
            Decision::Refuse(Refusal::UnknownProducer { .. }) => self.bump_epoch(batch),
            Decision::Refuse(_) => {}
        }
    }

    /// What a client does when it learns that its producer was forgotten: new epoch, sequences from 0.
    fn bump_epoch(&mut self, batch: Batch) {
        let client = &mut self.clients[batch.producer as usize];
        let expired = self.leader.producers.get(ProducerId(batch.producer)).is_none();
        let nothing_appended = client.unacked.iter().all(|b| b.epoch == client.epoch);
        let first = client.unacked.front().map(|b| b.first);
        if !expired || !nothing_appended || client.epoch != batch.epoch || first == Some(0) {
            return;
        }
        client.epoch += 1;
        client.next_sequence = 0;
        for unacked in &mut client.unacked {
            unacked.epoch = client.epoch;
            unacked.first = client.next_sequence;
            client.next_sequence += unacked.count;
        }
    }

    fn append(&mut self, refuse: bool) {
        let Some((stamp, content)) = self.proposals.pop_front() else { return };
        let current = stamp.term == self.term;
        if refuse {
            return self.refused(stamp, current);
        }
        if self.check.admit(stamp, self.term) {
            self.pending.insert(self.log.len(), stamp.n);
            self.log.push((self.term, content));
        } else {
            self.log.push((self.term, Content::Control(ControlEntry::Void)));
            self.refused(stamp, current);
        }
    }

    fn refused(&mut self, stamp: Stamp, current: bool) {
        if let (true, Some(gate)) = (current, &mut self.gate) {
            gate.on_refused(stamp.n);
            self.waiting.remove(&stamp.n);
        }
    }

    fn apply_next(&mut self, lose_answer: bool) {
        let at = self.leader.log.applied_index.get() as usize;
        let Some((term, content)) = self.log.get(at).cloned() else { return };
        let offset = apply(&mut self.leader, term, &content);
        let Some(n) = self.pending.remove(&at) else { return };
        let Some(gate) = &mut self.gate else { return };
        gate.on_applied(n, offset);
        if let Content::Batch(batch) = content {
            self.answer(batch.id, lose_answer);
        }
        for id in self.waiting.remove(&n).unwrap_or_default() {
            self.answer(id, lose_answer);
        }
    }

    fn answer(&mut self, id: u64, lost: bool) {
        if !lost {
            self.acked.insert(id);
            for client in &mut self.clients {
                client.unacked.retain(|batch| batch.id != id);
            }
        }
    }

    /// Only producers silent for longer than anything stays in the network are expired.
    fn expire(&mut self, producer: usize) {
        let silent = self.clients[producer].unacked.is_empty()
            && self.network.iter().all(|batch| batch.producer != producer as i64);
        let Some(gate) = &mut self.gate else { return };
        gate.reopen();
        if !silent {
            return;
        }
        if let Some((stamp, ids)) = gate.expire(&[ProducerId(producer as i64)]) {
            self.proposals.push_back((stamp, Content::Control(ControlEntry::ProducerExpiry(ids))));
        }
    }

    /// Proposals of the old leader may still be under way. The new one opens its gate once its blank
    /// entry is applied.
    fn new_leader(&mut self) {
        self.gate = None;
        self.pending.clear();
        self.waiting.clear();
        self.term = Term(self.term.get() + 1);
        self.log.push((self.term, Content::Control(ControlEntry::Blank)));
        while (self.leader.log.applied_index.get() as usize) < self.log.len() {
            self.apply_next(false);
        }
        self.gate = Some(Gate::open(self.term));
    }

    /// The replica applies what the leader applied, then goes on from its own tables.
    fn restore_replica(&mut self) {
        while self.replica.log.applied_index < self.leader.log.applied_index {
            let (term, content) = self.log[self.replica.log.applied_index.get() as usize].clone();
            apply(&mut self.replica, term, &content);
        }
        assert_eq!(self.replica, self.leader, "equal at equal applied index");
        let bytes = self.replica.encode();
        self.replica = PartitionState::decode(&bytes).unwrap();
        assert_eq!(self.replica.encode(), bytes);
    }

    /// Everything quiet, every client repeats what is not acknowledged, in order, until all is.
    fn drain(&mut self) {
        for _ in 0..200 {
            while !self.proposals.is_empty() {
                self.append(false);
            }
            while (self.leader.log.applied_index.get() as usize) < self.log.len() {
                self.apply_next(false);
            }
            let first: Vec<_> = self.clients.iter().filter_map(|c| c.unacked.front().copied()).collect();
            if first.is_empty() {
                return;
            }
            for batch in first {
                self.deliver(batch, false);
            }
        }
        panic!(
            "a client never gets through: {:?}",
            self.clients.iter().map(|c| &c.unacked).collect::<Vec<_>>()
        );
    }

    fn at_offset(&self, offset: Offset) -> Batch {
        let mut next = 0;
        for (_, content) in &self.log {
            if let Content::Batch(batch) = content {
                if next == offset.get() {
                    return *batch;
                }
                next += i64::from(batch.count);
            }
        }
        panic!("no batch begins at {offset}");
    }

    fn applied_ids(&self) -> Vec<u64> {
        let applied = &self.log[..self.leader.log.applied_index.get() as usize];
        let id = |(_, content): &(Term, Content)| match content {
            Content::Batch(batch) => Some(batch.id),
            Content::Control(_) => None,
        };
        applied.iter().filter_map(id).collect()
    }
}

fn header(batch: &Batch) -> BatchHeader {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    for _ in 0..batch.count {
        builder.append(0, None, None, &[]).unwrap();
    }
    builder.set_producer(batch.producer, batch.epoch, batch.first);
    BatchHeader::read(&builder.build().unwrap()).unwrap()
}

fn apply(state: &mut PartitionState, term: Term, content: &Content) -> Offset {
    let bytes = Bytes::new();
    let (header, body) = match content {
        Content::Batch(batch) => (header(batch), EntryBody::Records(&bytes)),
        Content::Control(entry) => {
            let header = BatchHeader::read(&empty_control_batch(&entry.encode())).unwrap();
            (header, EntryBody::Control(entry))
        }
    };
    let index = LogIndex(state.log.applied_index.get() + 1);
    let base_offset = state.log.next_offset;
    state.apply(Entry { index, term, base_offset, header: &header, body }).unwrap().base_offset
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..3, 1_i32..4).prop_map(|(producer, count)| Step::Send { producer, count }),
        4 => (0_usize..3, any::<prop::sample::Index>())
            .prop_map(|(producer, which)| Step::Resend { producer, which }),
        12 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2))
            .prop_map(|(which, lose_answer)| Step::Deliver { which, lose_answer }),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::LoseRequest { which }),
        12 => prop::bool::weighted(0.05).prop_map(|refuse| Step::Append { refuse }),
        12 => prop::bool::weighted(0.2).prop_map(|lose_answer| Step::Apply { lose_answer }),
        1 => (0_usize..3).prop_map(|producer| Step::Expire { producer }),
        1 => Just(Step::NewLeader),
        1 => Just(Step::RestoreReplica),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_doubled_lost_or_reordered(steps in prop::collection::vec(any_step(), 1..250)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.drain();
        world.restore_replica();
        let ids = world.applied_ids();
        let distinct: BTreeSet<_> = ids.iter().copied().collect();
        prop_assert_eq!(distinct.len(), ids.len(), "appended twice: {:?}", ids);
        prop_assert_eq!(&distinct, &world.acked, "acknowledged is appended");
        prop_assert_eq!(distinct.len() as u64, world.next_id, "everything sent got through");
        for producer in 0..3 {
            let order: Vec<_> = world.log.iter().filter_map(|(_, content)| match content {
                Content::Batch(batch) if batch.producer == producer => Some(batch.id),
                _ => None,
            }).collect();
            prop_assert!(order.is_sorted(), "out of order: {:?}", order);
        }
    }
}
