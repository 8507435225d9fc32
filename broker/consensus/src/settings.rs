//! How a group keeps time.

use std::time::Duration;

use headwater_proto::types::GroupId;
use openraft::{Config, ConfigError, SnapshotPolicy};

/// Timing of one group's leader and followers. A group of one voter has no timers at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftSettings {
    pub heartbeat_interval: Duration,
    /// A follower campaigns this long, at least, after its leader's lease expired.
    pub election_timeout_min: Duration,
    /// And at most; also the length of the leader's lease.
    pub election_timeout_max: Duration,
    /// A group of several voters starts without timers, as if it were quiet: whoever holds it wakes it, so that a
    /// thousand do not campaign at once. A peer's request wakes it as well.
    pub start_at_rest: bool,
    /// A group of one voter leads as soon as it starts. Else it waits, at rest, for whoever holds it: the others may have
    /// been told to go on without it.
    pub lone_voter_leads: bool,
}

impl Default for RaftSettings {
    /// A dead leader is replaced within a second.
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(500),
            start_at_rest: false,
            lone_voter_leads: true,
        }
    }
}

impl RaftSettings {
    pub(crate) fn config(self, group: GroupId) -> Result<Config, ConfigError> {
        let heartbeat_ms = self.heartbeat_interval.as_millis() as u64;
        Config {
            cluster_name: group.to_string(),
            heartbeat_interval: heartbeat_ms,
            // Replication proves what a heartbeat proves: a busy follower needs none.
            heartbeat_min_interval: Some(heartbeat_ms.saturating_sub(1)),
            election_timeout_min: self.election_timeout_min.as_millis() as u64,
            election_timeout_max: self.election_timeout_max.as_millis() as u64,
            // Snapshots are taken at the log start, when the log start moves.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            install_snapshot_timeout: 60_000,
            enable_pre_vote: Some(true),
            // A restarted leader has lost what it knew of its followers: it must be elected again.
            enable_leader_restore: Some(false),
            // Statistics that nobody reads; their ring buffers are most of an idle group's memory.
            log_stage_capacity: Some(1),
            // Ticks are turned on when the voters are known to be several.
            enable_tick: false,
            ..Config::default()
        }
        .validate()
    }
}
