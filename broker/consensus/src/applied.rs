//! The applied state of a group: its machine, and how far the log was applied to it.
//!
//! Invariants: entries are applied in log order, each once; applying looks at headers only, unless the
//! machine itself reads the records.

use bytes::Bytes;
use headwater_core::{ApplyError, ControlEntry, Entry, EntryBody, Machine};
use headwater_proto::record::{BatchHeader, empty_control_batch};
use headwater_proto::types::Offset;
use headwater_storage::log::LogId;
use openraft::entry::RaftEntry as _;

use crate::encoding::{Tables, encode_membership};
use crate::error::ConsensusError;
use crate::types::{Payload, RaftEntry, RaftLogId, StoredMembership, from_raft, to_raft};

/// How far a group got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last applied entry; index 0 before the first.
    pub applied: LogId,
    /// The first offset that is not committed.
    pub high_watermark: Offset,
    /// The first offset that readers may see.
    pub log_start: Offset,
}

/// The machine, and what Raft itself has to know of the applied entries.
#[derive(Debug)]
pub(crate) struct Applied<M> {
    pub(crate) machine: M,
    pub(crate) at: Option<RaftLogId>,
    pub(crate) membership: StoredMembership,
}

impl<M: Machine> Applied<M> {
    /// The state before the first entry.
    pub(crate) fn initial(machine: &Bytes) -> Result<Self, ConsensusError> {
        Ok(Self { machine: M::decode(machine)?, at: None, membership: StoredMembership::default() })
    }

    pub(crate) fn from_tables(tables: &Tables) -> Result<Self, ConsensusError> {
        let machine = M::decode(&tables.machine)?;
        Ok(Self { machine, at: to_raft(tables.at), membership: tables.membership.clone() })
    }

    pub(crate) fn tables(&self) -> Tables {
        Tables {
            at: self.log_id(),
            next_offset: self.machine.next_offset(),
            membership: self.membership.clone(),
            machine: self.machine.encode().into(),
        }
    }

    pub(crate) fn log_id(&self) -> LogId {
        self.at.as_ref().map(from_raft).unwrap_or_default()
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            applied: self.log_id(),
            high_watermark: self.machine.next_offset(),
            log_start: self.machine.log_start(),
        }
    }

    /// Applies the next entry. `None`: a void entry, which holds nothing of its proposer's.
    pub(crate) fn apply(&mut self, entry: &RaftEntry) -> Result<Option<M::Reply>, ApplyError> {
        let id = from_raft(&entry.log_id);
        let reply = match &entry.payload {
            Payload::Stored(stored) => {
                let body = match &stored.control {
                    Some(control) => EntryBody::Control(control),
                    None => EntryBody::Records(&stored.batch),
                };
                let reply = self.apply_batch(id, stored.base_offset, &stored.header, body)?;
                (stored.control != Some(ControlEntry::Void)).then_some(reply)
            }
            Payload::Blank => Some(self.apply_control(id, &ControlEntry::Blank)?),
            Payload::Membership(membership) => {
                Some(self.apply_control(id, &ControlEntry::Membership(encode_membership(membership)))?)
            }
            Payload::Proposal(_) => return Err(unstored(id)),
        };
        if let Some(membership) = entry.get_membership() {
            self.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        self.at = Some(entry.log_id);
        Ok(reply)
    }

    fn apply_batch(
        &mut self,
        id: LogId,
        base_offset: Offset,
        header: &BatchHeader,
        body: EntryBody<'_>,
    ) -> Result<M::Reply, ApplyError> {
        self.machine.apply(Entry { index: id.index, term: id.term, base_offset, header, body })
    }

    fn apply_control(&mut self, id: LogId, control: &ControlEntry) -> Result<M::Reply, ApplyError> {
        let header =
            BatchHeader::read(&empty_control_batch(&control.encode())).ok_or_else(|| unstored(id))?;
        self.apply_batch(id, self.machine.next_offset(), &header, EntryBody::Control(control))
    }
}

/// What is applied was read from the log, where a proposal has become a batch with a place.
fn unstored(id: LogId) -> ApplyError {
    ApplyError::Command { index: id.index, reason: "it did not pass through the log".to_owned() }
}
