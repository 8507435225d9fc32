//! One partition of a topic, as this broker's handlers use it.
//!
//! Invariants: readers see committed records only, from the log start on; what is appended was let pass by
//! the gate in the order of the requests; record bytes are neither copied nor looked into.

mod offsets;
mod produce;
mod read;
mod scrape;
mod upkeep;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_consensus::{Group, GroupHost, GroupSpec, Health, Progress, RaftSettings};
use headwater_core::topic_config::TopicConfig;
use headwater_core::{ControlEntry, PartitionState};
use headwater_proto::record::empty_control_batch;
use headwater_proto::types::{GroupId, Offset, ReplicaId};
use headwater_storage::log::{LogOptions, SegmentInfo};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::RequestError;
use crate::proposer::Proposer;

pub use offsets::Found;
pub use produce::{Acknowledged, BatchLimits, Submission};
pub use read::{Readers, Slice};
pub use scrape::scrape;
pub use upkeep::UpkeepSettings;

/// How long a partition may begin before it is asked why.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// One open partition.
pub struct Partition {
    topic: Arc<str>,
    proposer: Arc<Proposer<PartitionState>>,
    progress: watch::Receiver<Progress>,
    config: Mutex<TopicConfig>,
    upkeep: tokio::sync::Mutex<upkeep::Upkeep>,
    closed: CancellationToken,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Sizes and positions of one partition.
#[derive(Debug, Clone)]
pub struct Description {
    pub leader_epoch: i32,
    pub progress: Progress,
    pub segments: Vec<SegmentInfo>,
    pub first_index: u64,
    pub last_index: u64,
    pub damage: String,
}

impl Description {
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size_bytes).sum()
    }
}

impl Partition {
    /// Opens or creates the replica, and waits until it leads where it is the only voter: where there are others, nobody
    /// waits for them.
    pub async fn open(
        topic: Arc<str>,
        spec: GroupSpec,
        host: GroupHost,
        config: TopicConfig,
        settings: RaftSettings,
        seed: u64,
    ) -> Result<Arc<Self>, RequestError> {
        let own = spec.replica_id;
        let options = log_options(&config);
        let state = PartitionState::default();
        let group = Box::pin(Group::start(spec, host, options, settings, seed, state)).await?;
        if settings.lone_voter_leads && group.membership().voters().into_iter().eq([own]) {
            await_leadership(&topic, &group).await;
        }
        Ok(Arc::new(Self {
            topic,
            progress: group.progress(),
            proposer: Proposer::new(group, |applied| applied.base_offset),
            config: Mutex::new(config),
            upkeep: tokio::sync::Mutex::default(),
            closed: CancellationToken::new(),
        }))
    }

    pub fn id(&self) -> GroupId {
        self.group().id()
    }

    pub fn replica_id(&self) -> ReplicaId {
        self.group().replica_id()
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn config(&self) -> TopicConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_config(&self, config: TopicConfig) {
        self.group().log().set_options(log_options(&config));
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// How far it got; changes when records are committed or the log start moves.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Cancelled when the partition is closed or deleted: who waits for records waits in vain.
    pub const fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    pub fn now(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The term under which it leads, as Kafka's leader epoch; -1 while it does not.
    pub fn leader_epoch(&self) -> i32 {
        let leadership = self.group().leadership();
        leadership.map_or(-1, |leadership| i32::try_from(leadership.term.get()).unwrap_or(i32::MAX))
    }

    /// Moves the log start by a logged entry, then frees whole segments below it. `None`: to the high
    /// watermark. Returns the log start in force.
    pub async fn delete_records(&self, before: Option<Offset>) -> Result<Offset, RequestError> {
        let progress = self.now();
        let target = before.unwrap_or(progress.high_watermark);
        if target > progress.high_watermark || target < Offset(0) {
            return Err(RequestError::OffsetOutOfRange {
                offset: target.get(),
                log_start: progress.log_start,
                high_watermark: progress.high_watermark,
            });
        }
        if target > progress.log_start {
            self.move_log_start(target).await?;
        }
        self.purge_below_log_start().await?;
        Ok(self.now().log_start)
    }

    async fn move_log_start(&self, target: Offset) -> Result<(), RequestError> {
        let batch = empty_control_batch(&ControlEntry::LogStart(target).encode());
        self.proposer.propose_plain(batch).await?.outcome().await.map(|_| ())
    }

    pub fn describe(&self) -> Description {
        let log = self.group().log();
        let bounds = log.bounds();
        Description {
            leader_epoch: self.leader_epoch(),
            progress: self.now(),
            segments: log.segments(),
            first_index: bounds.first_index.get(),
            last_index: bounds.last.map_or(0, |last| last.index.get()),
            damage: self.damage(),
        }
    }

    /// What is wrong with this replica, in words; empty when nothing is.
    pub fn damage(&self) -> String {
        if let Health::Failed(reason) = self.group().health() {
            return reason;
        }
        self.group().log().damage().map_or_else(String::new, |damage| upkeep::damage_in_words(&damage))
    }

    /// Accepts that what is damaged is lost. The partition must be opened again afterwards.
    pub async fn accept_loss(&self) -> Result<(), RequestError> {
        self.group().log().accept_loss().await.map_err(RequestError::from)
    }

    /// Stops the replica; what is under way has an unknown outcome.
    pub async fn close(&self) {
        self.closed.cancel();
        self.group().shutdown().await;
    }

    pub fn group(&self) -> &Arc<Group<PartitionState>> {
        self.proposer.group()
    }
}

/// Waits until the only replica leads, unless it cannot: reads are served all the same.
async fn await_leadership(topic: &str, group: &Group<PartitionState>) {
    let id = group.id();
    loop {
        match tokio::time::timeout(LOOK_AGAIN, group.wait_leader()).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                return tracing::error!(topic, group = %id, %error, "the partition cannot be written");
            }
            Err(_) if group.health() == Health::NoSpace => {
                return tracing::error!(topic, group = %id, "no space to begin: the partition is written once there is");
            }
            Err(_) => tracing::warn!(topic, group = %id, "the partition is slow to begin"),
        }
    }
}

fn log_options(config: &TopicConfig) -> LogOptions {
    LogOptions { segment_bytes: config.segment_bytes.into(), ..LogOptions::default() }
}
