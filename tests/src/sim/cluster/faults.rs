//! What goes wrong in a run.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process dies; its machine lives.
    Crash,
    /// A broker hands over, stops and starts again.
    CleanRestart,
    /// One machine loses power, and what was not synced.
    PowerCut,
    /// All machines do, at once.
    PowerCutAll,
    /// One loses power right after a write, sync or rename of its disk.
    PowerCutAtWrite,
    /// A broker is not heard for a while, and hears nothing.
    Pause,
    Partition,
    /// One direction only.
    PartitionOneWay,
    /// It comes and goes.
    Flapping,
    Delay,
    Loss,
    /// Syncs take long.
    DiskStall,
    DiskFull,
    /// A sync fails, and the kernel forgets what it should have written.
    SyncError,
    /// One bit of a stored batch flips.
    Rot,
    /// A power cut, and the last synced batch rots: a disk that lied.
    RottenFlush,
    /// A broker comes back with an empty disk.
    EmptyDisk,
    /// A follower is cut off; then, of the two that hold what was acknowledged meanwhile, one loses its disk or the
    /// end of its log and the other is away: the follower must not be elected.
    LoseAndElect,
    /// A wall clock is off from the next start on.
    ClockSkew,
    /// A new broker joins.
    Join,
    Move,
    Transfer,
    Drain,
}

impl Kind {
    pub const ALL: &'static [Self] = &[
        Self::Crash,
        Self::CleanRestart,
        Self::PowerCut,
        Self::PowerCutAll,
        Self::PowerCutAtWrite,
        Self::Pause,
        Self::Partition,
        Self::PartitionOneWay,
        Self::Flapping,
        Self::Delay,
        Self::Loss,
        Self::DiskStall,
        Self::DiskFull,
        Self::SyncError,
        Self::Rot,
        Self::RottenFlush,
        Self::EmptyDisk,
        Self::LoseAndElect,
        Self::ClockSkew,
        Self::Join,
        Self::Move,
        Self::Transfer,
        Self::Drain,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "fault:crash",
            Self::CleanRestart => "fault:clean-restart",
            Self::PowerCut => "fault:power-cut",
            Self::PowerCutAll => "fault:power-cut-all",
            Self::PowerCutAtWrite => "fault:power-cut-at-write",
            Self::Pause => "fault:pause",
            Self::Partition => "fault:partition",
            Self::PartitionOneWay => "fault:partition-one-way",
            Self::Flapping => "fault:flapping",
            Self::Delay => "fault:delay",
            Self::Loss => "fault:loss",
            Self::DiskStall => "fault:disk-stall",
            Self::DiskFull => "fault:disk-full",
            Self::SyncError => "fault:sync-error",
            Self::Rot => "fault:rot",
            Self::RottenFlush => "fault:rotten-flush",
            Self::EmptyDisk => "fault:empty-disk",
            Self::LoseAndElect => "fault:lose-and-elect",
            Self::ClockSkew => "fault:clock-skew",
            Self::Join => "fault:join",
            Self::Move => "fault:move",
            Self::Transfer => "fault:transfer",
            Self::Drain => "fault:drain",
        }
    }

    /// Whether it destroys what was durable on one disk: no second one may, until the first is made good.
    #[must_use]
    pub const fn destroys(self) -> bool {
        matches!(self, Self::Rot | Self::RottenFlush | Self::EmptyDisk | Self::LoseAndElect)
    }
}
