//! The table of all topic configs of Apache Kafka 4.x, and of those of its relatives that users set.
//!
//! Source: `org.apache.kafka.storage.internals.log.LogConfig` and `TopicConfig` of Apache Kafka 3.9 to 4.2.
//! Sorted by name.

use super::ConfigError;

pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
pub const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
pub const RETENTION_BYTES: &str = "retention.bytes";
pub const RETENTION_MS: &str = "retention.ms";
pub const SEGMENT_BYTES: &str = "segment.bytes";
pub const SEGMENT_MS: &str = "segment.ms";
pub const TIMESTAMP_AFTER_MAX_MS: &str = "message.timestamp.after.max.ms";
pub const TIMESTAMP_BEFORE_MAX_MS: &str = "message.timestamp.before.max.ms";

/// Smaller than Kafka's, for tests that need many segments; a batch larger than its segment gets one of its own.
const SEGMENT_BYTES_MIN: i64 = 16 * 1024;

/// Which values a config accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Whole numbers in a closed range, honoured.
    Number { min: i64, max: i64 },
    /// The default alone; every other value is refused with this reason.
    DefaultOnly(&'static str),
}

/// One config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigSpec {
    pub name: &'static str,
    pub default: &'static str,
    pub rule: Rule,
    pub documentation: &'static str,
}

impl ConfigSpec {
    /// Checks a value.
    ///
    /// # Errors
    /// A value that is not in range, or refused.
    pub fn check(&self, value: &str) -> Result<(), ConfigError> {
        match self.rule {
            Rule::Number { min, max } => {
                let in_range = value.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number));
                in_range.then_some(()).ok_or_else(|| ConfigError::Value {
                    name: self.name,
                    value: value.to_owned(),
                    expected: format!("a whole number from {min} to {max} is needed"),
                })
            }
            Rule::DefaultOnly(_) if value == self.default => Ok(()),
            Rule::DefaultOnly(reason) => Err(ConfigError::Refused {
                name: self.name,
                value: value.to_owned(),
                default: self.default,
                reason,
            }),
        }
    }

    /// Why other values than the default are refused; empty for a config that can be changed.
    #[must_use]
    pub const fn refused_because(&self) -> &'static str {
        match self.rule {
            Rule::Number { .. } => "",
            Rule::DefaultOnly(reason) => reason,
        }
    }
}

const NOT_COMPACTED: &str = "log compaction is not implemented yet, so that it would have no effect";
const SEALED_BY_PRODUCERS: &str =
    "the broker stores batches exactly as their producer compressed them and never compresses itself";
const FSYNCED: &str = "every acknowledged write is fsynced already; there is no weaker mode to tune";
const NOT_CACHED: &str = "an acknowledged write is on stable storage of a majority; acknowledging what a power cut would lose is not offered";
const NOT_TIERED: &str = "there is no remote storage tier";
const NOT_THROTTLED: &str = "replication throttles are not implemented yet";
const DENSE_INDEX: &str = "the index has one row for every batch and grows with its segment";
const CREATE_TIME: &str =
    "timestamps lie under the checksum that the producer computed, and batches are stored as they came";

const fn honoured(
    name: &'static str,
    default: &'static str,
    (min, max): (i64, i64),
    documentation: &'static str,
) -> ConfigSpec {
    ConfigSpec { name, default, rule: Rule::Number { min, max }, documentation }
}

const fn fixed(
    name: &'static str,
    default: &'static str,
    reason: &'static str,
    documentation: &'static str,
) -> ConfigSpec {
    ConfigSpec { name, default, rule: Rule::DefaultOnly(reason), documentation }
}

const INT: (i64, i64) = (0, i32::MAX as i64);
const LONG: (i64, i64) = (0, i64::MAX);
const LONG_OR_NONE: (i64, i64) = (-1, i64::MAX);

