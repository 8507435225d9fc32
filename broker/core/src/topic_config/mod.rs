//! The configs of a topic: Kafka's names, defaults and ranges; each honoured, or refused by name.
//!
//! Invariants: what is accepted is honoured; a config that Headwater cannot honour accepts its default
//! alone and says why. A stored override was accepted by this table, and stays readable by later ones.

mod table;

use std::collections::BTreeMap;

use thiserror::Error;

pub use table::{ConfigSpec, MIN_INSYNC_REPLICAS, Rule, TOPIC_CONFIGS};

/// Overrides of one topic, by name. Absent: the default.
pub type Overrides = BTreeMap<String, String>;

/// The configs of a topic that the broker acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// `None`: for ever.
    pub retention_ms: Option<i64>,
    /// Bytes per partition; `None`: without bound.
    pub retention_bytes: Option<u64>,
    pub segment_bytes: u32,
    /// Age of its first record at which a segment is sealed.
    pub segment_ms: i64,
    /// Bytes of a whole batch as it is stored, compressed.
    pub max_message_bytes: usize,
    pub min_insync_replicas: i32,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
}

/// Why a config is not accepted. All map to INVALID_CONFIG.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    #[error("there is no topic config '{name}'; `streamctl topic configs TOPIC` lists the known ones")]
    Unknown { name: String },
    #[error("topic config {name} cannot be '{value}': {expected}")]
    Value { name: &'static str, value: String, expected: String },
    #[error("topic config {name} cannot be '{value}', only '{default}': {reason}")]
    Refused { name: &'static str, value: String, default: &'static str, reason: &'static str },
    /// Waiting for more than a majority would promise what Raft does not wait for at a failover.
    #[error(
        "min.insync.replicas {min} is more than the majority of {replicas} replicas that acknowledges a write: \
         a write is held by {} of them, always, and never waits for more",
        replicas / 2 + 1
    )]
    MinInsync { min: i32, replicas: usize },
}

/// The row of a config; `None` for a name that neither Kafka nor Headwater knows.
#[must_use]
pub fn find(name: &str) -> Option<&'static ConfigSpec> {
    TOPIC_CONFIGS.iter().find(|spec| spec.name == name)
}

/// The row of a config that must exist.
///
/// # Errors
/// [`ConfigError::Unknown`].
pub fn known(name: &str) -> Result<&'static ConfigSpec, ConfigError> {
    find(name).ok_or_else(|| ConfigError::Unknown { name: name.to_owned() })
}

/// Checks one override.
///
/// # Errors
/// Unknown name, a value out of range, or one that is refused.
pub fn check(name: &str, value: &str) -> Result<(), ConfigError> {
    known(name)?.check(value)
}

/// The value in force and whether it is the default.
#[must_use]
pub fn effective<'a>(spec: &'static ConfigSpec, overrides: &'a Overrides) -> (&'a str, bool) {
    overrides.get(spec.name).map_or((spec.default, true), |value| (value.as_str(), value == spec.default))
}

impl TopicConfig {
    /// Resolves overrides, checking every one.
    ///
    /// # Errors
    /// The first override that is not accepted, or a minimum that `replicas` replicas cannot honour.
    pub fn resolve(overrides: &Overrides, replicas: usize) -> Result<Self, ConfigError> {
        for (name, value) in overrides {
            check(name, value)?;
        }
        let config = Self::stored(overrides);
        config.check_replicas(replicas)?;
        Ok(config)
    }

    /// Whether a topic with these configs can have that many replicas. Even counts are as good as any: of 2,
    /// both acknowledge a write, of 4, three.
    ///
    /// # Errors
    /// A minimum that the majority of them does not reach.
    pub const fn check_replicas(&self, replicas: usize) -> Result<(), ConfigError> {
        let min = self.min_insync_replicas;
        if min as usize > replicas / 2 + 1 {
            return Err(ConfigError::MinInsync { min, replicas });
        }
        Ok(())
    }

