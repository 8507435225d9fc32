//! Rot: one bit of a batch that is durable on one disk.

use headwater_broker::Observation;
use headwater_proto::types::{GroupId, LogIndex, ReplicaId};
use headwater_storage::disk::SimDisk;

use super::nodes::Node;
use crate::sim::world::SimEntropy;

/// Bytes of a stored batch that hold the leader epoch.
const EPOCH: std::ops::Range<u64> = 12..16;

/// An entry that rotted on one broker.
#[derive(Debug, Clone, Copy)]
pub struct Rotten {
    pub group: GroupId,
    pub replica: ReplicaId,
    index: LogIndex,
}

impl Rotten {
    /// Whether the rot is nobody's concern any more: its replica was rebuilt or deleted, or the entry purged.
    pub fn is_gone(&self, present: Option<ReplicaId>, node: &Node) -> bool {
        if present != Some(self.replica) {
            return true;
        }
        let observations = node.observe().unwrap_or_default();
        let here = observations.iter().find(|seen| seen.group == self.group);
        here.is_some_and(|seen| !seen.down && seen.log.bounds().first_index > self.index)
    }
}

/// A durable entry, and its bytes.
pub struct Stored {
    rotten: Rotten,
    bytes: Vec<u8>,
    position: u64,
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
    let rotten = Rotten { group: seen.group, replica: seen.replica_id, index };
    Some(Stored { rotten, bytes: bytes.to_vec(), position: meta.position })
}

impl Stored {
    pub fn is_of_metadata(&self) -> bool {
        self.rotten.group == GroupId::METADATA
    }

    /// Flips one of its bits on the disk; `None` if the entry is not there.
    pub fn rot(self, disk: &SimDisk, entropy: &SimEntropy) -> Option<Rotten> {
        let directory = format!("/groups/{}/", self.rotten.group);
        let holds = |path: &std::path::PathBuf| {
            let name = path.to_string_lossy();
            let from = self.position as usize;
            name.contains(&directory)
                && name.ends_with(".log")
                && disk
                    .read_file(path)
                    .is_ok_and(|file| file.get(from..from + self.bytes.len()) == Some(&self.bytes[..]))
        };
        let path = disk.paths().into_iter().find(holds)?;
        let mut within = entropy.below(self.bytes.len() as u64);
        // The leader epoch lies outside the batch's checksum; only the index vouches for it, which a power cut may have
        // taken along.
        if EPOCH.contains(&within) {
            within += EPOCH.end - EPOCH.start;
        }
        let at = self.position + within;
        disk.flip_bit(&path, at, entropy.below(8) as u8).ok()?;
        Some(self.rotten)
    }
}
