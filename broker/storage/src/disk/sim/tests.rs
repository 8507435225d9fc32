#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::IoSlice;

use super::*;

fn write(file: &Arc<dyn DiskFile>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(offset, &[IoSlice::new(bytes)])
}

/// What power cuts leave of one and the same history, over many seeds.
async fn outcomes<T: Ord>(history: impl AsyncFn(&SimDisk), look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let mut found = BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        history(&disk).await;
        disk.power_cut();
        found.insert(look(&disk));
    }
    found
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.paths().iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn an_unsynced_name_may_vanish_and_a_synced_one_not() {
    let synced = async |disk: &SimDisk| {
        disk.create(Path::new("/a"), 0).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        disk.create(Path::new("/b"), 0).unwrap();
    };
    assert_eq!(
        outcomes(synced, names).await,
        BTreeSet::from([vec!["/a".into()], vec!["/a".into(), "/b".into()]])
    );
}

#[tokio::test]
async fn a_removed_name_may_come_back_with_its_content() {
    let history = async |disk: &SimDisk| {
        let file = disk.create(Path::new("/a"), 0).unwrap();
        write(&file, 0, b"x").unwrap();
        file.sync_data().await.unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        disk.remove_file(Path::new("/a")).unwrap();
    };
    let found = outcomes(history, |disk| disk.read_file(Path::new("/a")).ok()).await;
    assert_eq!(found, BTreeSet::from([None, Some(b"x".to_vec())]));
}

#[tokio::test]
async fn a_rename_happens_whole_or_not_at_all() {
    let history = async |disk: &SimDisk| {
        disk.create(Path::new("/a"), 0).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
    };
    assert_eq!(outcomes(history, names).await, BTreeSet::from([vec!["/a".into()], vec!["/b".into()]]));
}

#[tokio::test]
async fn a_name_needs_its_directory() {
    let history = async |disk: &SimDisk| {
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.create(Path::new("/d/f"), 0).unwrap();
        disk.sync_dir(Path::new("/d")).await.unwrap();
    };
    // The file's name was synced, its directory's was not.
    assert_eq!(outcomes(history, names).await, BTreeSet::from([vec![], vec!["/d/f".into()]]));
}

#[tokio::test]
async fn a_removed_directory_takes_its_unsynced_past_with_it() {
    let history = async |disk: &SimDisk| {
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.create(Path::new("/d/f"), 0).unwrap();
        disk.remove_dir_all(Path::new("/d")).unwrap();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
    };
    assert_eq!(outcomes(history, names).await, BTreeSet::from([vec![]]));
}

#[tokio::test]
async fn a_process_that_dies_leaves_what_it_wrote() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("/a"), 0).unwrap();
    let lock = disk.lock(Path::new("/lock")).unwrap();
    write(&file, 0, b"written").unwrap();
    disk.kill_process();
    assert!(write(&file, 0, b"from beyond").is_err() && file.read(0..1).is_err());
    let next = disk.lock(Path::new("/lock")).unwrap();
    drop(lock);
    assert!(disk.lock(Path::new("/lock")).is_err(), "an old guard freed the new lock");
    drop(next);
    assert_eq!(disk.read_file(Path::new("/a")).unwrap(), b"written");
}

