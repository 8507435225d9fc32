//! Data written by version 1 of the format opens in this program.
//!
//! The fixture is written by `cargo test -p headwater-storage --test fixture -- --ignored`, once per format version.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use common::{GROUP, Model, SMALL, batch, check, entry};
use headwater_proto::types::LogIndex;
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::RealDisk;
use headwater_storage::log::Log;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

async fn open(path: &Path) -> (Arc<DataDir>, Arc<Log>) {
    let mut draws = 0;
    let mut entropy = || {
        draws += 1;
        draws
    };
    let disk = Arc::new(RealDisk::new());
    let data_dir = DataDir::open(disk, path, &mut entropy).await.unwrap();
    let log = data_dir.open_log(GROUP, SMALL).await.unwrap();
    (data_dir, log)
}

/// Control batches, several terms and segments, a purge inside a segment and a truncation.
fn model() -> Model {
    let mut model = Model::default();
    for n in 0..24 {
        model.append(&[entry(1 + n / 9, batch((n as usize + 3) % 4, 100, n as i64))]);
    }
    model.truncate_after(20);
    for n in 0..4 {
        model.append(&[entry(5, batch(2, 150, 30 + n))]);
    }
    model.purge(9);
    model
}

#[tokio::test]
#[ignore = "writes the fixture"]
async fn write_the_fixture() {
    drop(std::fs::remove_dir_all(fixture()));
    std::fs::create_dir_all(fixture()).unwrap();
    let (data_dir, log) = open(&fixture()).await;
    for n in 0..24 {
        log.append(&[entry(1 + n / 9, batch((n as usize + 3) % 4, 100, n as i64))]).unwrap();
    }
    log.truncate_after(Some(LogIndex(20))).await.unwrap();
    for n in 0..4 {
        log.append(&[entry(5, batch(2, 150, 30 + n))]).unwrap();
    }
    log.flush().await.unwrap();
    let ninth = log.entry(LogIndex(9)).unwrap().unwrap().log_id();
    log.purge(ninth).await.unwrap();
    let at = log.entry(LogIndex(12)).unwrap().unwrap().log_id();
    log.write_tables(at, Bytes::from_static(b"tables of version 1")).await.unwrap();
    check(&log, &model());
    data_dir.flush_clean().await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for found in std::fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        let target = to.join(found.file_name());
        if found.file_type().unwrap().is_dir() {
            copy(&found.path(), &target);
        } else {
            std::fs::copy(found.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn data_of_version_1_is_read_and_appended_to() {
    let directory = tempfile::tempdir().unwrap();
    copy(&fixture(), directory.path());
    let mut model = model();
    {
        let (data_dir, log) = open(directory.path()).await;
        assert_eq!((log.damage(), log.tail_cut()), (None, None));
        check(&log, &model);
        let (at, tables) = log.tables(LogIndex(u64::MAX)).unwrap().unwrap();
        assert_eq!((at.index, tables), (LogIndex(12), Bytes::from_static(b"tables of version 1")));
        assert_eq!(log.scrub().await.unwrap().new_damage, 0);
        let more = [entry(6, batch(3, 10, 90)), entry(6, batch(0, 0, 0))];
        log.append(&more).unwrap();
        model.append(&more);
        data_dir.flush_clean().await.unwrap();
    }
    let (_, log) = open(directory.path()).await;
    check(&log, &model);
}
