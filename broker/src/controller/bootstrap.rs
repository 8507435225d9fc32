//! How a broker becomes a cluster of one.
//!
//! Invariants: identity is journalled before anything else happens; a data directory belongs to one
//! cluster and one broker id for ever; the metadata group is initialized exactly once.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use headwater_consensus::{ConsensusError, Group, GroupHost, GroupSpec, Peer};
use headwater_core::MetadataState;
use headwater_proto::types::{BrokerId, ClusterId, GroupId, ReplicaId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::log::LogOptions;
use thiserror::Error;

use crate::env::Entropy;

/// Kind of the node's own fact that names cluster and broker: version `u16`, cluster id, broker id `i32`.
const IDENTITY: u8 = 64;
const IDENTITY_VERSION: u16 = 0;

/// The one voter with which a cluster of one begins.
const FIRST_REPLICA: ReplicaId = ReplicaId(1);

/// The metadata log is small, and only its newest part is ever read.
const METADATA_SEGMENT_BYTES: u64 = 16 << 20;

/// Who this broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub broker_id: BrokerId,
}

/// The data directory belongs to somebody else.
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

/// Reads the identity of the directory, or gives it one.
pub async fn establish_identity(
    data_dir: &DataDir,
    broker_id: BrokerId,
    entropy: &dyn Entropy,
) -> Result<Identity, IdentityError> {
    if let Some(fact) = data_dir.get(None, IDENTITY) {
        let found = decode(&fact).ok_or(IdentityError::Unreadable)?;
        return if found.broker_id == broker_id {
            Ok(found)
        } else {
            Err(IdentityError::OtherBroker { found: found.broker_id, configured: broker_id })
        };
    }
    let mut cluster_id = [0; 16];
    cluster_id[..8].copy_from_slice(&entropy.next_u64().to_be_bytes());
    cluster_id[8..].copy_from_slice(&entropy.next_u64().to_be_bytes());
    let identity = Identity { cluster_id: ClusterId(cluster_id), broker_id };
    data_dir.put(None, IDENTITY, encode(identity)).await?;
    Ok(identity)
}

/// Starts the metadata group, of which this broker is the only voter.
pub async fn start_metadata_group(
    data_dir: &Arc<DataDir>,
    identity: &Identity,
    seed: u64,
) -> Result<Arc<Group<MetadataState>>, ConsensusError> {
    let own = Peer { broker_id: identity.broker_id, incarnation: data_dir.incarnation() };
    let spec = GroupSpec {
        id: GroupId::METADATA,
        replica_id: FIRST_REPLICA,
        voters: BTreeMap::from([(FIRST_REPLICA, own)]),
        initialize: true,
    };
    let options = LogOptions { segment_bytes: METADATA_SEGMENT_BYTES, ..LogOptions::default() };
    let state = MetadataState::default();
    let host = GroupHost::alone(Arc::clone(data_dir));
    Box::pin(Group::start(spec, host, options, Default::default(), seed, state)).await
}

fn encode(identity: Identity) -> Bytes {
    let mut fact = IDENTITY_VERSION.to_be_bytes().to_vec();
    fact.extend_from_slice(&identity.cluster_id.0);
    fact.extend_from_slice(&identity.broker_id.get().to_be_bytes());
    fact.into()
}

fn decode(fact: &[u8]) -> Option<Identity> {
    let (version, rest) = fact.split_first_chunk()?;
    let (cluster_id, rest) = rest.split_first_chunk()?;
    let (broker_id, rest) = rest.split_first_chunk()?;
    (u16::from_be_bytes(*version) == IDENTITY_VERSION && rest.is_empty()).then_some(Identity {
        cluster_id: ClusterId(*cluster_id),
        broker_id: BrokerId(i32::from_be_bytes(*broker_id)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_encoding_and_nothing_else_is_one() {
        let identity = Identity { cluster_id: ClusterId([9; 16]), broker_id: BrokerId(3) };
        let fact = encode(identity);
        assert_eq!(decode(&fact), Some(identity));
        assert_eq!(decode(&fact[..fact.len() - 1]), None);
        let newer = [&[0, 1], &fact[2..]].concat();
        assert_eq!(decode(&newer), None);
    }
}
