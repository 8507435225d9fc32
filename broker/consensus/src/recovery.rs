//! Forced recovery: what to do when a majority of a group is gone for good.
//!
//! One surviving replica is made the only voter. What it does not hold is lost, acknowledged or not, and what others
//! still hold must never come back: their replica ids are to be retired. Only an operator can decide that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_core::ControlEntry;
use headwater_proto::record::empty_control_batch;
use headwater_proto::types::{GroupId, LogIndex, ReplicaId, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::log::{LogError, LogId, LogOptions, NewEntry};

use crate::encoding::{encode_membership, encode_vote};
use crate::error::ConsensusError;
use crate::log_store::{Shared, fact};
use crate::start::{creation, open_log};
use crate::types::{Membership, Peer, RaftVote};

/// What a forced recovery left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The last entry that was kept.
    pub kept: LogId,
    /// The entry by which the replica is the only voter.
    pub last: LogId,
}

/// Makes a replica, which must not be running, the only voter of its group: appends that to its log, at a term above
/// `min_term` and all that it knows itself. `min_term` must be the highest term in which any leader of the group was
/// announced, so that no entry of an earlier leader can be taken for one of the next. Durable on return; the next
/// start of the group elects the replica at once. May be repeated.
///
/// # Errors
/// The replica is not in this directory; its log is damaged and the loss was not accepted; the disk failed.
pub async fn make_sole_voter(
    data_dir: &Arc<DataDir>,
    group: GroupId,
    replica_id: ReplicaId,
    peer: Peer,
    min_term: Term,
) -> Result<Recovered, ConsensusError> {
    if peer.incarnation != data_dir.incarnation() {
        return Err(ConsensusError::OtherIncarnation { replica_id });
    }
    match creation(data_dir, group)? {
        Some(created) if created.replica_id == replica_id => {}
        Some(created) => {
            return Err(ConsensusError::OtherReplica { found: created.replica_id, expected: replica_id });
        }
        None => return Err(ConsensusError::InvalidRequest("this directory holds no replica of the group")),
    }
    let log = open_log(data_dir, group, LogOptions::default()).await?;
    if log.damage().is_some_and(|damage| !damage.accepted) {
        return Err(ConsensusError::Damaged);
    }
    let shared = Shared::open(group, Arc::clone(data_dir), Arc::clone(&log))?;
    let bounds = log.bounds();
    let kept = bounds.last.unwrap_or_default();
    let voted = shared.vote().map(|vote| Term(vote.leader_id.term)).unwrap_or_default();
    let term = Term(voted.max(kept.term).max(min_term).get().saturating_add(1));
    // First, so that no log holds an entry of a term that its replica does not know of.
    let vote = encode_vote(&RaftVote::new(term.get(), replica_id));
    data_dir.put(Some(group), fact::VOTE, vote).await.map_err(ConsensusError::Journal)?;

    let membership =
        Membership::new(vec![BTreeSet::from([replica_id])], BTreeMap::from([(replica_id, peer)]))
            .map_err(|_| ConsensusError::InvalidRequest("a voter without a place"))?;
    if bounds.last.is_none() {
        log.begin_at(LogIndex(1))?;
    }
    let entry = ControlEntry::Membership(encode_membership(&membership));
    let last = log.append(&[NewEntry { term, batch: empty_control_batch(&entry.encode()) }])?;
    log.flush().await.map_err(LogError::from)?;
    tracing::warn!(%group, %replica_id, ?kept, %term, "forced recovery: this replica is the only voter from now on");
    Ok(Recovered { kept, last })
}
