//! The store and the groups on a simulated disk, and the store suite on a real one too.
#![allow(clippy::unwrap_used)]

mod changes;
mod cluster;
mod faults;
mod group;
mod idle;
mod model;
mod net;
mod replication;
mod snapshot;
mod store;
mod suite;
mod support;
mod torn;