/// Every known topic config.
#[rustfmt::skip]
pub const TOPIC_CONFIGS: &[ConfigSpec] = &[
    fixed("cleanup.policy", "delete", NOT_COMPACTED,
        "What happens to old segments: they are deleted by retention.ms and retention.bytes."),
    fixed("compression.gzip.level", "-1", SEALED_BY_PRODUCERS, "Level of gzip where the broker compresses."),
    fixed("compression.lz4.level", "9", SEALED_BY_PRODUCERS, "Level of lz4 where the broker compresses."),
    fixed("compression.type", "producer", SEALED_BY_PRODUCERS, "Codec of stored batches: the producer's."),
    fixed("compression.zstd.level", "3", SEALED_BY_PRODUCERS, "Level of zstd where the broker compresses."),
    fixed("delete.retention.ms", "86400000", NOT_COMPACTED, "How long tombstones of a compacted topic stay."),
    fixed("file.delete.delay.ms", "60000", "files go at once: readers keep what they hold of a deleted file",
        "Delay before the file of a deleted segment is removed."),
    fixed("flush.messages", "9223372036854775807", FSYNCED, "Messages after which the log is fsynced."),
    fixed("flush.ms", "9223372036854775807", FSYNCED, "Time after which the log is fsynced."),
    fixed("follower.replication.throttled.replicas", "", NOT_THROTTLED, "Followers whose replication is throttled."),
    fixed("index.interval.bytes", "4096", DENSE_INDEX, "Bytes between two rows of the offset index."),
    fixed("leader.replication.throttled.replicas", "", NOT_THROTTLED, "Leaders whose replication is throttled."),
    fixed("local.retention.bytes", "-2", NOT_TIERED, "Bytes kept locally of a tiered partition."),
    fixed("local.retention.ms", "-2", NOT_TIERED, "Time that segments of a tiered partition stay local."),
    fixed("max.compaction.lag.ms", "9223372036854775807", NOT_COMPACTED, "Longest time that a record stays uncompacted."),
    honoured(MAX_MESSAGE_BYTES, "1048588", INT, "Largest record batch that is accepted, in bytes, compressed."),
    fixed("message.downconversion.enable", "true", "Kafka removed it in 4.0; only record format 2 is spoken",
        "Conversion to old record formats for old consumers."),
    fixed("message.format.version", "3.0-IV1", "Kafka removed it in 4.0; the record format is always 2",
        "Version of the record format."),
    honoured(TIMESTAMP_AFTER_MAX_MS, "3600000", LONG,
        "How far a record's timestamp may lie after the broker's clock, in ms."),
    honoured(TIMESTAMP_BEFORE_MAX_MS, "9223372036854775807", LONG,
        "How far a record's timestamp may lie before the broker's clock, in ms."),
    fixed("message.timestamp.difference.max.ms", "9223372036854775807",
        "Kafka removed it in 4.0; set message.timestamp.before.max.ms and message.timestamp.after.max.ms",
        "How far a record's timestamp may lie from the broker's clock."),
    fixed("message.timestamp.type", "CreateTime", CREATE_TIME, "Whose clock stamps a record: its producer's."),
    fixed("min.cleanable.dirty.ratio", "0.5", NOT_COMPACTED, "Share of uncompacted bytes at which compaction begins."),
    fixed("min.compaction.lag.ms", "0", NOT_COMPACTED, "Shortest time that a record stays uncompacted."),
    honoured(MIN_INSYNC_REPLICAS, "1", (1, i32::MAX as i64),
        "Replicas that must hold a write before it is acknowledged. A majority always does (2 of 2, 2 of 3, 3 of 4); more is refused."),
    fixed("preallocate", "false", "files grow ahead of the writer in steps, always", "Allocate a segment's file in full."),
    fixed("remote.log.copy.disable", "false", NOT_TIERED, "Stop copying to the remote tier."),
    fixed("remote.log.delete.on.disable", "false", NOT_TIERED, "Delete what is remote when tiering is disabled."),
    fixed("remote.storage.enable", "false", NOT_TIERED, "Tiered storage."),
    honoured(RETENTION_BYTES, "-1", LONG_OR_NONE,
        "Bytes that a partition keeps, by whole closed segments. -1: no bound."),
    honoured(RETENTION_MS, "604800000", LONG_OR_NONE,
        "How long records are kept by their timestamps, by whole closed segments, in ms. -1: for ever."),
    honoured(SEGMENT_BYTES, "1073741824", (SEGMENT_BYTES_MIN, i32::MAX as i64), "Size at which a segment is closed, in bytes."),
    fixed("segment.index.bytes", "10485760", DENSE_INDEX, "Largest size of a segment's index."),
    fixed("segment.jitter.ms", "0", "segments are sealed when they are due", "Random part of segment.ms."),
    honoured(SEGMENT_MS, "604800000", (1, i64::MAX), "Age at which a segment is closed even if it is not full, in ms."),
    fixed("unclean.leader.election.enable", "false", "a replica that lacks committed records is never elected",
        "Elect a replica that may lack acknowledged records."),
    fixed("write.caching", "false", NOT_CACHED, "Redpanda's acknowledgement before fsync."),
];
