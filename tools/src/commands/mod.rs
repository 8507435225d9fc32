//! One module per command.

pub mod bench;
pub mod brokers;
pub mod cluster;
pub mod completion;
pub mod confirm;
pub mod consume;
pub mod context;
pub mod dump;
pub mod follow;
pub mod leader;
pub mod node;
pub mod offsets;
pub mod partition;
pub mod produce;
pub mod records;
pub mod topic;
