//! The log on disk: a journal of facts, segments with their indexes, and the rounds that make both durable.
//!
//! Invariants: everything durable goes through [`disk::Disk`]; what was acknowledged is on stable storage; what was
//! durable once is never cut by itself. What it must not do: know of Raft's rules, read a clock, draw a number.

mod codec;
pub mod data_dir;
pub mod disk;
pub mod flusher;
pub mod host;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod log;
mod map;
mod recovery;
pub mod scrub;
mod segment;
mod tables;
