//! The classes of anomalies, and what a check found of each.

use std::collections::BTreeMap;
use std::fmt;

use super::Partition;

/// Examples of one class that are kept; the others are counted.
const EXAMPLES_MAX: usize = 20;

/// Where in a producer's acknowledged records the lost ones lie (NATS' split of its losses). Ends of a log are lost with
/// late syncs, its middle never but by a bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Prefix,
    Middle,
    Postfix,
    /// None of the producer's records was found.
    All,
}

/// A breach of what Headwater promises.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// Acknowledged, and gone although later records are there.
    LostWrite { offset: i64, value: u64, producer: u32, place: Place },
    /// Acknowledged at or beyond the end of what can be read.
    Unseen { offset: i64, value: u64, producer: u32, place: Place },
    /// Read once, and not there any more.
    Vanished { offset: i64, value: u64, reader: u32 },
    /// A value that nobody sent to this partition.
    Phantom { offset: i64, value: u64 },
    /// One value at two offsets.
    Duplicate { value: u64, offsets: (i64, i64) },
    /// One offset with two values, in acknowledgements and reads together.
    InconsistentOffset { offset: i64, values: (u64, u64) },
    /// Acknowledged at one offset, found at another.
    Moved { value: u64, acked: i64, found: i64 },
    /// Definitely refused, and read (Adya's G1a).
    AbortedRead { offset: i64, value: u64 },
    /// A producer's later record was acknowledged below an earlier one.
    NonMonotonicSend { producer: u32, earlier: (u64, i64), later: (u64, i64) },
    /// A producer's later record lies before an earlier one.
    Reordered { producer: u32, earlier: (u64, i64), later: (u64, i64) },
    /// A record that was sent after another had been acknowledged lies before it.
    RealTimeReordered { acked: (u64, i64), sent_later: (u64, i64) },
    /// A reader jumped over a record that is there: from one answer to the next, or inside of one.
    PollSkip { reader: u32, inside: bool, after: i64, skipped: i64 },
    /// A reader's offsets went back, or stood still: from one answer to the next, or inside of one.
    NonMonotonicPoll { reader: u32, inside: bool, after: i64, offset: i64 },
    /// The high watermark that a reader was told fell within one leader epoch.
    WatermarkRegression { reader: u32, epoch: i32, from: i64, to: i64 },
    /// The log start that a reader was told fell within one leader epoch.
    LogStartRegression { reader: u32, epoch: i32, from: i64, to: i64 },
    /// A record at or above the high watermark of the answer that carried it.
    ReadAboveWatermark { reader: u32, offset: i64, high_watermark: i64 },
    /// The log start lies above the high watermark.
    StartAboveWatermark { reader: u32, log_start: i64, high_watermark: i64 },
    /// An end of the log that lies below what was acknowledged, or listed, before it was asked for.
    StaleEnd { end: i64, known: i64 },
    /// A start of the log that lies below one listed before it was asked for.
    StaleStart { log_start: i64, known: i64 },
    /// An end of the log beyond what can be read in the end.
    EndBeyondLog { end: i64, last: i64 },
    /// Two replicas hold different records at one offset, or one of them none.
    ReplicaDiffers { replica: String, offset: i64, there: Option<u64>, expected: Option<u64> },
}

impl Anomaly {
    /// The name of its class.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::LostWrite { .. } => "lost-write",
            Self::Unseen { .. } => "unseen",
            Self::Vanished { .. } => "vanished",
            Self::Phantom { .. } => "phantom",
            Self::Duplicate { .. } => "duplicate",
            Self::InconsistentOffset { .. } => "inconsistent-offsets",
            Self::Moved { .. } => "moved",
            Self::AbortedRead { .. } => "aborted-read",
            Self::NonMonotonicSend { .. } => "nonmonotonic-send",
            Self::Reordered { .. } => "reordered",
            Self::RealTimeReordered { .. } => "realtime-reordered",
            Self::PollSkip { inside: false, .. } => "poll-skip",
            Self::PollSkip { inside: true, .. } => "int-poll-skip",
            Self::NonMonotonicPoll { inside: false, .. } => "nonmonotonic-poll",
            Self::NonMonotonicPoll { inside: true, .. } => "int-nonmonotonic-poll",
            Self::WatermarkRegression { .. } => "watermark-regression",
            Self::LogStartRegression { .. } => "log-start-regression",
            Self::ReadAboveWatermark { .. } => "read-above-watermark",
            Self::StartAboveWatermark { .. } => "start-above-watermark",
            Self::StaleEnd { .. } => "stale-end",
            Self::StaleStart { .. } => "stale-start",
            Self::EndBeyondLog { .. } => "end-beyond-log",
            Self::ReplicaDiffers { .. } => "lost-on-node",
        }
    }
}

/// What was found of one class.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Class {
    count: u64,
    examples: Vec<(Partition, Anomaly)>,
}

/// Anomalies by class: how many, and the first of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Findings(BTreeMap<&'static str, Class>);

impl Findings {
    pub(super) fn add(&mut self, partition: &Partition, anomaly: Anomaly) {
        let class = self.0.entry(anomaly.class()).or_default();
        class.count += 1;
        if class.examples.len() < EXAMPLES_MAX {
            class.examples.push((partition.clone(), anomaly));
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many anomalies there are of all classes.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().map(|class| class.count).sum()
    }

    /// Class and number of its anomalies.
    pub fn classes(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(class, found)| (*class, found.count))
    }

    /// The first anomalies of each class.
    pub fn examples(&self) -> impl Iterator<Item = &Anomaly> + '_ {
        self.0.values().flat_map(|class| class.examples.iter().map(|(_, anomaly)| anomaly))
    }

    /// One line for each example, with its partition.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().flat_map(|(name, class)| {
            class
                .examples
                .iter()
                .map(move |((topic, number), anomaly)| format!("{name} {topic}-{number}: {anomaly:?}"))
        })
    }
}

/// Classes with their numbers, on one line.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("0 anomalies");
        }
        write!(f, "{} anomalies", self.count())?;
        self.classes().try_for_each(|(class, count)| write!(f, ", {class} {count}"))
    }
}
