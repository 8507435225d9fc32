//! The store and the groups on a simulated disk, and the store suite on a real one too.
#![allow(clippy::unwrap_used)]

mod group;
mod model;
mod snapshot;
mod store;
mod suite;
mod support;
