//! What was noted of one partition, in a form that millions of records fit in.

use std::collections::BTreeMap;
use std::hash::Hasher;

use super::{Digest, Listing, Micros, Outcome, Poll, ReadRecord, Sent};

/// Everything noted of one partition.
#[derive(Debug, Default)]
pub struct PartitionHistory {
    pub sends: Vec<Sent>,
    pub readers: BTreeMap<u32, Reader>,
    pub listings: Vec<Listing>,
    /// Records below may be gone.
    pub log_start: i64,
    pub finally: Vec<ReadRecord>,
    pub replicas: BTreeMap<String, Replica>,
}

/// What one replica holds in the end.
#[derive(Debug)]
pub struct Replica {
    /// As the replica knew it when its records were read: it has freed nothing from there on.
    pub log_start: i64,
    pub records: Vec<ReadRecord>,
}

/// The answers to one reader, end to end.
#[derive(Debug, Default)]
pub struct Reader {
    pub records: Vec<ReadRecord>,
    pub answers: Vec<Answer>,
}

/// One answer, without its records.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Position of its first record in those of the reader.
    pub first: usize,
    pub leader_epoch: i32,
    pub log_start: i64,
    pub high_watermark: i64,
}

impl Reader {
    /// Each answer with its records.
    pub fn answers(&self) -> impl Iterator<Item = (Answer, &[ReadRecord])> + '_ {
        let ends = self.answers.iter().skip(1).map(|next| next.first).chain([self.records.len()]);
        self.answers.iter().zip(ends).map(|(answer, end)| (*answer, &self.records[answer.first..end]))
    }
}

impl PartitionHistory {
    pub fn poll(&mut self, poll: Poll<'_>) {
        let reader = self.readers.entry(poll.reader).or_default();
        reader.answers.push(Answer {
            first: reader.records.len(),
            leader_epoch: poll.leader_epoch,
            log_start: poll.log_start,
            high_watermark: poll.high_watermark,
        });
        reader.records.extend_from_slice(poll.records);
    }

    /// Adds everything noted to the digest.
    pub fn digest(&self, digest: &mut Digest) {
        for sent in &self.sends {
            let (kind, offset) = match sent.outcome {
                Outcome::Acked(offset) => (0, offset),
                Outcome::Refused => (1, 0),
                Outcome::Unknown => (2, 0),
            };
            let words = [u64::from(sent.producer), sent.value, kind, sent.begun, sent.ended];
            words.into_iter().for_each(|word| digest.write_u64(word));
            digest.write_i64(offset);
        }
        for (number, reader) in &self.readers {
            digest.write_u64(u64::from(*number));
            for answer in &reader.answers {
                digest.write_u64(answer.first as u64);
                digest.write_i32(answer.leader_epoch);
                digest.write_i64(answer.log_start);
                digest.write_i64(answer.high_watermark);
            }
            digest_records(&reader.records, digest);
        }
        for listing in &self.listings {
            [listing.begun, listing.ended].into_iter().for_each(|at: Micros| digest.write_u64(at));
            digest.write_i64(listing.log_start.unwrap_or(-1));
            digest.write_i64(listing.end.unwrap_or(-1));
        }
        digest.write_i64(self.log_start);
        digest_records(&self.finally, digest);
        for replica in self.replicas.values() {
            digest.write_i64(replica.log_start);
            digest_records(&replica.records, digest);
        }
    }
}

fn digest_records(records: &[ReadRecord], digest: &mut Digest) {
    for (offset, value) in records {
        digest.write_i64(*offset);
        digest.write_u64(*value);
    }
}
