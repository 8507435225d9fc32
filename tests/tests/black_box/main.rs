//! Black-box tests: the built `headwater` and `streamctl` as processes, the wire, and the public client.
//!
//! `cargo test --workspace` builds the binaries; to run these tests alone, build them first:
//! `cargo build --bins && cargo test -p headwater-tests`.

#![allow(clippy::unwrap_used)]

mod cluster_tour;
mod damage;
mod directory;
mod harness;
mod hostile;
mod http2;
mod life;
mod producers;
mod programs;
mod refused;
mod shell;
mod tour;
