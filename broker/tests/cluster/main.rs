//! Several whole brokers over loopback, each in a runtime and on a simulated disk of its own: how they come to one
//! cluster, survive one another, and leave.

#![allow(clippy::unwrap_used)]

mod founding;
mod harness;
mod lifecycle;
mod metadata_recovery;
#[path = "../ports/mod.rs"]
mod ports;
#[path = "../records/mod.rs"]
mod records;
mod recovery;
mod rot;
