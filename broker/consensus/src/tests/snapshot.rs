//! Snapshots between replicas: taken where one's log begins, installed where another's lies behind.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use headwater_core::PartitionState;
use headwater_proto::types::Offset;
use headwater_storage::log::LogOptions;
use openraft::RaftSnapshotBuilder;
use openraft::storage::{RaftLogStorage, RaftStateMachine};

use super::support::{Fixture, Unit, batch, proposal, raft_id, small_segments, stamp};
use crate::driver::{Driver, State};
use crate::types::{RaftLogId, Snapshot};

fn open(fixture: &Fixture) -> Driver<PartitionState> {
    Driver(Arc::new(State::open(Arc::clone(&fixture.shared), &PartitionState::default()).unwrap()))
}

async fn apply(fixture: &Fixture, driver: &mut Driver<PartitionState>) {
    let from = driver.0.applied().log_id().index.next();
    let entries = fixture.reader().stream(from..headwater_proto::types::LogIndex(u64::MAX));
    let entries: Vec<_> = entries.map(|entry| Ok((entry.unwrap(), None))).collect().await;
    driver.apply(stream::iter(entries)).await.unwrap();
}

async fn append(fixture: &mut Fixture, indexes: std::ops::Range<u64>) {
    let entries = indexes.map(|n| proposal(1, n, stamp(1, 0, n), batch(b"value")));
    fixture.append_durably(entries.collect()).await;
}

/// A replica with 30 entries, and its snapshot as of the 20th.
async fn leader() -> (Fixture, Driver<PartitionState>, Snapshot) {
    let mut fixture = Fixture::new(1, small_segments()).await;
    append(&mut fixture, 0..30).await;
    let mut driver = open(&fixture);
    apply(&fixture, &mut driver).await;
    driver.0.prepare_snapshot(super::support::log_id(1, 20)).await.unwrap();
    let snapshot = driver.get_snapshot_builder().await.build_snapshot().await.unwrap();
    (fixture, driver, snapshot)
}

async fn applied(driver: &mut Driver<PartitionState>) -> Option<RaftLogId> {
    driver.applied_state().await.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_holds_the_state_as_of_its_point_and_not_the_applied_one() {
    let (_, driver, snapshot) = leader().await;
    assert_eq!(snapshot.meta.last_log_id, Some(raft_id(1, 19)));
    assert_eq!(driver.0.progress.borrow().high_watermark, Offset(30));
    let tables = crate::encoding::Tables::decode(&snapshot.snapshot).unwrap();
    assert_eq!(tables.next_offset, Offset(20));
}

/// Raft ends a group whose store fails: the log says so too, so that the partition is opened again.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_finds_no_space_stops_the_log_and_a_later_one_is_installed() {
    let (_, _, snapshot) = leader().await;
    for entries in [5, 30] {
        let mut fixture = Fixture::new(1, small_segments()).await;
        append(&mut fixture, 0..entries).await;
        let mut driver = open(&fixture);
        fixture.disk.set_free_bytes(0);
        driver.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap_err();
        assert!(fixture.shared.log.stopped().is_some());
        fixture.disk.set_free_bytes(1 << 30);
        fixture.shared.log.give_up_unsynced().await.unwrap();
        drop(driver);

        let fixture = fixture.power_cut().await;
        let mut driver = open(&fixture);
        driver.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
        assert_eq!(applied(&mut driver).await, Some(raft_id(1, 19)));
        assert_eq!(fixture.shared.log.stopped(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_installed_snapshot_takes_the_place_of_a_log_that_lies_behind() {
    let (_, mut leader, snapshot) = leader().await;
    for seed in 0..10 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        append(&mut fixture, 0..5).await;
        let mut driver = open(&fixture);
        driver.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
        assert_eq!(applied(&mut driver).await, Some(raft_id(1, 19)));
        drop(driver);

        // Durable: it must be there after a power cut, with a log that goes on behind it.
        let mut fixture = fixture.power_cut().await;
        let mut driver = open(&fixture);
        assert_eq!(applied(&mut driver).await, Some(raft_id(1, 19)));
        let current = driver.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta, snapshot.meta);
        let state = RaftLogStorage::<Unit>::get_log_state(&mut fixture.store).await.unwrap();
        assert_eq!(
            (state.last_purged_log_id, state.last_log_id),
            (Some(raft_id(1, 19)), Some(raft_id(1, 19)))
        );
        // The rest comes as ordinary entries.
        let rest = (20..30).map(|n| proposal(1, n, stamp(1, 0, n - 20), batch(b"value")));
        fixture.append_durably(rest.collect()).await;
        apply(&fixture, &mut driver).await;
        assert_eq!(driver.0.applied().machine, leader.0.applied().machine);
    }
    assert_eq!(applied(&mut leader).await, Some(raft_id(1, 29)));
}

/// Both write tables, and each removes those that it finds needless.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_beside_an_installed_snapshot_harms_neither() {
    let (_, _, snapshot) = leader().await;
    for seed in 0..60 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        append(&mut fixture, 0..5).await;
        let mut driver = open(&fixture);
        apply(&fixture, &mut driver).await;
        fixture.disk.set_sync_latency(Duration::from_millis(10));
        let state = Arc::clone(&driver.0);
        let checkpoint = async {
            tokio::time::sleep(Duration::from_millis(seed)).await;
            state.checkpoint().await
        };
        let installed = driver.install_snapshot(&snapshot.meta, snapshot.snapshot.clone());
        let (checkpoint, installed) = tokio::join!(checkpoint, installed);
        checkpoint.unwrap();
        installed.unwrap();
        drop((driver, state));

        let fixture = fixture.power_cut().await;
        assert_eq!(applied(&mut open(&fixture)).await, Some(raft_id(1, 19)), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_installed_snapshot_leaves_the_entries_behind_it() {
    let (_, _, snapshot) = leader().await;
    let mut fixture = Fixture::new(2, LogOptions::default()).await;
    append(&mut fixture, 0..30).await;
    let mut driver = open(&fixture);
    driver.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    assert_eq!(fixture.log_ids().await.len(), 30, "openraft purges what the snapshot covers");
    apply(&fixture, &mut driver).await;
    assert_eq!(driver.0.progress.borrow().high_watermark, Offset(30));
}
