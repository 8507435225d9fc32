//! Rot: one bit of a batch that is durable on one disk.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use headwater_broker::Observation;
use headwater_proto::types::{GroupId, LogIndex, ReplicaId, Term};
use headwater_storage::disk::SimDisk;

use super::nodes::Node;
use crate::sim::world::SimEntropy;

/// Bytes of a stored batch that hold the leader epoch.
const EPOCH: std::ops::Range<u64> = 12..16;
/// Terms that a replica may vote in between its rot and the start that meets it.
const TERMS_AHEAD: u64 = 1_000;

/// An entry that rotted on one broker.
#[derive(Debug, Clone)]
pub struct Rotten {
    pub group: GroupId,
    pub replica: ReplicaId,
    index: LogIndex,
    term: Term,
    path: PathBuf,
    position: u64,
    /// As it is by now.
    bytes: Vec<u8>,
}

impl Rotten {
    /// Whether the rot is nobody's concern any more: its replica was rebuilt or deleted, or the entry purged or cut. It is
    /// not read for that, or the broker would be told of it.
    pub fn is_gone(&self, present: Option<ReplicaId>, node: &Node) -> bool {
        if present != Some(self.replica) || !is_at(&node.disk(), &self.path, self.position, &self.bytes) {
            return true;
        }
        let observations = node.observe().unwrap_or_default();
        let Some(seen) = observations.iter().find(|seen| seen.group == self.group && !seen.down) else {
            return false;
        };
        match seen.log.entry(self.index) {
            Ok(Some(entry)) => (entry.term, entry.position) != (self.term, self.position),
            Ok(None) => true,
            Err(_) => false,
        }
    }
}

impl std::fmt::Display for Rotten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {} of replica {} of {}", self.index, self.replica, self.group)
    }
}

fn is_at(disk: &SimDisk, path: &std::path::Path, position: u64, bytes: &[u8]) -> bool {
    let from = position as usize;
    disk.read_file(path).is_ok_and(|file| file.get(from..from + bytes.len()) == Some(bytes))
}

/// A durable entry, and its bytes.
pub struct Stored {
    group: GroupId,
    replica: ReplicaId,
    index: LogIndex,
    term: Term,
    position: u64,
    bytes: Vec<u8>,
    /// Terms with which a start would believe it, if its index entry is lost.
    believable: RangeInclusive<u64>,
}

/// Flips a bit in any durable entry of any replica.
pub fn any_entry(disk: &SimDisk, observations: &[Observation], entropy: &SimEntropy) -> Option<Rotten> {
    let seen = observations.get(entropy.below(observations.len() as u64) as usize)?;
    let bounds = seen.log.bounds();
    let (first, durable) = (bounds.first_index.get(), bounds.durable_index?.get());
    let count = (durable + 1).checked_sub(first).filter(|count| *count > 0)?;
    stored(seen, LogIndex(first + entropy.below(count)))?.rot(disk, entropy)
}

/// The last durable entry of every replica.
pub fn last_entries(observations: &[Observation]) -> Vec<Stored> {
    observations.iter().filter_map(|seen| stored(seen, seen.log.bounds().durable_index?)).collect()
}

fn stored(seen: &Observation, index: LogIndex) -> Option<Stored> {
    let (meta, bytes) = seen.log.batch(index).ok()??;
    let before = match seen.log.entry(LogIndex(index.get() - 1)).ok()? {
        Some(before) => before.term,
        None => seen.log.bounds().purged.map(|purged| purged.term).unwrap_or_default(),
    };
    Some(Stored {
        group: seen.group,
        replica: seen.replica_id,
        index,
        term: meta.term,
        position: meta.position,
        bytes: bytes.to_vec(),
        believable: before.get()..=seen.term.get() + TERMS_AHEAD,
    })
}

impl Stored {
    pub fn is_of_metadata(&self) -> bool {
        self.group == GroupId::METADATA
    }

    /// Flips one of its bits on the disk; `None` if the entry is not there.
    pub fn rot(mut self, disk: &SimDisk, entropy: &SimEntropy) -> Option<Rotten> {
        let directory = format!("/groups/{}/", self.group);
        let holds = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.contains(&directory)
                && name.ends_with(".log")
                && is_at(disk, path, self.position, &self.bytes)
        };
        let path = disk.paths().into_iter().find(holds)?;
        let mut within = entropy.below(self.bytes.len() as u64);
        let bit = entropy.below(8) as u8;
        // The leader epoch lies outside the batch's checksum; only the index vouches for it, which a power cut may have
        // taken along. Then its neighbours bound it, and nothing tells between those bounds: such a bit is left alone.
        if EPOCH.contains(&within) && self.would_be_believed(within, bit) {
            within += EPOCH.end - EPOCH.start;
        }
        disk.flip_bit(&path, self.position + within, bit).ok()?;
        self.bytes[within as usize] ^= 1 << bit;
        let Self { group, replica, index, term, position, bytes, .. } = self;
        Some(Rotten { group, replica, index, term, path, position, bytes })
    }

    /// Whether a start may take the entry for one of another term, with this bit of its leader epoch flipped.
    fn would_be_believed(&self, within: u64, bit: u8) -> bool {
        let mut epoch = [0; 4];
        epoch.copy_from_slice(&self.bytes[EPOCH.start as usize..EPOCH.end as usize]);
        epoch[(within - EPOCH.start) as usize] ^= 1 << bit;
        self.believable.contains(&u64::from(u32::from_be_bytes(epoch)))
    }
}
