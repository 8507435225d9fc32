//! A whole broker over its gRPC protocol, on the simulated disk: what it stores, answers and survives.

#![allow(clippy::unwrap_used)]

mod admin;
mod crash;
mod harness;
mod produce;
#[path = "../records/mod.rs"]
mod records;
mod retention;