    /// The configs of a stored topic, whose overrides were checked when they were set. A value that this
    /// version cannot read counts as the default.
    #[must_use]
    pub fn stored(overrides: &Overrides) -> Self {
        let number = |name: &'static str| number(name, overrides);
        Self {
            retention_ms: Some(number(table::RETENTION_MS)).filter(|ms| *ms >= 0),
            retention_bytes: u64::try_from(number(table::RETENTION_BYTES)).ok(),
            segment_bytes: u32::try_from(number(table::SEGMENT_BYTES)).unwrap_or(u32::MAX),
            segment_ms: number(table::SEGMENT_MS),
            max_message_bytes: usize::try_from(number(table::MAX_MESSAGE_BYTES)).unwrap_or(0),
            min_insync_replicas: i32::try_from(number(table::MIN_INSYNC_REPLICAS)).unwrap_or(i32::MAX),
            timestamp_before_max_ms: number(table::TIMESTAMP_BEFORE_MAX_MS),
            timestamp_after_max_ms: number(table::TIMESTAMP_AFTER_MAX_MS),
        }
    }
}

impl Default for TopicConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self::stored(&Overrides::new())
    }
}

/// The number in force. Overrides were checked; one that is no number falls back to the default.
fn number(name: &str, overrides: &Overrides) -> i64 {
    let default = find(name).map_or("", |spec| spec.default);
    overrides
        .get(name)
        .and_then(|value| value.parse().ok())
        .or_else(|| default.parse().ok())
        .unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_default_is_accepted_and_every_name_is_there_once() {
        for spec in TOPIC_CONFIGS {
            assert_eq!(spec.check(spec.default), Ok(()), "{}", spec.name);
            assert_eq!(find(spec.name).unwrap(), spec);
            assert!(!spec.documentation.is_empty());
        }
        let mut names: Vec<_> = TOPIC_CONFIGS.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        let listed: Vec<_> = TOPIC_CONFIGS.iter().map(|spec| spec.name).collect();
        assert_eq!(names, listed, "the table is sorted");
        names.dedup();
        assert_eq!(names.len(), TOPIC_CONFIGS.len());
        assert_eq!(TopicConfig::resolve(&Overrides::new(), 1), Ok(TopicConfig::default()));
    }

    #[test]
    fn honoured_configs_take_effect() {
        let config = TopicConfig::resolve(
            &overrides(&[("retention.ms", "-1"), ("retention.bytes", "1000"), ("max.message.bytes", "77")]),
            1,
        )
        .unwrap();
        assert_eq!(config.retention_ms, None);
        assert_eq!(config.retention_bytes, Some(1000));
        assert_eq!(config.max_message_bytes, 77);
        assert_eq!(config.segment_ms, 604_800_000);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_with_a_reason() {
        for (name, value) in [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact,delete"),
            ("compression.type", "zstd"),
            ("flush.messages", "1"),
            ("flush.ms", "1000"),
            ("message.timestamp.type", "LogAppendTime"),
            ("unclean.leader.election.enable", "true"),
            ("write.caching", "true"),
            ("remote.storage.enable", "true"),
        ] {
            let error = check(name, value).unwrap_err();
            assert!(matches!(&error, ConfigError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(name));
        }
        assert!(matches!(check("retention.hours", "1"), Err(ConfigError::Unknown { .. })));
        assert!(matches!(check("retention.ms", "-2"), Err(ConfigError::Value { .. })));
        assert!(matches!(check("segment.bytes", "1e9"), Err(ConfigError::Value { .. })));
        assert!(matches!(check("max.message.bytes", ""), Err(ConfigError::Value { .. })));
    }

    #[test]
    fn more_in_sync_replicas_than_acknowledge_a_write_are_refused() {
        let two = overrides(&[("min.insync.replicas", "2")]);
        assert_eq!(TopicConfig::resolve(&two, 1), Err(ConfigError::MinInsync { min: 2, replicas: 1 }));
        assert_eq!(TopicConfig::resolve(&two, 3).unwrap().min_insync_replicas, 2);
        let three = overrides(&[("min.insync.replicas", "3")]);
        assert_eq!(TopicConfig::resolve(&three, 3), Err(ConfigError::MinInsync { min: 3, replicas: 3 }));
    }

    #[test]
    fn an_even_count_of_replicas_has_a_majority_like_any_other() {
        for (replicas, majority) in [(2, 2), (4, 3), (6, 4)] {
            let min = |min: i32| overrides(&[("min.insync.replicas", &min.to_string())]);
            assert!(TopicConfig::resolve(&min(majority), replicas).is_ok());
            let error = TopicConfig::resolve(&min(majority + 1), replicas).unwrap_err();
            assert!(error.to_string().contains(&format!("held by {majority} of them")), "{error}");
        }
    }
}
