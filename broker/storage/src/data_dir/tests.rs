#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::IoSlice;

use headwater_proto::types::{PartitionId, TopicId};

use super::*;
use crate::disk::SimDisk;

const PATH: &str = "node/data";

fn group(number: u8) -> GroupId {
    GroupId { topic_id: TopicId([number; 16]), partition: PartitionId(0) }
}

async fn open_at(disk: &Arc<SimDisk>, path: &str, first: u64) -> Result<Arc<DataDir>, OpenError> {
    let mut next = first;
    let mut entropy = || {
        next += 1;
        next
    };
    let disk: Arc<dyn Disk> = Arc::clone(disk) as _;
    DataDir::open(disk, Path::new(path), &mut entropy).await
}

async fn open(disk: &Arc<SimDisk>, first: u64) -> Result<Arc<DataDir>, OpenError> {
    open_at(disk, PATH, first).await
}

fn write(disk: &SimDisk, path: &str, bytes: &[u8]) {
    let path = Path::new(PATH).join(path);
    disk.create_dir_all(path.parent().unwrap()).unwrap();
    let file = disk.create(&path, 0).unwrap();
    file.write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn facts_and_incarnation_last() {
    let disk = Arc::new(SimDisk::new(1));
    let first = open(&disk, 1).await.unwrap();
    let incarnation = first.incarnation();
    let created = Bytes::from_static(b"voters");
    first.put(Some(group(1)), GROUP_CREATED, created.clone()).await.unwrap();
    first.put(None, 40, Bytes::from_static(b"node")).await.unwrap();
    disk.power_cut();

    let second = open(&disk, 99).await.unwrap();
    assert_eq!((second.incarnation(), second.groups()), (incarnation, vec![group(1)]));
    assert_eq!((second.get(Some(group(1)), GROUP_CREATED), second.was_clean()), (Some(created), false));
    assert_eq!(&second.get(None, 40).unwrap()[..], b"node");
    let other = open_at(&disk, "elsewhere", 5).await.unwrap();
    assert_ne!(other.incarnation(), incarnation);
}

#[tokio::test(start_paused = true)]
async fn one_broker_at_a_time() {
    let disk = Arc::new(SimDisk::new(1));
    let first = open(&disk, 1).await.unwrap();
    let error = open(&disk, 1).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }) && error.to_string().contains("--data-dir"), "{error}");
    first.flush_clean().await.unwrap();
    assert!(first.put(None, 40, Bytes::new()).await.is_err());
    let second = open(&disk, 1).await.unwrap();
    assert!(second.was_clean());
    disk.kill_process();
    assert!(!open(&disk, 1).await.unwrap().was_clean(), "clean is said once");
}

#[tokio::test(start_paused = true)]
async fn the_lock_goes_with_the_last_handle() {
    let disk = Arc::new(SimDisk::new(1));
    drop(open(&disk, 1).await.unwrap());
    while let Err(error) = open(&disk, 1).await {
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_format_is_refused_and_left_alone() {
    let disk = Arc::new(SimDisk::new(1));
    write(&disk, "format", b"headwater data directory, format 7\n");
    let before = disk.paths();
    let error = open(&disk, 1).await.unwrap_err();
    assert!(matches!(&error, OpenError::WrongVersion { found, .. } if found == "7"), "{error}");
    assert_eq!(disk.paths(), before);
    let other = Arc::new(SimDisk::new(1));
    write(&other, "format", b"something else");
    assert!(matches!(open(&other, 1).await, Err(OpenError::WrongVersion { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_something_else_is_refused() {
    for (file, entry) in [("holiday.jpg", "holiday.jpg"), ("groups/x/1.log", "groups")] {
        let disk = Arc::new(SimDisk::new(1));
        write(&disk, file, b"");
        let error = open(&disk, 1).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::NotADataDirectory { entry: found, .. } if found == entry),
            "{error}"
        );
    }
    let disk = Arc::new(SimDisk::new(1));
    disk.create_dir_all(&Path::new(PATH).join("lost+found")).unwrap();
    open(&disk, 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_journal_refuses_to_start() {
    let disk = Arc::new(SimDisk::new(1));
    let first = open(&disk, 1).await.unwrap();
    first.put(None, 40, Bytes::from_static(b"vote")).await.unwrap();
    disk.kill_process();
    for copy in ["journal/0.a", "journal/0.b"] {
        disk.flip_bit(&Path::new(PATH).join(copy), 9, 0).unwrap();
    }
    let error = open(&disk, 1).await.unwrap_err();
    assert!(matches!(error, OpenError::Journal(crate::journal::JournalError::Unreadable { .. })), "{error}");
}

/// Power is cut at every operation of a first start, twice: the directory is always usable afterwards, and
/// keeps the incarnation that it had shown to anybody.
#[tokio::test(start_paused = true)]
async fn a_directory_can_be_begun_again_after_any_crash() {
    let whole = Arc::new(SimDisk::new(1));
    open(&whole, 1).await.unwrap().put(None, 40, Bytes::from_static(b"x")).await.unwrap();
    let mut incarnations = BTreeSet::new();
    for at in 1..=whole.operations() {
        for seed in 0..3 {
            let disk = Arc::new(SimDisk::new(seed));
            let mut shown = None;
            for (round, extra) in [(1, at), (2, at / 2 + 1)] {
                disk.die_after(disk.operations() + extra);
                let work = async {
                    let Ok(data_dir) = open(&disk, round * 100).await else { return };
                    assert!(shown.is_none_or(|shown| shown == data_dir.incarnation()));
                    shown = Some(data_dir.incarnation());
                    drop(data_dir.put(None, 40, Bytes::from_static(b"x")).await);
                };
                tokio::select! { () = work => {}, () = disk.died() => {} }
                disk.power_cut();
            }
            let data_dir = open(&disk, 300).await.unwrap();
            assert!(shown.is_none_or(|shown| shown == data_dir.incarnation()), "operation {at}");
            incarnations.insert(data_dir.incarnation());
        }
    }
    assert!(incarnations.len() == 3, "no crash fell into each phase");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_group_stays_deleted_after_any_crash() {
    for at in 1..20 {
        for seed in 0..4 {
            let disk = Arc::new(SimDisk::new(seed));
            let data_dir = open(&disk, 1).await.unwrap();
            let group = group(1);
            let path = data_dir.layout.group(group);
            write(&disk, &format!("groups/{group}/0.log"), b"batch");
            disk.sync_dir(&path).await.unwrap();
            disk.sync_dir(&data_dir.layout.groups()).await.unwrap();
            data_dir.put(Some(group), GROUP_CREATED, Bytes::from_static(b"x")).await.unwrap();
            disk.die_after(disk.operations() + at);
            let deleted = tokio::select! {
                deleted = data_dir.delete_group(group) => deleted.is_ok(),
                () = disk.died() => false,
            };
            disk.power_cut();
            let data_dir = open(&disk, 1).await.unwrap();
            let exists = data_dir.groups() == vec![group];
            assert!(!(deleted && exists), "operation {at}");
            assert_eq!(exists, disk.list(&path).is_ok_and(|files| !files.is_empty()), "operation {at}");
            assert!(exists || data_dir.facts(Some(group)).is_empty());
        }
    }
}
