//! What clients did and were told, and what is wrong with it.
//!
//! Every value is unique, so that each anomaly has one meaning. Classes and names follow Jepsen's Kafka workload
//! (`jepsen/tests/kafka.clj`), which also says what each means; classes of transactions and consumer groups are
//! not here, since there is nothing yet that could show them. An outcome that a client could not learn is *unknown*:
//! the record may be there, once. Invariant: a report is an anomaly of the system under test, never of the order in
//! which its clients happened to note things; where a moment is noted late, fewer orders are checked, not wrong ones.
//! Millions of records are checked in seconds: nothing here looks twice at a pair.

mod anomaly;
mod check;
mod partition;
mod polls;
mod recorder;
mod replicas;
mod sends;
#[cfg(test)]
mod tests;
mod watermarks;

use std::collections::BTreeMap;
use std::hash::Hasher;

pub use self::anomaly::{Anomaly, Findings, Place};
use self::partition::{PartitionHistory, Replica};
pub use self::recorder::{Recorder, SharedHistory};

/// Topic and partition number.
pub type Partition = (String, i32);

/// Offset and value, as a reader saw them.
pub type ReadRecord = (i64, u64);

/// Microseconds on the one clock of all clients of a history.
pub type Micros = u64;

/// How a send ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged at this offset.
    Acked(i64),
    /// Refused for certain: it must never be read.
    Refused,
    /// Not known: it may be read, at most once.
    Unknown,
}

/// One record that a producer sent to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub producer: u32,
    pub value: u64,
    pub outcome: Outcome,
    /// Before it was handed to the producer.
    pub begun: Micros,
    /// After the outcome was known.
    pub ended: Micros,
}

/// One answer to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll<'a> {
    /// A reader that seeks gets a new number.
    pub reader: u32,
    pub leader_epoch: i32,
    pub log_start: i64,
    pub high_watermark: i64,
    pub records: &'a [ReadRecord],
}

/// What a client was told of a partition's bounds by a request for the latest offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    pub log_start: Option<i64>,
    pub end: Option<i64>,
    /// Before the request, and after its answer.
    pub begun: Micros,
    pub ended: Micros,
}

/// Everything that happened to some partitions.
#[derive(Debug, Default)]
pub struct History {
    partitions: BTreeMap<Partition, PartitionHistory>,
    acked: usize,
    operations: u64,
}

impl History {
    /// Notes a send, in the order in which its producer made it.
    pub fn sent(&mut self, partition: &Partition, sent: Sent) {
        self.operations += 1;
        self.acked += usize::from(matches!(sent.outcome, Outcome::Acked(_)));
        self.at(partition).sends.push(sent);
    }

    /// Notes an answer to a reader, in the order in which that reader got them.
    pub fn polled(&mut self, partition: &Partition, poll: Poll<'_>) {
        self.operations += 1;
        self.at(partition).poll(poll);
    }

    /// Notes what a request for the bounds of a partition was answered.
    pub fn listed(&mut self, partition: &Partition, listing: Listing) {
        self.operations += 1;
        self.at(partition).listings.push(listing);
    }

    /// Notes that retention or a request may have deleted records below `offset`.
    pub fn log_start(&mut self, partition: &Partition, offset: i64) {
        let start = &mut self.at(partition).log_start;
        *start = (*start).max(offset);
    }

    /// Notes the last, complete read of a partition: everything that is there, in the order read.
    pub fn finally(&mut self, partition: &Partition, records: Vec<ReadRecord>) {
        self.at(partition).finally = records;
    }

    /// Notes what one replica holds in the end, and the log start that it has applied, read there and nowhere else.
    pub fn replica(
        &mut self,
        partition: &Partition,
        replica: &str,
        log_start: i64,
        records: Vec<ReadRecord>,
    ) {
        self.at(partition).replicas.insert(replica.to_owned(), Replica { log_start, records });
    }

    /// Sends, polls and listings noted so far.
    #[must_use]
    pub const fn operations(&self) -> u64 {
        self.operations
    }

    #[must_use]
    pub const fn acked_count(&self) -> usize {
        self.acked
    }

    /// Every anomaly of what was noted; the last reads must be noted before.
    #[must_use]
    pub fn check(&self) -> Findings {
        let mut findings = Findings::default();
        for (partition, history) in &self.partitions {
            check::check(partition, history, &mut findings);
        }
        findings
    }

    /// A number that two equal histories share.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        for ((topic, number), history) in &self.partitions {
            digest.write(topic.as_bytes());
            digest.write_i32(*number);
            history.digest(&mut digest);
        }
        digest.finish()
    }

    fn at(&mut self, partition: &Partition) -> &mut PartitionHistory {
        self.partitions.entry(partition.clone()).or_default()
    }
}

/// FNV-1a (Fowler, Noll, Vo) over 64-bit words: the same on every machine.
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        const PRIME: u64 = 0x0100_0000_01b3;
        self.0 = (self.0 ^ word).wrapping_mul(PRIME).rotate_left(29);
    }

    fn write_i64(&mut self, word: i64) {
        self.write_u64(word.cast_unsigned());
    }

    fn write_i32(&mut self, word: i32) {
        self.write_i64(i64::from(word));
    }
}
