//! The Kafka record batch, version 2 (magic 2).
//!
//! Source: <https://kafka.apache.org/documentation/#recordbatch>.

mod header;

pub use header::{Attributes, BatchHeader, Compression, HEADER_BYTES};
