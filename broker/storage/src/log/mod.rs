//! The log of one Raft group, which is the partition: batches in segments, found by index, offset or time.
//!
//! Invariants: **files are write-once** (a cut seals and begins a new generation, a roll trims only what was
//! never written); an appended entry is readable on return and durable when its waiter is told; nothing below the
//! durable point is ever cut except by a truncation or by an operator who accepts its loss; no I/O is done
//! under a lock that readers take. One writer at a time, any number of readers.
//! What it must not do: interpret records, decide what to keep, or retry a failed write or sync.

mod append;
mod cut;
pub(crate) mod damage;
pub mod error;
pub(crate) mod facts;
mod flush;
mod read;
mod state;
pub mod types;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use headwater_proto::types::{GroupId, LogIndex, Offset, Term};

pub(crate) use self::append::{Active, Writer};
pub use self::error::LogError;
pub(crate) use self::flush::FlushState;
pub(crate) use self::state::View;
pub use self::types::*;
use crate::host::LogHost;

/// See the module.
#[derive(Debug)]
pub struct Log {
    pub(crate) host: Arc<dyn LogHost>,
    pub(crate) group: GroupId,
    pub(crate) directory: PathBuf,
    options: Mutex<LogOptions>,
    view: RwLock<View>,
    writer: Mutex<Writer>,
    flush: Mutex<FlushState>,
    damage: RwLock<Arc<Damage>>,
    tail_cut: Mutex<Option<TailCut>>,
    /// Why the log refuses everything that would add to it.
    stopped: OnceLock<String>,
}

/// What recovery found, from which a log is put together.
pub(crate) struct Recovered {
    pub view: View,
    pub writer: Writer,
    pub flush: FlushState,
    pub damage: Damage,
    pub tail_cut: Option<TailCut>,
}

impl Log {
    /// Opens the log of `group` in `directory`, which is created if need be, and repairs what a crash left. It was never
    /// given an entry of a term above `term_max`.
    ///
    /// # Errors
    /// I/O errors, and [`LogError::Corrupt`] for files that contradict each other in a way that no crash explains.
    /// Rot is no error: see [`Log::damage`].
    pub async fn open(
        host: Arc<dyn LogHost>,
        group: GroupId,
        directory: PathBuf,
        options: LogOptions,
        term_max: Term,
    ) -> Result<Arc<Self>, LogError> {
        let recovered = crate::recovery::recover(&host, group, &directory, options, term_max).await?;
        Ok(Arc::new(Self {
            host,
            group,
            directory,
            options: Mutex::new(options),
            view: RwLock::new(recovered.view),
            writer: Mutex::new(recovered.writer),
            flush: Mutex::new(recovered.flush),
            damage: RwLock::new(Arc::new(recovered.damage)),
            tail_cut: Mutex::new(recovered.tail_cut),
            stopped: OnceLock::new(),
        }))
    }

    /// For a log that holds no entry and was never purged: the index of the first one to come (1 unless told).
    ///
    /// # Errors
    /// [`LogError::InvalidRequest`] for any other log.
    pub fn begin_at(&self, first: LogIndex) -> Result<(), LogError> {
        let _writer = lock(&self.writer);
        self.change_view(|view| {
            if view.purged.is_some() || !view.segments.is_empty() {
                return Err(LogError::InvalidRequest("the log has a beginning already"));
            }
            view.begin = first;
            Ok(())
        })
    }

    /// Both ends, as of one moment.
    #[must_use]
    pub fn bounds(&self) -> LogBounds {
        let view = self.view();
        let durable_next = lock(&self.flush).durable_next;
        LogBounds {
            purged: view.purged.map(|p| p.upto),
            first_index: view.first_index(),
            last: view.last(),
            next_offset: view.next_offset(),
            first_offset: self.first_offset(&view),
            durable_index: durable_next.0.checked_sub(1).map(LogIndex).filter(|_| durable_next > view.begin),
        }
    }

    fn first_offset(&self, view: &View) -> Offset {
        match (view.purged, view.segments.first()) {
            (Some(purged), _) => purged.next_offset,
            (None, Some(first)) => first.base_offset(),
            (None, None) => Offset(0),
        }
    }

    /// Every segment that holds entries, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.view().segments.iter().map(|s| s.info()).collect()
    }

    #[must_use]
    pub fn options(&self) -> LogOptions {
        *lock(&self.options)
    }

    /// Changes the options; they apply from the next append on.
    pub fn set_options(&self, options: LogOptions) {
        *lock(&self.options) = options;
    }

    /// The group whose log it is.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    pub(crate) fn view(&self) -> View {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change_view<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuses appends for good: what is on disk is unknown from here on.
    pub fn stop(&self, reason: &std::io::Error) -> LogError {
        let reason = self.stopped.get_or_init(|| reason.to_string());
        LogError::Stopped(reason.clone())
    }

    /// Why it takes no appends any more, after a write or a sync that failed.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    fn check_running(&self) -> Result<(), LogError> {
        self.stopped.get().map_or(Ok(()), |reason| Err(LogError::Stopped(reason.clone())))
    }
}

/// A panic while a lock was held leaves plain values behind, never half a file: go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
