//! Batches as a client builds them, and what is in those that it fetched.

use bytes::Bytes;
use headwater_proto::record::{Compression, Limits, RecordBatch, RecordBatchBuilder};

/// A batch of these values, stamped with this time, to be built.
pub fn builder(timestamp_ms: i64, values: &[&str]) -> RecordBatchBuilder {
    let mut builder = RecordBatchBuilder::new(Compression::None, None);
    for value in values {
        builder.append(timestamp_ms, None, Some(value.as_bytes()), &[]).unwrap();
    }
    builder
}

/// The records of whole batches from an offset on.
pub fn values(mut batches: Bytes, from: i64) -> Vec<(i64, Bytes)> {
    let mut found = Vec::new();
    while let Some(batch) = RecordBatch::split_first(&mut batches, &Limits::default()).unwrap() {
        for record in batch.records(&Limits::default()).unwrap() {
            let record = record.unwrap();
            if record.offset >= from {
                found.push((record.offset, record.value.unwrap()));
            }
        }
    }
    found
}
