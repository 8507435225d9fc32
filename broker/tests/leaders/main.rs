//! Leaders, followers and rest in a cluster of three brokers, over their real listeners.

#![allow(clippy::unwrap_used)]

mod harness;
#[path = "../ports/mod.rs"]
mod ports;
mod reads;
mod rest;
mod status;
