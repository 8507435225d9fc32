//! Entries that did not read back as they were written, until somebody has looked at them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use headwater_proto::types::{GroupId, LogIndex};
use tokio::sync::Notify;

/// An entry to look at: see [`crate::log::Log::scrub_at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspect {
    pub group: GroupId,
    pub index: LogIndex,
}

/// The first suspected entry of each group: once it is known for damaged, the replica as a whole is.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    entries: Mutex<BTreeMap<GroupId, LogIndex>>,
    news: Notify,
}

impl Suspects {
    pub fn add(&self, group: GroupId, index: LogIndex) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).entry(group).or_insert(index);
        self.news.notify_one();
    }

    /// Takes the next one; waits for it. For one caller at a time.
    pub async fn next(&self) -> Suspect {
        loop {
            let first = self.entries.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if let Some((group, index)) = first {
                return Suspect { group, index };
            }
            self.news.notified().await;
        }
    }
}
