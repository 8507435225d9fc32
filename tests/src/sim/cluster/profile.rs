//! Which faults a run meets how often: by its seed, or aimed at a planted bug.

use headwater_core::mutant::Mutant;

use super::faults::Kind;

/// A mix of faults.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    pub name: &'static str,
    /// Kinds with their weights; each comes once before any comes twice.
    pub kinds: &'static [(Kind, u64)],
    /// Mean pause between two faults.
    pub pause_ms: u64,
    /// Mean duration of a sync.
    pub sync_ms: u64,
    /// Crash a broker, by this chance in percent, when one of its replicas truncated its log or heard of a new term.
    pub pounce: u64,
}

const MIXED: Profile = Profile {
    name: "mixed",
    kinds: &[
        (Kind::Crash, 4),
        (Kind::CleanRestart, 3),
        (Kind::PowerCut, 4),
        (Kind::PowerCutAll, 2),
        (Kind::PowerCutAtWrite, 4),
        (Kind::Pause, 4),
        (Kind::Partition, 4),
        (Kind::PartitionOneWay, 3),
        (Kind::Flapping, 2),
        (Kind::Delay, 3),
        (Kind::Loss, 2),
        (Kind::DiskStall, 3),
        (Kind::DiskFull, 2),
        (Kind::SyncError, 2),
        (Kind::Rot, 2),
        (Kind::RottenFlush, 2),
        (Kind::EmptyDisk, 2),
        (Kind::LoseAndElect, 1),
        (Kind::ClockSkew, 1),
        (Kind::Join, 1),
        (Kind::Move, 3),
        (Kind::Transfer, 4),
        (Kind::Drain, 1),
    ],
    pause_ms: 2_500,
    sync_ms: 1,
    pounce: 0,
};

const POWER: Profile = Profile {
    name: "power",
    kinds: &[
        (Kind::PowerCut, 6),
        (Kind::PowerCutAll, 5),
        (Kind::PowerCutAtWrite, 6),
        (Kind::SyncError, 1),
        (Kind::DiskStall, 2),
        (Kind::Transfer, 2),
        (Kind::RottenFlush, 1),
    ],
    pause_ms: 2_000,
    sync_ms: 4,
    pounce: 0,
};

const ELECTIONS: Profile = Profile {
    name: "elections",
    kinds: &[
        (Kind::Crash, 6),
        (Kind::PowerCut, 3),
        (Kind::Pause, 4),
        (Kind::Partition, 6),
        (Kind::PartitionOneWay, 5),
        (Kind::Flapping, 4),
        (Kind::Delay, 3),
        (Kind::Transfer, 6),
    ],
    pause_ms: 2_000,
    sync_ms: 2,
    pounce: 12,
};

const LAGGING: Profile = Profile {
    name: "lagging",
    kinds: &[
        (Kind::Crash, 4),
        (Kind::PowerCut, 3),
        (Kind::Partition, 6),
        (Kind::Pause, 3),
        (Kind::Transfer, 8),
        (Kind::Move, 4),
        (Kind::EmptyDisk, 2),
        (Kind::Join, 1),
    ],
    pause_ms: 2_500,
    sync_ms: 1,
    pounce: 0,
};

const DISKS: Profile = Profile {
    name: "disks",
    kinds: &[
        (Kind::Rot, 5),
        (Kind::RottenFlush, 5),
        (Kind::EmptyDisk, 4),
        (Kind::LoseAndElect, 6),
        (Kind::DiskFull, 3),
        (Kind::DiskStall, 3),
        (Kind::SyncError, 3),
        (Kind::PowerCutAll, 2),
        (Kind::Crash, 2),
    ],
    pause_ms: 3_000,
    sync_ms: 2,
    pounce: 0,
};

const MEMBERS: Profile = Profile {
    name: "members",
    kinds: &[
        (Kind::Move, 8),
        (Kind::Join, 2),
        (Kind::Drain, 2),
        (Kind::Transfer, 4),
        (Kind::Crash, 3),
        (Kind::PowerCut, 2),
        (Kind::Partition, 4),
        (Kind::Pause, 2),
        (Kind::CleanRestart, 3),
        (Kind::EmptyDisk, 1),
    ],
    pause_ms: 2_500,
    sync_ms: 1,
    pounce: 0,
};

/// For bugs around writes that a leader refuses and goes on leading: leases that run out, disks that fill up.
const REFUSALS: Profile = Profile {
    name: "refusals",
    kinds: &[
        (Kind::Pause, 8),
        (Kind::DiskFull, 6),
        (Kind::Flapping, 4),
        (Kind::Delay, 3),
        (Kind::DiskStall, 2),
        (Kind::Transfer, 3),
    ],
    pause_ms: 1_200,
    sync_ms: 1,
    pounce: 0,
};

/// For bugs that let a replica vote that must not.
const VOTES: Profile = Profile {
    name: "votes",
    kinds: &[
        (Kind::LoseAndElect, 12),
        (Kind::Transfer, 2),
        (Kind::Crash, 2),
        (Kind::Pause, 1),
        (Kind::Delay, 1),
        (Kind::Partition, 1),
    ],
    pause_ms: 1_500,
    sync_ms: 1,
    pounce: 0,
};

/// For bugs around what is applied before this replica's own disk has it: followers whose disks lag behind the quorum,
/// and lose power.
const SLOW_DISKS: Profile = Profile {
    name: "slow disks",
    kinds: &[
        (Kind::DiskStall, 8),
        (Kind::PowerCut, 6),
        (Kind::PowerCutAtWrite, 3),
        (Kind::PowerCutAll, 2),
        (Kind::Pause, 2),
        (Kind::Transfer, 1),
    ],
    pause_ms: 1_200,
    sync_ms: 30,
    pounce: 0,
};

impl Profile {
    /// The mix of a seed: half of them get everything, the others a part of it, more often.
    #[must_use]
    pub const fn of_seed(seed: u64) -> Self {
        match seed % 10 {
            0 | 2 | 4 | 6 | 8 => MIXED,
            1 => POWER,
            3 => ELECTIONS,
            5 => LAGGING,
            7 => DISKS,
            _ => MEMBERS,
        }
    }

    /// The mix that brings a planted bug out.
    #[must_use]
    pub const fn against(mutant: Mutant) -> Self {
        match mutant {
            Mutant::AckBeforeQuorumFsync => POWER,
            Mutant::AppliedBeyondDurable => SLOW_DISKS,
            Mutant::VoteNotSaved
            | Mutant::StaleTailAfterTruncation
            | Mutant::ProducerWindowLostAtFailover
            | Mutant::HighWatermarkBeforeOwnTerm => ELECTIONS,
            Mutant::RefusedThenAccepted => REFUSALS,
            Mutant::SnapshotWithoutProducers => LAGGING,
            Mutant::EmptiedDiskVotes | Mutant::CutReplicaVotes => VOTES,
        }
    }
}
