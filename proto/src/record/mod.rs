//! The Kafka record batch, version 2 (magic 2): the unit of producing, storing and fetching.
//!
//! Source: <https://kafka.apache.org/documentation/#recordbatch>. Invariant: every length and count
//! that comes from outside is checked against what remains and against a limit before memory is
//! taken. Nothing here reads a clock or does I/O.

mod batch;
mod builder;
pub mod codec;
mod error;
mod header;
mod iter;
mod varint;

pub use batch::{Limits, RecordBatch};
pub use builder::{HeaderRef, RecordBatchBuilder, empty_control_batch, record_bytes_max};
pub use error::RecordError;
pub use header::{Attributes, BatchHeader, CRC_START, Compression, HEADER_BYTES, LENGTH_OVERHEAD};
pub use iter::{Header, Record, RecordIter};
