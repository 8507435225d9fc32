//! The contract of [`Disk`], checked on both implementations.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use super::*;

/// Every disk, with a directory to work in.
async fn on_each_disk(check: impl AsyncFn(Arc<dyn Disk>, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    check(Arc::new(RealDisk::new()), directory.path()).await;
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/sim")).unwrap();
    check(Arc::new(disk), Path::new("/sim")).await;
}

#[tokio::test]
async fn what_was_written_is_read_back() {
    on_each_disk(async |disk, directory| {
        let file = disk.create(&directory.join("f"), 1 << 20).unwrap();
        assert!(file.is_empty() && file.read(0..0).unwrap().is_empty());
        file.write_at(0, &[IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"water")]).unwrap();
        let early = file.read(0..9).unwrap();
        // The map was made when the file had nine bytes, and shows what is appended later.
        file.allocate(200_000).unwrap();
        file.write_at(100_000, &[IoSlice::new(b"later")]).unwrap();
        assert_eq!((&early[..], file.len()), (&b"headwater"[..], 200_000));
        assert_eq!(&file.read(99_999..100_006).unwrap()[..], b"\0later\0");
        file.populate(0..200_000).await.unwrap();
        assert!(file.is_resident(0..200_000));
        file.sync_data().await.unwrap();
        disk.sync_dir(directory).await.unwrap();
        let again = disk.open(&directory.join("f"), 1 << 20).unwrap();
        assert_eq!(&again.read(0..9).unwrap()[..], b"headwater");
    })
    .await;
}

#[tokio::test]
async fn reads_beyond_the_length_are_errors() {
    on_each_disk(async |disk, directory| {
        let file = disk.create(&directory.join("f"), 1 << 20).unwrap();
        file.allocate(8192).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(file.read(0..101).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(file.populate(0..101).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(file.read(0..100).unwrap().len(), 100);
    })
    .await;
}

#[tokio::test]
async fn names_are_created_listed_renamed_and_removed() {
    on_each_disk(async |disk, directory| {
        let below = directory.join("a/b");
        assert_eq!(disk.list(&below).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.open(&below.join("f"), 1).unwrap_err().kind(), ErrorKind::NotFound);
        disk.create_dir_all(&below).unwrap();
        let file = disk.create(&below.join("f"), 10).unwrap();
        assert_eq!(disk.create(&below.join("f"), 10).unwrap_err().kind(), ErrorKind::AlreadyExists);
        file.write_at(0, &[IoSlice::new(b"kept")]).unwrap();
        let slice = file.read(0..4).unwrap();
        disk.create(&below.join("c"), 10).unwrap();
        disk.rename(&below.join("f"), &below.join("g")).unwrap();
        assert_eq!(disk.list(&below).unwrap(), ["c", "g"]);
        disk.remove_file(&below.join("c")).unwrap();
        disk.remove_dir_all(&directory.join("a")).unwrap();
        assert_eq!(disk.list(directory).unwrap(), Vec::<String>::new());
        assert_eq!(&slice[..], b"kept");
    })
    .await;
}

#[tokio::test]
async fn a_lock_has_one_holder() {
    on_each_disk(async |disk, directory| {
        let path = directory.join("lock");
        let guard = disk.lock(&path).unwrap();
        assert_eq!(disk.lock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(guard);
        drop(disk.lock(&path).unwrap());
        let space = disk.space(directory).unwrap();
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
    })
    .await;
}

#[tokio::test]
async fn a_write_of_more_parts_than_a_system_call_takes() {
    on_each_disk(async |disk, directory| {
        let file = disk.create(&directory.join("f"), 1 << 20).unwrap();
        let bytes: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        let parts: Vec<_> = bytes.iter().map(|byte| IoSlice::new(std::slice::from_ref(byte))).collect();
        file.write_at(7, &parts).unwrap();
        assert_eq!(file.read(7..5007).unwrap(), bytes);
    })
    .await;
}
