//! Pure, deterministic state machines: what a partition and the cluster *are*, as a function of their logs.
//!
//! Invariants: nothing here is async, reads a clock, draws entropy or does I/O; every replica that applied
//! the same entries holds the same state, byte for byte in its encoding; decoding hostile bytes ends in an
//! error, never in a panic or in memory taken beyond the size of the input.

pub mod control;
pub mod epoch;
pub mod gate;
pub mod log_state;
pub mod machine;
pub mod metadata;
pub mod mutant;
pub mod partition;
pub mod placement;
pub mod producer;
pub mod topic_config;
pub mod topic_name;

pub use control::ControlEntry;
pub use gate::{Decision, Gate, Original, Refusal, Stamp};
pub use machine::{ApplyError, DecodeError, Entry, EntryBody, Machine};
pub use metadata::MetadataState;
pub use partition::{Applied, PartitionState};
pub use topic_config::TopicConfig;
