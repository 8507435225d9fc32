//! Bugs planted on purpose, to prove that the simulation finds them.
//!
//! Without the cargo feature `mutants` there is no switch: [`active`] is the constant `false`, and the
//! compiler drops what stands behind it. No released binary is built with the feature.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// A planted bug. One process plants at most one at a time.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[$doc])* $name,)+
        }

        impl Mutant {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name on a command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

mutants! {
    /// A produce is acknowledged before a quorum has synced it.
    AckBeforeQuorumFsync = "ack-before-quorum-fsync",
    /// A vote is answered without having been journalled.
    VoteNotSaved = "vote-not-saved",
    /// What a truncation cut off is found again by the next start.
    StaleTailAfterTruncation = "stale-tail-after-truncation",
    /// A new leader begins with an empty producer window.
    ProducerWindowLostAtFailover = "producer-window-lost-at-failover",
    /// A new leader serves its high watermark before an entry of its own term is committed.
    HighWatermarkBeforeOwnTerm = "high-watermark-before-own-term",
    /// An installed snapshot brings no producer table.
    SnapshotWithoutProducers = "snapshot-without-producers",
    /// A replica whose disk was emptied votes under its old identity.
    EmptiedDiskVotes = "emptied-disk-votes",
    /// After a refused proposal the session goes on, without a drain and a rebuild.
    RefusedThenAccepted = "refused-then-accepted",
    /// Tables are written as of the applied entry, beyond the durable end of the log.
    AppliedBeyondDurable = "applied-beyond-durable",
    /// A replica whose tail was torn votes before it has been told of the cut.
    CutReplicaVotes = "cut-replica-votes",
}

impl std::fmt::Display for Mutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Mutant {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name).ok_or(())
    }
}

/// Whether this bug is planted.
#[cfg(not(feature = "mutants"))]
#[inline]
#[must_use]
pub const fn active(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use planted::{active, plant};

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mutant;

    /// 0: none; else the mutant's number and one.
    static PLANTED: AtomicUsize = AtomicUsize::new(0);

    /// Plants a bug in the whole process, in place of the one before; `None`: removes it.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.store(mutant.map_or(0, |mutant| mutant as usize + 1), Ordering::SeqCst);
    }

    /// Whether this bug is planted.
    #[must_use]
    pub fn active(mutant: Mutant) -> bool {
        PLANTED.load(Ordering::Relaxed) == mutant as usize + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_survives_its_name() {
        for mutant in Mutant::ALL {
            assert_eq!(mutant.to_string().parse(), Ok(*mutant));
        }
        assert_eq!("".parse::<Mutant>(), Err(()));
    }

    #[test]
    #[cfg(feature = "mutants")]
    fn one_bug_is_planted_at_a_time() {
        plant(Some(Mutant::VoteNotSaved));
        plant(Some(Mutant::CutReplicaVotes));
        let planted: Vec<_> = Mutant::ALL.iter().copied().filter(|mutant| active(*mutant)).collect();
        assert_eq!(planted, [Mutant::CutReplicaVotes]);
        plant(None);
        assert!(!active(Mutant::CutReplicaVotes));
    }
}
