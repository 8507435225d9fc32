//! Kafka's rules for topic names.
//!
//! Source: `org.apache.kafka.common.internals.Topic`.

use thiserror::Error;

/// Longest legal name, in bytes: Kafka's file names were `<topic>-<partition>`.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Why a name is not one of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopicNameError {
    #[error("a topic name cannot be empty")]
    Empty,
    #[error("a topic name cannot be '.' or '..'")]
    Dots,
    #[error("a topic name has at most {TOPIC_NAME_BYTES_MAX} characters, this one has {0}")]
    TooLong(usize),
    #[error("topic names consist of letters, digits, '.', '_' and '-'; '{0}' is none of these")]
    Character(char),
}

/// Checks a name.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(TopicNameError::TooLong(name.chars().count()));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().find(|c| !legal(*c)).map_or(Ok(()), |c| Err(TopicNameError::Character(c)))
}

/// What two names share when they would collide in metric names, where Kafka turns dots into underscores.
#[must_use]
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for name in ["flights", "a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_topic_name(""), Err(TopicNameError::Empty));
        assert_eq!(check_topic_name(".."), Err(TopicNameError::Dots));
        assert_eq!(check_topic_name(&"x".repeat(250)), Err(TopicNameError::TooLong(250)));
        assert_eq!(check_topic_name("a/b"), Err(TopicNameError::Character('/')));
        assert_eq!(check_topic_name("größe"), Err(TopicNameError::Character('ö')));
        assert_eq!(check_topic_name("a\0"), Err(TopicNameError::Character('\0')));
    }
}
