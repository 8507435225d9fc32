//! A forced recovery that the metadata has decided, carried out on the copy that survived.
//!
//! Invariant: it is carried out once for each decision, however often the broker crashes meanwhile: carried out again
//! later, it would throw out the voters that joined since.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use headwater_consensus::{Creation, Peer, creation, creation_change, open_log, recovery};
use headwater_core::metadata::Replica;
use headwater_proto::types::{GroupId, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::log::LogOptions;

use crate::error::RequestError;

/// Kind of a group's fact: the term above which it was recovered last, `u64`.
pub(super) const RECOVERED_ABOVE: u8 = 48;

/// Whether this decision, or a later one, was carried out here: metadata that is behind may name an older one.
pub fn is_done(data_dir: &DataDir, group: GroupId, above: Term) -> bool {
    let done = data_dir.get(Some(group), RECOVERED_ABOVE);
    let done = done.and_then(|fact| fact.as_ref().try_into().ok()).map(u64::from_be_bytes);
    done.is_some_and(|done| Term(done) >= above)
}

/// Makes the replica the only voter of its group, unless it was for this decision. It must not be running.
///
/// Where no copy was left, an empty one begins above the term all the same: else whoever remembers the leaders of
/// before would not believe the next one.
pub async fn make_sole_voter(
    data_dir: &Arc<DataDir>,
    group: GroupId,
    own: Replica,
    above: Term,
) -> Result<(), RequestError> {
    let failed = |error: std::io::Error| RequestError::Storage(error.to_string());
    if is_done(data_dir, group, above) {
        return Ok(());
    }
    let decided = Bytes::copy_from_slice(&above.get().to_be_bytes());
    let peer = Peer { broker_id: own.broker, incarnation: own.incarnation };
    if creation(data_dir, group)?.is_none() {
        let record = Creation { replica_id: own.id, voters: BTreeMap::from([(own.id, peer)]) };
        data_dir.put_many(vec![creation_change(group, &record)]).await.map_err(failed)?;
    }
    accept_damage(data_dir, group).await?;
    let recovered = recovery::make_sole_voter(data_dir, group, own.id, peer, above).await?;
    tracing::warn!(%group, replica_id = %own.id, kept = ?recovered.kept, "what this replica holds is all that is left");
    data_dir.put(Some(group), RECOVERED_ABOVE, decided).await.map_err(failed)
}

/// Whoever decided it was told of the damage, and that no other copy is whole.
async fn accept_damage(data_dir: &Arc<DataDir>, group: GroupId) -> Result<(), RequestError> {
    let log = open_log(data_dir, group, LogOptions::default()).await?;
    if log.damage().is_some_and(|damage| !damage.accepted) {
        tracing::warn!(%group, "what is damaged here is given up as well");
        log.accept_loss().await.map_err(headwater_consensus::ConsensusError::from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use headwater_proto::types::{BrokerId, PartitionId, ReplicaId, TopicId};
    use headwater_storage::disk::{Disk, SimDisk};

    use super::*;

    const GROUP: GroupId = GroupId { topic_id: TopicId([5; 16]), partition: PartitionId(0) };
    const ABOVE: Term = Term(7);

    async fn open(disk: &Arc<SimDisk>) -> Arc<DataDir> {
        let disk: Arc<dyn Disk> = disk.clone();
        DataDir::open(disk, Path::new("/data"), &mut || 3).await.unwrap()
    }

    async fn last_term(data_dir: &Arc<DataDir>) -> Option<Term> {
        let log = data_dir.open_log(GROUP, LogOptions::default()).await.unwrap();
        log.bounds().last.map(|last| last.term)
    }

    #[tokio::test]
    async fn wherever_the_power_fails_the_next_start_finishes_it_and_the_one_after_changes_nothing() {
        for has_copy in [true, false] {
            for operations in 0.. {
                let disk = Arc::new(SimDisk::new(operations));
                let data_dir = open(&disk).await;
                let (broker, incarnation) = (BrokerId(1), data_dir.incarnation());
                let own = Replica { id: ReplicaId(1_000), broker, incarnation };
                if has_copy {
                    // As an earlier decision has left it.
                    make_sole_voter(&data_dir, GROUP, own, Term(2)).await.unwrap();
                }
                disk.die_after(disk.operations() + operations);
                let recovering = make_sole_voter(&data_dir, GROUP, own, ABOVE);
                let done = tokio::time::timeout(std::time::Duration::from_millis(200), recovering).await;
                disk.power_cut();
                drop(data_dir);

                let data_dir = open(&disk).await;
                let is_done = matches!(done, Ok(Ok(())));
                let before = last_term(&data_dir).await;
                assert!(!is_done || before > Some(ABOVE), "what was done is durable");
                // The last as by metadata that is behind.
                for above in [ABOVE, ABOVE, Term(3)] {
                    make_sole_voter(&data_dir, GROUP, own, above).await.unwrap();
                }
                let after = last_term(&data_dir).await;
                assert!(after > Some(ABOVE));
                assert!(!is_done || after == before, "once");
                if is_done {
                    break;
                }
            }
        }
    }
}
