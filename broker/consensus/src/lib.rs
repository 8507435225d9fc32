//! Everything openraft: each partition, and the metadata, is a Raft group whose log is the data itself.
//!
//! Invariants: only this crate names openraft; what it tells the broker is committed, applied and durable on a
//! quorum; nothing that it persists about a log leads that log's durable end. Must not decide what is appended:
//! that is the gate's, in `core`.

mod applied;
mod driver;
mod encoding;
mod error;
mod group;
mod inbound;
mod log_reader;
mod log_store;
mod membership;
mod network;
mod observe;
pub mod peer;
mod pending;
#[cfg(feature = "mutants")]
mod planted;
mod quiet;
mod reads;
pub mod recovery;
mod role;
mod settings;
mod start;
mod tables;
mod tail;
#[cfg(test)]
mod tests;
mod transfer;
pub mod transport;
mod types;
mod wire;

pub use applied::Progress;
pub use encoding::Creation;
pub use error::{ConsensusError, ProposeError};
pub use group::{Group, Health, Leadership};
pub use membership::{Follower, GroupMembership};
pub use observe::Observation;
pub use pending::{Committed, LocallyDurable, Pending};
pub use quiet::Quiet;
pub use role::Role;
pub use settings::RaftSettings;
pub use start::{GroupHost, GroupSpec, creation, creation_change, open_log};
pub use types::{Peer, Proposal};
