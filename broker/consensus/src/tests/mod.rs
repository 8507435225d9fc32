//! The store and the groups on a simulated disk, and the store suite on a real one too.
#![allow(clippy::unwrap_used)]

mod cluster;
mod faults;
mod group;
mod model;
mod net;
mod replication;
mod snapshot;
mod store;
mod suite;
mod support;
