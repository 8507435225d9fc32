//! A partition in memory, with Kafka's producer window.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use headwater_proto::ErrorCode;
use headwater_proto::record::{Limits, Record, RecordBatch};

/// The last five batches of each producer id and epoch, as (first sequence, records, base offset).
pub type Producers = BTreeMap<(i64, i16, String, i32), VecDeque<(i32, i32, i64)>>;

#[derive(Debug, Clone, Default)]
pub struct FakeLog {
    pub batches: Vec<RecordBatch>,
    pub next_offset: i64,
    pub log_start: i64,
    /// Broker id; -1 for none.
    pub leader: i32,
    pub epoch: i32,
    /// What brokers believe of leader and epoch that have not heard of the present ones.
    beliefs: BTreeMap<i32, (i32, i32)>,
    /// Replicas that end before the log does.
    pub ends: BTreeMap<i32, i64>,
}

impl FakeLog {
    pub fn belief(&self, node: i32) -> (i32, i32) {
        self.beliefs.get(&node).copied().unwrap_or((self.leader, self.epoch))
    }

    pub fn elect(&mut self, leader: i32, nodes: i32, uninformed: &[i32]) {
        let before: Vec<_> = (0..nodes).map(|node| self.belief(node)).collect();
        for node in uninformed.iter().filter(|node| **node != leader) {
            self.beliefs.insert(*node, before[*node as usize]);
        }
        self.leader = leader;
        self.epoch += 1;
        self.beliefs.retain(|node, _| uninformed.contains(node) && *node != leader);
    }

    /// All brokers hear who leads.
    pub fn inform(&mut self) {
        self.beliefs.clear();
    }

    /// The end of the log as a broker knows it.
    pub fn end(&self, node: i32) -> i64 {
        self.ends.get(&node).copied().unwrap_or(self.next_offset)
    }

    pub fn records(&self) -> Vec<Record> {
        let decode = |batch: &RecordBatch| batch.records(&Limits::default()).unwrap();
        self.batches.iter().flat_map(decode).map(Result::unwrap).collect()
    }

    pub fn values(&self) -> Vec<String> {
        let text = |record: Record| String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        self.records().into_iter().map(text).collect()
    }

    /// Stamps the base offset and keeps the batch.
    pub fn append(&mut self, batch: &RecordBatch) -> i64 {
        let base_offset = self.next_offset;
        let mut bytes = BytesMut::from(&batch.bytes()[..]);
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        self.next_offset += batch.header().offset_count();
        self.batches.push(RecordBatch::trusted(bytes.freeze()).unwrap());
        base_offset
    }

    /// Whole batches from the one that holds `offset` on, up to `below`, and the offset after them.
    pub fn read(&self, offset: i64, below: i64, max_bytes: usize) -> (Bytes, i64) {
        let mut bytes = BytesMut::new();
        let mut next_offset = offset;
        for batch in &self.batches {
            let end = batch.header().base_offset + batch.header().offset_count();
            if end <= offset {
                continue;
            }
            if end > below || !bytes.is_empty() && bytes.len() + batch.bytes().len() > max_bytes {
                break;
            }
            bytes.extend_from_slice(batch.bytes());
            next_offset = end;
        }
        (bytes.freeze(), next_offset)
    }
}

/// Whether a batch is next, a duplicate of one at an offset, or neither.
pub enum Place {
    Next,
    Duplicate(i64),
    Refused(ErrorCode),
}

pub fn place(window: &VecDeque<(i32, i32, i64)>, sequence: i32, count: i32) -> Place {
    if let Some((_, _, base)) = window.iter().find(|(s, c, _)| *s == sequence && *c == count) {
        return Place::Duplicate(*base);
    }
    if window.is_empty() && sequence > 0 {
        return Place::Refused(ErrorCode::UnknownProducerId);
    }
    let expected = window.back().map_or(0, |(s, c, _)| s + c);
    if sequence == expected { Place::Next } else { Place::Refused(ErrorCode::OutOfOrderSequenceNumber) }
}
