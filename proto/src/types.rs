//! Newtypes for the numbers of a log: each has one meaning, and none converts into another silently.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number, for arithmetic and the wire.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// Position of a record in its partition; the first record a user wrote is 0. Never negative in
    /// a log; negative values are sentinels of the wire protocols.
    Offset(i64)
);
number!(
    /// Position of a Raft entry (one batch) in its group's log. The first entry is 1; 0 is "none".
    LogIndex(u64)
);
number!(
    /// Raft term. Stored as `partitionLeaderEpoch`, hence at most `i32::MAX`.
    Term(u64)
);
number!(
    /// Kafka's name for the term under which a batch was appended.
    LeaderEpoch(i32)
);
number!(
    /// Partition number within its topic, from 0.
    PartitionId(i32)
);
number!(
    /// Identity of an idempotent producer; -1 is "none".
    ProducerId(i64)
);
number!(
    /// Epoch of a producer id; a higher one fences a lower one. -1 is "none".
    ProducerEpoch(i16)
);
number!(
    /// Sequence of a batch's first record within its producer id and partition; wraps from `i32::MAX` to 0.
    Sequence(i32)
);
number!(
    /// Milliseconds since the Unix epoch; -1 is "none".
    TimestampMs(i64)
);
number!(
    /// Number of a broker in its cluster, chosen by its operator.
    BrokerId(i32)
);
number!(
    /// Raft's node id: allocated by the metadata state machine, bound to one broker incarnation and
    /// one group, never reused. Never a broker id.
    ReplicaId(u64)
);

impl Sequence {
    /// The sequence `count` records later; wraps from `i32::MAX` to 0 as Kafka's does.
    #[must_use]
    pub fn advance(self, count: i32) -> Self {
        Self(((i64::from(self.0) + i64::from(count)) % (i64::from(i32::MAX) + 1)) as i32)
    }
}

impl LogIndex {
    /// The index that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All zeros: "none".
            pub const NONE: Self = Self([0; 16]);

            /// Parses 32 hexadecimal digits; `None` for anything else.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                u128::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

identity!(
    /// Identity of a topic; a topic created again under the same name has another one.
    TopicId
);
identity!(
    /// Identity of a cluster, drawn when it is bootstrapped.
    ClusterId
);
identity!(
    /// Identity of a data directory, drawn when it is created. An emptied disk is a new incarnation.
    Incarnation
);

impl TopicId {
    /// The group that holds topics, assignments and configs.
    pub const METADATA: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

/// A Raft group: one partition of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub topic_id: TopicId,
    pub partition: PartitionId,
}

impl GroupId {
    /// The metadata group.
    pub const METADATA: Self = Self { topic_id: TopicId::METADATA, partition: PartitionId(0) };

    /// 16 bytes of topic id, then the partition as a big-endian `i32`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.topic_id.0);
        bytes[16..].copy_from_slice(&self.partition.0.to_be_bytes());
        bytes
    }

    /// The inverse of [`GroupId::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        let mut topic_id = [0; 16];
        topic_id.copy_from_slice(&bytes[..16]);
        let mut partition = [0; 4];
        partition.copy_from_slice(&bytes[16..]);
        Self { topic_id: TopicId(topic_id), partition: PartitionId(i32::from_be_bytes(partition)) }
    }
}

/// `<topic id, 32 hex digits>-<partition>`: also the name of the group's directory.
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

impl std::str::FromStr for GroupId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (topic_id, partition) = text.split_once('-').ok_or(())?;
        let topic_id = TopicId::from_hex(topic_id).ok_or(())?;
        let partition = partition.parse().ok().filter(|p| *p >= 0).ok_or(())?;
        Ok(Self { topic_id, partition: PartitionId(partition) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_wraps_to_zero_after_the_largest() {
        assert_eq!(Sequence(i32::MAX).advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).advance(3), Sequence(1));
        assert_eq!(Sequence(7).advance(5), Sequence(12));
    }

    #[test]
    fn a_group_id_survives_its_name_and_its_bytes() {
        let id = GroupId { topic_id: TopicId([7; 16]), partition: PartitionId(42) };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(GroupId::from_bytes(id.to_bytes()), id);
        assert_eq!("07-1".parse::<GroupId>(), Err(()));
        assert_eq!(format!("{}--1", id.topic_id).parse::<GroupId>(), Err(()));
    }
}