#[tokio::test(start_paused = true)]
async fn the_power_fails_at_the_operation_chosen() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("/a"), 0).unwrap();
    disk.die_after(disk.operations() + 2);
    write(&file, 0, b"one").unwrap();
    assert!(!disk.is_dead());
    tokio::select! {
        _ = file.sync_data() => panic!("a sync ended without power"),
        () = disk.died() => {}
    }
    assert!(write(&file, 3, b"two").is_err() && disk.create(Path::new("/b"), 0).is_err());
    disk.power_cut();
    assert!(!disk.is_dead() && disk.create(Path::new("/b"), 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sync_cut_short_covers_nothing_for_sure() {
    let history = async |disk: &SimDisk| {
        disk.set_sync_latency(Duration::from_millis(10));
        let file = disk.create(Path::new("/a"), 0).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        write(&file, 0, &[1; 512]).unwrap();
        let cut = tokio::time::timeout(Duration::from_millis(1), file.sync_data()).await;
        assert!(cut.is_err());
    };
    let found = outcomes(history, |disk| disk.read_file(Path::new("/a")).unwrap()).await;
    assert_eq!(found, BTreeSet::from([vec![], vec![0; 512], vec![1; 512]]));
}

#[tokio::test]
async fn a_failed_sync_fails_and_the_next_one_lies() {
    let history = async |disk: &SimDisk| {
        let file = disk.create(Path::new("/a"), 0).unwrap();
        write(&file, 0, &[1; 512]).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        file.sync_data().await.unwrap();
        write(&file, 0, &[2; 512]).unwrap();
        disk.fail_syncs(Some("/a"));
        assert!(file.sync_data().await.is_err());
        disk.fail_syncs(None);
        assert!(file.sync_data().await.is_ok());
    };
    let found = outcomes(history, |disk| disk.read_file(Path::new("/a")).unwrap()[0]).await;
    assert_eq!(found, BTreeSet::from([1, 2]));
}

#[tokio::test]
async fn what_is_written_again_after_a_failed_sync_is_synced_by_the_next() {
    let history = async |disk: &SimDisk| {
        let file = disk.create(Path::new("/a"), 0).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        write(&file, 0, &[1; 512]).unwrap();
        disk.fail_syncs(Some("/a"));
        assert!(file.sync_data().await.is_err());
        disk.fail_syncs(None);
        write(&file, 0, &[1; 512]).unwrap();
        file.sync_data().await.unwrap();
    };
    let found = outcomes(history, |disk| disk.read_file(Path::new("/a")).unwrap()).await;
    assert_eq!(found, BTreeSet::from([vec![1; 512]]));
}

#[tokio::test(start_paused = true)]
async fn a_stalled_sync_takes_its_time() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("/slow"), 0).unwrap();
    disk.stall_syncs(Some(("slow", Duration::from_secs(5))));
    let begun = tokio::time::Instant::now();
    file.sync_data().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn a_full_disk_refuses_growth_until_space_returns() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("/a"), 0).unwrap();
    disk.set_free_bytes(1000);
    file.allocate(900).unwrap();
    assert_eq!(file.allocate(1001).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!((file.len(), disk.space(Path::new("/")).unwrap().free_bytes), (900, 100));
    write(&file, 0, &[1; 900]).unwrap();
    let other = disk.create(Path::new("/b"), 0).unwrap();
    assert!(other.allocate(101).is_err());
    disk.remove_file(Path::new("/a")).unwrap();
    other.allocate(101).unwrap();
}

#[tokio::test]
async fn after_a_power_cut_files_are_cold_until_populated() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("/a"), 0).unwrap();
    assert!(file.is_resident(0..0));
    disk.sync_dir(Path::new("/")).await.unwrap();
    disk.power_cut();
    let file = disk.open(Path::new("/a"), 0).unwrap();
    assert!(!file.is_resident(0..0));
    file.populate(0..0).await.unwrap();
    assert!(file.is_resident(0..0));
}

#[tokio::test]
async fn rot_is_seen_and_stays() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("/a"), 0).unwrap();
    write(&file, 0, &[0; 4]).unwrap();
    file.sync_data().await.unwrap();
    disk.sync_dir(Path::new("/")).await.unwrap();
    disk.flip_bit(Path::new("/a"), 2, 3).unwrap();
    disk.power_cut();
    assert_eq!(disk.read_file(Path::new("/a")).unwrap(), [0, 0, 8, 0]);
}

#[tokio::test]
async fn the_same_seed_leaves_the_same() {
    let run = async |seed| {
        let disk = SimDisk::new(seed);
        for n in 0..20u8 {
            let file = disk.create(Path::new(&format!("/{n}")), 0).unwrap();
            write(&file, 0, &[n; 3000]).unwrap();
        }
        disk.power_cut();
        disk.paths().into_iter().map(|path| (disk.read_file(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    assert_eq!(run(7).await, run(7).await);
    assert_ne!(run(7).await, run(8).await);
}
