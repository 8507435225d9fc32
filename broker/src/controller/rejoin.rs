//! A broker whose replica of the metadata group is of no use any more, because its log is damaged or because a forced
//! recovery gave it up: it begins another one, as a learner, and keeps its partitions.
//!
//! Invariants: the old replica is deleted only once the cluster has allocated the new one; the new one has an id that
//! never voted; whatever of this a crash cuts short, the next start finishes before anything else is looked at.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use headwater_consensus::{Creation, creation_change};
use headwater_proto::types::{GroupId, ReplicaId, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::journal::Change;

/// Kind of the node's fact: the id of the new replica, `u64`, 0 while it is to be asked for, and the term above which the
/// metadata was recovered by force that gave the old one up, `u64`, 0 if none was; empty: all is well.
const REJOIN: u8 = 66;

/// What another broker says of this one's replica of the metadata group.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    pub recovered_above: Term,
    /// The replica that is this broker's.
    pub yours: Option<ReplicaId>,
}

impl Word {
    /// Whether a forced recovery gave the replica up that this broker has. Who is merely behind knows the id already,
    /// and the word of who is behind itself names an older one.
    pub fn gives_up(self, own: ReplicaId, recovered_above: Term) -> bool {
        self.recovered_above > recovered_above && self.yours.is_some_and(|yours| yours > own)
    }
}

/// A recovery of the metadata above this term gave the replica up: from now on it is not started any more. Durable on
/// return.
pub async fn note_given_up(data_dir: &DataDir, above: Term) -> io::Result<()> {
    put(data_dir, ReplicaId(0), above).await
}

/// Whether another replica has to be asked for: of those who know of a recovery above this term, and of nobody else.
pub fn is_due(data_dir: &DataDir) -> Option<Term> {
    noted(data_dir).filter(|(replica, _)| *replica == ReplicaId(0)).map(|(_, above)| above)
}

/// Begins the replica that the cluster allocated, in the place of the one that is here.
pub async fn begin(data_dir: &Arc<DataDir>, replica: ReplicaId) -> io::Result<()> {
    put(data_dir, replica, Term(0)).await?;
    finish(data_dir).await
}

/// Finishes what [`begin`] began.
pub async fn finish(data_dir: &Arc<DataDir>) -> io::Result<()> {
    let allocated = noted(data_dir).map(|(replica, _)| replica).filter(|replica| *replica != ReplicaId(0));
    let Some(replica_id) = allocated else { return Ok(()) };
    data_dir.delete_group(GroupId::METADATA).await?;
    // The leader tells it who votes.
    let record = Creation { replica_id, voters: BTreeMap::new() };
    let done = Change::Put { group: None, kind: REJOIN, value: Bytes::new() };
    data_dir.put_many(vec![creation_change(GroupId::METADATA, &record), done]).await
}

async fn put(data_dir: &DataDir, replica: ReplicaId, above: Term) -> io::Result<()> {
    let fact = [replica.get().to_be_bytes(), above.get().to_be_bytes()].concat();
    data_dir.put(None, REJOIN, Bytes::from(fact)).await
}

fn noted(data_dir: &DataDir) -> Option<(ReplicaId, Term)> {
    let fact = data_dir.get(None, REJOIN)?;
    let (replica, above) = fact.split_first_chunk()?;
    let replica = ReplicaId(u64::from_be_bytes(*replica));
    Some((replica, Term(u64::from_be_bytes(above.try_into().ok()?))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::time::Duration;

    use headwater_consensus::creation;
    use headwater_proto::record::empty_control_batch;
    use headwater_storage::disk::{Disk, SimDisk};
    use headwater_storage::log::{LogOptions, NewEntry};

    use super::*;

    async fn open(disk: &Arc<SimDisk>) -> Arc<DataDir> {
        let disk: Arc<dyn Disk> = disk.clone();
        DataDir::open(disk, Path::new("/data"), &mut || 3).await.unwrap()
    }

    #[tokio::test]
    async fn wherever_the_power_fails_there_is_the_old_replica_or_an_empty_new_one() {
        let (old, new) = (ReplicaId(2), ReplicaId(1_007));
        let mut seen = [false; 2];
        for operations in 0.. {
            let disk = Arc::new(SimDisk::new(operations));
            let data_dir = open(&disk).await;
            let record = Creation { replica_id: old, voters: BTreeMap::new() };
            data_dir.put_many(vec![creation_change(GroupId::METADATA, &record)]).await.unwrap();
            let log = data_dir.open_log(GroupId::METADATA, LogOptions::default()).await.unwrap();
            log.begin_at(headwater_proto::types::LogIndex(1)).unwrap();
            log.append(&[NewEntry { term: Term(1), batch: empty_control_batch(b"old") }]).unwrap();
            log.flush().await.unwrap();
            drop(log);
            disk.die_after(disk.operations() + operations);
            let done = tokio::time::timeout(Duration::from_millis(200), begin(&data_dir, new)).await;
            disk.power_cut();
            drop(data_dir);

            let data_dir = open(&disk).await;
            finish(&data_dir).await.unwrap();
            let found = creation(&data_dir, GroupId::METADATA).unwrap().unwrap().replica_id;
            let log = data_dir.open_log(GroupId::METADATA, LogOptions::default()).await.unwrap();
            let is_done = matches!(done, Ok(Ok(())));
            seen[usize::from(found == new)] = true;
            assert_eq!(log.bounds().last.is_none(), found == new);
            assert!(found == new || (found == old && !is_done));
            assert_eq!(is_due(&data_dir), None);
            if is_done {
                break;
            }
        }
        assert_eq!(seen, [true, true]);
    }

    #[test]
    fn only_a_recovery_gives_a_replica_up() {
        let word = |above, yours: u64| Word {
            recovered_above: Term(above),
            yours: (yours > 0).then_some(ReplicaId(yours)),
        };
        assert!(word(5, 1_004).gives_up(ReplicaId(2), Term(0)));
        assert!(!word(0, 1_004).gives_up(ReplicaId(2), Term(0)), "rebuilt, which its own log will say");
        assert!(!word(5, 1_004).gives_up(ReplicaId(1_004), Term(0)), "behind");
        assert!(!word(5, 1_004).gives_up(ReplicaId(1_009), Term(0)), "the other one is behind");
        assert!(!word(5, 0).gives_up(ReplicaId(2), Term(0)), "not registered: refused otherwise");
        assert!(!word(5, 1_004).gives_up(ReplicaId(2), Term(5)));
    }
}
