//! The Headwater broker as a library: [`Broker::start`] runs one in the caller's runtime, on the
//! caller's disk, clock, entropy and network. `ARCHITECTURE.md` is the map.

mod cluster;
pub mod config;
mod controller;
pub mod env;
mod error;
mod failed;
mod fetch;
mod grpc;
mod hand_over;
mod host;
mod http;
mod lifecycle;
mod limits;
mod listener;
mod metrics;
mod node;
mod observe;
mod operations;
mod partition;
mod proposer;
mod retention;
mod router;
mod scrub;
mod server;
mod steward;
pub mod telemetry;

pub use controller::{
    EntranceError, IdentityError, MetadataOutlook, MetadataRecoveryError, recover_metadata,
};
pub use env::Env;
pub use headwater_consensus::Observation;
pub use limits::{MemoryPermit, MessageMemory};
pub use node::{Node, NodeError};
pub use server::{Addresses, Advertised, Broker, NodeContext, StartError};
