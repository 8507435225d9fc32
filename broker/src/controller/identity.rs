//! To which cluster a data directory belongs, and as what.
//!
//! Invariants: **cluster, broker id and the replica of the metadata group are journalled together, before anything
//! else happens**, and never change; a directory that has none of them belongs to nobody.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use headwater_consensus::{ConsensusError, Creation, Peer, creation, creation_change};
use headwater_proto::types::{BrokerId, ClusterId, GroupId, ReplicaId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::journal::Change;
use thiserror::Error;

use crate::env::Entropy;

/// Kind of the node's own fact that names cluster and broker: version `u16`, cluster id, broker id `i32`.
const IDENTITY: u8 = 64;
const IDENTITY_VERSION: u16 = 0;

/// The one voter with which a cluster of one begins.
const FIRST_REPLICA: ReplicaId = ReplicaId(1);

/// Who this broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub broker_id: BrokerId,
    /// Its replica of the metadata group.
    pub replica_id: ReplicaId,
    /// The voters with which the metadata group was created; nobody where this broker joined later.
    pub founders: BTreeMap<ReplicaId, Peer>,
}

/// The data directory belongs to somebody else, or its owner cannot be told.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error(
        "the data directory belongs to broker {found}, but this one is {configured}: \
         set node_id to {found}, or choose another --data-dir"
    )]
    OtherBroker { found: BrokerId, configured: BrokerId },
    #[error("the identity in the data directory cannot be read: a newer headwater wrote it, use that one")]
    Unreadable,
    #[error("the identity could not be written to the journal: {0}")]
    Journal(#[from] io::Error),
}

impl Identity {
    /// That of the directory, if it has one.
    ///
    /// # Errors
    /// It is another broker's, or cannot be read.
    pub fn read(data_dir: &DataDir, broker_id: BrokerId) -> Result<Option<Self>, IdentityError> {
        let Some(fact) = data_dir.get(None, IDENTITY) else { return Ok(None) };
        let (cluster_id, found) = decode(&fact).ok_or(IdentityError::Unreadable)?;
        if found != broker_id {
            return Err(IdentityError::OtherBroker { found, configured: broker_id });
        }
        let unreadable = |_: ConsensusError| IdentityError::Unreadable;
        let record = match creation(data_dir, GroupId::METADATA).map_err(unreadable)? {
            Some(record) => record,
            // Up to version 0.1 a broker, always alone, journalled the two one after the other.
            None => alone(data_dir, broker_id),
        };
        let Creation { replica_id, voters: founders } = record;
        Ok(Some(Self { cluster_id, broker_id, replica_id, founders }))
    }

    /// A cluster of its own.
    pub fn alone(data_dir: &DataDir, broker_id: BrokerId, entropy: &dyn Entropy) -> Self {
        let Creation { replica_id, voters: founders } = alone(data_dir, broker_id);
        Self { cluster_id: new_cluster_id(entropy), broker_id, replica_id, founders }
    }

    /// Makes the directory belong to the cluster, for ever. It must belong to none.
    pub async fn write(&self, data_dir: &DataDir) -> Result<(), IdentityError> {
        let record = Creation { replica_id: self.replica_id, voters: self.founders.clone() };
        let identity =
            Change::Put { group: None, kind: IDENTITY, value: encode(self.cluster_id, self.broker_id) };
        Ok(data_dir.put_many(vec![identity, creation_change(GroupId::METADATA, &record)]).await?)
    }

    /// Whether it is this broker that initializes the metadata group.
    pub fn is_founder(&self) -> bool {
        self.founders.keys().next() == Some(&self.replica_id)
    }
}

/// An id that no other cluster has.
pub fn new_cluster_id(entropy: &dyn Entropy) -> ClusterId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&entropy.next_u64().to_be_bytes());
    id[8..].copy_from_slice(&entropy.next_u64().to_be_bytes());
    ClusterId(id)
}

fn alone(data_dir: &DataDir, broker_id: BrokerId) -> Creation {
    let own = Peer { broker_id, incarnation: data_dir.incarnation() };
    Creation { replica_id: FIRST_REPLICA, voters: BTreeMap::from([(FIRST_REPLICA, own)]) }
}

fn encode(cluster_id: ClusterId, broker_id: BrokerId) -> Bytes {
    let mut fact = IDENTITY_VERSION.to_be_bytes().to_vec();
    fact.extend_from_slice(&cluster_id.0);
    fact.extend_from_slice(&broker_id.get().to_be_bytes());
    fact.into()
}

fn decode(fact: &[u8]) -> Option<(ClusterId, BrokerId)> {
    let (version, rest) = fact.split_first_chunk()?;
    let (cluster_id, rest) = rest.split_first_chunk()?;
    let (broker_id, rest) = rest.split_first_chunk()?;
    (u16::from_be_bytes(*version) == IDENTITY_VERSION && rest.is_empty())
        .then_some((ClusterId(*cluster_id), BrokerId(i32::from_be_bytes(*broker_id))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::sync::Arc;

    use headwater_proto::types::Incarnation;
    use headwater_storage::disk::{Disk, SimDisk};

    use super::*;

    #[test]
    fn an_identity_survives_its_encoding_and_nothing_else_is_one() {
        let identity = (ClusterId([9; 16]), BrokerId(3));
        let fact = encode(identity.0, identity.1);
        assert_eq!(decode(&fact), Some(identity));
        assert_eq!(decode(&fact[..fact.len() - 1]), None);
        let newer = [&[0, 1], &fact[2..]].concat();
        assert_eq!(decode(&newer), None);
    }

    async fn open(disk: &Arc<SimDisk>) -> Arc<DataDir> {
        let disk: Arc<dyn Disk> = disk.clone();
        let mut drawn = 0;
        let mut draw = || {
            drawn += 1;
            drawn
        };
        DataDir::open(disk, Path::new("/data"), &mut draw).await.unwrap()
    }

    #[tokio::test]
    async fn a_directory_belongs_to_one_cluster_as_one_replica_or_to_none() {
        let peer = |id| Peer { broker_id: BrokerId(id), incarnation: Incarnation([id as u8; 16]) };
        let founders = BTreeMap::from([(ReplicaId(1), peer(1)), (ReplicaId(2), peer(2))]);
        let identity = Identity {
            cluster_id: ClusterId([7; 16]),
            broker_id: BrokerId(2),
            replica_id: ReplicaId(2),
            founders,
        };
        // Whatever of the write a power cut leaves: all of it or nothing.
        let mut seen = [false; 2];
        for operations in 0.. {
            let disk = Arc::new(SimDisk::new(operations));
            let data_dir = open(&disk).await;
            let before = disk.operations();
            disk.die_after(before + operations);
            let written =
                tokio::time::timeout(std::time::Duration::from_millis(200), identity.write(&data_dir)).await;
            disk.power_cut();
            drop(data_dir);
            let data_dir = open(&disk).await;
            let found = Identity::read(&data_dir, BrokerId(2)).unwrap();
            seen[usize::from(found.is_some())] = true;
            if let Some(found) = found {
                assert_eq!(found, identity);
                assert!(!found.is_founder());
            } else {
                assert!(!matches!(written, Ok(Ok(()))), "what was written is there");
            }
            if matches!(written, Ok(Ok(()))) {
                break;
            }
        }
        assert_eq!(seen, [true, true]);
    }
}
