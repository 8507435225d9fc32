//! Settings of a consumer, and where it starts.

use crate::ClientError;

/// Where to begin with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The first record that there is.
    Start,
    /// The next record to come.
    End,
    Offset(i64),
    /// The first record with this timestamp (milliseconds since the Unix epoch) or a later one; the
    /// end where there is none.
    Timestamp(i64),
}

/// What to do when a position is not in the log, as after a `DeleteRecords` or retention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OffsetPolicy {
    /// [`ConsumeError::OffsetOutOfRange`](crate::ConsumeError::OffsetOutOfRange).
    #[default]
    Error,
    /// Go on at the first record that there is.
    Earliest,
    /// Go on with the next record to come.
    Latest,
}

/// Settings of a [`Consumer`](super::Consumer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// Bound on the record bytes that have arrived and were not yet taken, besides one message per
    /// broker and what the connection's receive window holds. Default 16 MiB.
    pub prefetch_bytes: usize,
    /// Bound on the record bytes of one message; a single larger batch still arrives. At most 32 MiB.
    /// Default 1 MiB.
    pub max_message_bytes: u32,
    /// Compare each batch with its CRC-32C on arrival. Default true.
    pub check_crc: bool,
    /// Bound on a batch's records after decompression. Default 256 MiB.
    pub decompressed_bytes_max: usize,
    pub offset_policy: OffsetPolicy,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            prefetch_bytes: 16 << 20,
            max_message_bytes: 1 << 20,
            check_crc: true,
            decompressed_bytes_max: 256 << 20,
            offset_policy: OffsetPolicy::Error,
        }
    }
}

impl ConsumerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |what: &str| Err(ClientError::Config { what: what.to_owned() });
        if self.prefetch_bytes == 0 {
            return refuse("prefetch_bytes must be at least 1");
        }
        if !(1..=32 << 20).contains(&self.max_message_bytes) {
            return refuse("max_message_bytes must be from 1 B to 32 MiB");
        }
        Ok(())
    }
}
