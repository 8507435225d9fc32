//! The whole broker and client in one thread, from one seed, on a simulated network and disk.
//!
//! Real code and real gRPC codecs; only clock, entropy, disk and sockets are replaced. Invariant: a
//! seed gives the same history every time, which `digest` proves in 64 bits. One process runs one seed:
//! tokio's scheduler seeds are drawn per process.

pub mod alone;
pub mod cluster;
pub mod world;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
