//! Wire truth of Headwater, shared by broker, client and tools: gRPC messages, the record batch v2,
//! and a newtype for each number that could be taken for another.
//!
//! Invariants: nothing here does I/O, reads a clock or allocates by a length that was not checked
//! against what remains and against a limit.

pub mod error_code;
pub mod record;
pub mod types;

/// Generated gRPC messages and services of `proto/headwater/v1`.
pub mod v1 {
    #![allow(clippy::all, clippy::unwrap_used, missing_docs)]
    tonic::include_proto!("headwater.v1");
}

pub use error_code::ErrorCode;
