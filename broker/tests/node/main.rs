//! A whole broker over its gRPC protocol, on the simulated disk: what it stores, answers and survives.

#![allow(clippy::unwrap_used)]

mod admin;
mod harness;
mod produce;
mod retention;
