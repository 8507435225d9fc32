//! Reads that must be current.
//!
//! By the read index (Raft dissertation, section 6.4), always: the leader's lease could serve them without a round of
//! heartbeats, but leases are not persisted, and a voter that restarts within one would have to withhold its vote for
//! as long as the lease lasts. Lease reads are therefore not used anywhere.

use headwater_core::Machine;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};

use crate::applied::Progress;
use crate::error::ConsensusError;
use crate::group::Group;

impl<M: Machine> Group<M> {
    /// A state that reflects every write acknowledged before the call: asks a quorum whether this replica still leads,
    /// then waits until everything committed by then is applied. Wakes a quiet group.
    ///
    /// # Errors
    /// [`ConsensusError::NotLeader`]; [`ConsensusError::NoQuorum`]: none answered within a lease.
    pub async fn read_index(&self) -> Result<Progress, ConsensusError> {
        self.wake().await;
        self.confirm_leadership().await
    }

    /// The read index, whether or not the group is quiet.
    pub(crate) async fn confirm_leadership(&self) -> Result<Progress, ConsensusError> {
        let raft = self.raft()?;
        let read = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(read) => read,
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(ConsensusError::NotLeader { leader: forward.leader_id });
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(ConsensusError::NoQuorum);
            }
            Err(RaftError::Fatal(_)) => return Err(self.stopped()),
        };
        read.await_ready(raft).await.map_err(|_| self.stopped())?;
        Ok(*self.state.progress.borrow())
    }
}
