//! openraft's own suite on our store. After each case the power is cut (or, on the real disk, the directory is
//! closed), everything is opened again, and must be as it was: the suite itself never restarts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use headwater_storage::disk::{Disk, RealDisk, SimDisk};
use headwater_storage::log::{LogBounds, LogOptions};
use openraft::RaftLogReader;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::support::{ROOT, Tally, Unit, shared, small_segments};
use crate::driver::{Driver, State};
use crate::log_reader::LogReader;
use crate::log_store::{LogStore, Shared};
use crate::types::{Membership, RaftLogId, RaftVote};

/// What a case left behind.
struct Case {
    disk: Arc<dyn Disk>,
    sim: Option<Arc<SimDisk>>,
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    shared: Arc<Shared>,
}

#[derive(Debug, PartialEq)]
struct Contents {
    bounds: LogBounds,
    vote: Option<RaftVote>,
    entries: Vec<(RaftLogId, Option<Membership>)>,
}

async fn contents(shared: &Arc<Shared>) -> Contents {
    let mut reader = LogReader::new(Arc::clone(shared));
    let entries = RaftLogReader::<Unit>::try_get_log_entries(&mut reader, ..).await.unwrap();
    let membership = |entry| {
        (openraft::entry::RaftEntry::log_id(entry), openraft::entry::RaftEntry::get_membership(entry))
    };
    Contents {
        bounds: shared.log.bounds(),
        vote: shared.vote(),
        entries: entries.iter().map(membership).collect(),
    }
}

struct Builder {
    real: bool,
    options: LogOptions,
    opened: Mutex<Vec<Case>>,
    checked: Mutex<usize>,
}

impl Builder {
    fn new(real: bool) -> Self {
        Self { real, options: small_segments(), opened: Mutex::default(), checked: Mutex::default() }
    }

    async fn open(&self) -> Arc<Shared> {
        let (disk, sim, temporary): (Arc<dyn Disk>, _, _) = if self.real {
            (Arc::new(RealDisk::new()), None, Some(tempfile::tempdir().unwrap()))
        } else {
            let sim = Arc::new(SimDisk::new(*self.checked.lock().unwrap() as u64));
            (sim.clone(), Some(sim), None)
        };
        let path = temporary.as_ref().map_or_else(|| PathBuf::from(ROOT), |dir| dir.path().join(ROOT));
        let shared = shared(disk.clone(), &path, self.options).await;
        let case = Case { disk, sim, path, _temporary: temporary, shared: Arc::clone(&shared) };
        self.opened.lock().unwrap().push(case);
        shared
    }

    /// Opens what earlier cases left behind, and compares.
    async fn reopen_all(&self) {
        let cases = std::mem::take(&mut *self.opened.lock().unwrap());
        for case in cases {
            let before = contents(&case.shared).await;
            match &case.sim {
                Some(sim) => sim.power_cut(),
                None => case.shared.data_dir.flush_clean().await.unwrap(),
            }
            drop(case.shared);
            let after = contents(&shared(case.disk.clone(), &case.path, self.options).await).await;
            assert_eq!(before, after, "case {}", self.checked.lock().unwrap());
            *self.checked.lock().unwrap() += 1;
        }
    }
}

impl StoreBuilder<Unit, LogStore, Driver<Tally>> for Builder {
    async fn build(&self) -> Result<((), LogStore, Driver<Tally>), StorageError<Unit>> {
        // The suite has no hook behind a case; but the next one begins when the last one's store was dropped. The
        // one case with two stores still holds the first when it asks for the second.
        let case_is_over =
            self.opened.lock().unwrap().iter().all(|case| Arc::strong_count(&case.shared) == 1);
        if case_is_over {
            self.reopen_all().await;
        }
        let shared = self.open().await;
        let state = Arc::new(State::open(Arc::clone(&shared), &Tally::default()).unwrap());
        Ok(((), LogStore::new(shared), Driver(state)))
    }
}

async fn run(real: bool) {
    let builder = Builder::new(real);
    Suite::test_store(&builder).await.unwrap();
    builder.reopen_all().await;
    assert!(*builder.checked.lock().unwrap() >= 45);
}

#[tokio::test(start_paused = true)]
async fn openrafts_suite_passes_and_survives_a_power_cut_after_each_case() {
    run(false).await;
}

#[tokio::test(start_paused = true)]
async fn openrafts_suite_passes_on_the_real_disk_and_survives_a_restart_after_each_case() {
    run(true).await;
}
