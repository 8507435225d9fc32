//! What can be wrong with a record batch, and the Kafka error code that says so to a client.

use super::Compression;
use crate::ErrorCode;

/// Why a batch, or a record in it, was refused.
///
/// Nothing is retried inside this crate; [`RecordError::code`] says what a client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the batch does.
    #[error("batch truncated: {needed} bytes needed, {remaining} there")]
    Truncated { needed: usize, remaining: usize },
    /// The length field cannot be that of a batch.
    #[error("batch length {0} is too small for a batch header")]
    BatchLength(i32),
    /// The batch is larger than the caller takes.
    #[error("batch of {bytes} bytes exceeds the limit of {limit}")]
    BatchTooLarge { bytes: usize, limit: usize },
    /// Bytes follow where one batch, one record or one compressed stream should have ended.
    #[error("{0} bytes follow the end")]
    TrailingBytes(usize),
    #[error("record format (magic) {0} is not supported, only 2 is")]
    Magic(i8),
    /// The batch was damaged after its producer sealed it.
    #[error("CRC-32C mismatch: batch says {stored:#010x}, its bytes give {computed:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("unknown compression codec {0}")]
    UnknownCompression(u8),
    #[error("record count {0} is negative")]
    NegativeRecordCount(i32),
    #[error("batch of {count} records exceeds the limit of {limit}")]
    TooManyRecords { count: i32, limit: i32 },
    /// More records declared than can be encoded in the bytes that are there.
    #[error("{count} records cannot fit in {bytes} bytes")]
    RecordsDoNotFit { count: i32, bytes: usize },
    #[error("last offset delta {last_offset_delta} does not fit {record_count} records")]
    LastOffsetDelta { last_offset_delta: i32, record_count: i32 },
    #[error("producer id {id} with epoch {epoch} is not a producer's identity")]
    Producer { id: i64, epoch: i16 },

    /// Control batches are written by brokers only.
    #[error("clients may not write control batches")]
    ControlFromProducer,
    #[error("the batch holds no records")]
    NoRecords,
    /// Offsets of a produced batch have no gaps: `last_offset_delta` is `record_count - 1`.
    #[error(
        "last offset delta {last_offset_delta} of a produced batch of {record_count} records leaves gaps"
    )]
    OffsetGaps { last_offset_delta: i32, record_count: i32 },
    #[error("base sequence {0} of an idempotent producer is negative")]
    NegativeSequence(i32),
    #[error("producers may not set the timestamp type to LogAppendTime")]
    LogAppendTimeFromProducer,
    /// The batch belongs to a transaction, and none is open.
    #[error("transactional batch outside a transaction")]
    Transactional,
    /// Attribute bits that are the broker's (delete horizon) or mean nothing yet.
    #[error("attribute bits {0:#06x} are not a producer's to set")]
    ReservedAttributes(u16),

    /// A varint runs past its longest form, or over the width of its type.
    #[error("malformed variable-length integer")]
    Varint,
    /// A record ends before its fields do, or its length is negative.
    #[error("record {index} of the batch: {what} runs past what remains")]
    RecordTruncated { index: i32, what: &'static str },
    /// A length or count in a record is out of its range.
    #[error("record {index} of the batch: {what} is {value}")]
    RecordField { index: i32, what: &'static str, value: i64 },

    #[error("{} stream: {reason}", compression.name())]
    Codec { compression: Compression, reason: String },
    /// Refused before the memory was taken.
    #[error("records exceed {limit} bytes when decompressed")]
    DecompressedTooLarge { limit: usize },
    #[error("{} has no compression level {level}", compression.name())]
    CompressionLevel { compression: Compression, level: i32 },
    /// The builder was given more than the 32-bit lengths of the format can say.
    #[error("a batch of {0} bytes or more cannot be encoded")]
    Unencodable(usize),
}

impl RecordError {
    /// The Kafka error code that a client is answered with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. }
            | Self::BatchLength(_)
            | Self::TrailingBytes(_)
            | Self::Crc { .. }
            | Self::RecordsDoNotFit { .. }
            | Self::Varint
            | Self::RecordTruncated { .. }
            | Self::RecordField { .. }
            | Self::Codec { .. } => ErrorCode::CorruptMessage,
            Self::BatchTooLarge { .. }
            | Self::TooManyRecords { .. }
            | Self::DecompressedTooLarge { .. }
            | Self::Unencodable(_) => ErrorCode::MessageTooLarge,
            Self::UnknownCompression(_) => ErrorCode::UnsupportedCompressionType,
            Self::LogAppendTimeFromProducer => ErrorCode::InvalidTimestamp,
            Self::Transactional => ErrorCode::InvalidTxnState,
            Self::CompressionLevel { .. } => ErrorCode::InvalidConfig,
            Self::Magic(_)
            | Self::NegativeRecordCount(_)
            | Self::LastOffsetDelta { .. }
            | Self::Producer { .. }
            | Self::ControlFromProducer
            | Self::NoRecords
            | Self::OffsetGaps { .. }
            | Self::NegativeSequence(_)
            | Self::ReservedAttributes(_) => ErrorCode::InvalidRecord,
        }
    }
}
