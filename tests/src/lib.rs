//! System tests of Headwater: what needs the whole product, or its limits, in one place.
//!
//! Invariant: everything goes through the public API of the broker, the client or the binaries.

pub mod chaos;
pub mod history;
pub mod load;
pub mod local_cluster;
pub mod process;
pub mod raw;
pub mod sim;
pub mod workload;
