#![allow(clippy::unwrap_used)]

use std::path::Path;

use headwater_proto::types::{PartitionId, TopicId};
use proptest::prelude::*;

use super::*;
use crate::disk::SimDisk;

const DIRECTORY: &str = "/journal";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}

fn group(number: u8) -> GroupId {
    GroupId { topic_id: TopicId([number; 16]), partition: PartitionId(i32::from(number)) }
}

fn put(owner: u8, kind: u8, fill: u8, bytes: usize) -> Change {
    let group = (owner > 0).then(|| group(owner));
    Change::Put { group, kind, value: vec![fill; bytes].into() }
}

fn dyn_disk(disk: &Arc<SimDisk>) -> Arc<dyn Disk> {
    Arc::clone(disk) as _
}

async fn create(disk: &Arc<SimDisk>) -> Result<Journal, JournalError> {
    disk.create_dir_all(Path::new(DIRECTORY))
        .map_err(|source| JournalError::Io { path: DIRECTORY.into(), source })?;
    let synced = disk.sync_dir(Path::new("/")).await;
    synced.map_err(|source| JournalError::Io { path: DIRECTORY.into(), source })?;
    Journal::create(&dyn_disk(disk), Path::new(DIRECTORY), &[put(0, 1, 1, 16)]).await
}

async fn open(disk: &Arc<SimDisk>) -> Result<Journal, JournalError> {
    Journal::open(&dyn_disk(disk), Path::new(DIRECTORY)).await
}

/// One flush round's changes, big ones now and then, so that generations change within a few rounds.
fn round() -> impl Strategy<Value = Vec<Change>> {
    let bytes = prop_oneof![4 => 0usize..600, 1 => 40_000usize..90_000];
    let change = prop_oneof![
        8 => (0u8..4, 1u8..4, any::<u8>(), bytes).prop_map(|(o, k, f, b)| put(o, k, f, b)),
        1 => (1u8..4).prop_map(|owner| Change::RemoveGroup(group(owner))),
    ];
    prop::collection::vec(change, 1..4)
}

/// Facts after each number of rounds.
fn states(rounds: &[Vec<Change>]) -> Vec<Facts> {
    let mut facts = Facts::default();
    facts.apply([put(0, 1, 1, 16)]);
    let mut states = vec![facts.clone()];
    for round in rounds {
        facts.apply(round.iter().cloned());
        states.push(facts.clone());
    }
    states
}

/// Runs rounds until the power fails; how many completed, `None` if the journal was not even created.
async fn run(disk: &Arc<SimDisk>, rounds: &[Vec<Change>]) -> Option<usize> {
    let mut journal = tokio::select! {
        journal = create(disk) => journal.ok()?,
        () = disk.died() => return None,
    };
    for (completed, round) in rounds.iter().enumerate() {
        tokio::select! {
            biased;
            result = journal.append(round) => if result.is_err() { return Some(completed) },
            () = disk.died() => return Some(completed),
        }
    }
    Some(rounds.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Power is cut at some operation, and again while the journal is opened: every completed round is there,
    /// the one under way whole or not at all.
    #[test]
    fn a_crash_at_any_point_keeps_every_completed_round(
        rounds in prop::collection::vec(round(), 1..25),
        seed in any::<u64>(),
        at in any::<prop::sample::Index>(),
        again in 1u64..12,
    ) {
        block_on(async {
            let whole = Arc::new(SimDisk::new(seed));
            run(&whole, &rounds).await;
            let disk = Arc::new(SimDisk::new(seed));
            disk.die_after(at.index(whole.operations() as usize + 1) as u64);
            let Some(completed) = run(&disk, &rounds).await else { return Ok(()) };
            disk.power_cut();
            disk.die_after(disk.operations() + again);
            tokio::select! { opened = open(&disk) => drop(opened), () = disk.died() => {} }
            disk.power_cut();
            let mut journal = open(&disk).await.unwrap();
            let states = states(&rounds);
            let found = journal.facts().snapshot();
            prop_assert!(
                found == states[completed] || Some(&found) == states.get(completed + 1),
                "{completed} rounds were completed"
            );
            journal.append(&[put(0, 9, 9, 9)]).await.unwrap();
            disk.power_cut();
            let journal = open(&disk).await.unwrap();
            prop_assert_eq!(journal.facts().get(None, 9).unwrap().len(), 9);
            Ok(())
        })?;
    }

    /// Either copy may rot anywhere, several times over: nothing is lost and it is repaired.
    #[test]
    fn damage_of_one_copy_is_repaired(
        rounds in prop::collection::vec(round(), 1..25),
        copy in 0usize..2,
        flips in prop::collection::vec((0usize..2, any::<prop::sample::Index>(), 0u8..8), 1..6),
    ) {
        block_on(async {
            let disk = Arc::new(SimDisk::new(1));
            run(&disk, &rounds).await;
            let expected = states(&rounds).pop().unwrap();
            // The other copy next: it alone must do, now that the first was repaired.
            for copy in [copy, 1 - copy] {
                disk.kill_process();
                for (slot, position, bit) in &flips {
                    let path = Path::new(DIRECTORY).join(NAMES[*slot][copy]);
                    let bytes = disk.read_file(&path).unwrap().len();
                    disk.flip_bit(&path, position.index(bytes) as u64, *bit).unwrap();
                }
                let journal = open(&disk).await.unwrap();
                prop_assert_eq!(&journal.facts().snapshot(), &expected);
            }
            Ok(())
        })?;
    }
}

/// A journal of `frames` small frames behind the first, one sector each, in generation 1.
async fn small_frames(frames: u8) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new(1));
    let mut journal = create(&disk).await.unwrap();
    for n in 1..=frames {
        journal.append(&[put(1, n, n, 8)]).await.unwrap();
    }
    disk.kill_process();
    disk
}

/// Flips a bit of a frame in both copies of the slot of generation 1.
fn damage_both(disk: &SimDisk, frame: u64) {
    for copy in NAMES[0] {
        disk.flip_bit(&Path::new(DIRECTORY).join(copy), frame * frame::ALIGN_BYTES + 20, 0).unwrap();
    }
}

#[test]
fn damage_in_both_copies_with_an_intact_frame_after_it_is_unreadable() {
    block_on(async {
        for frame in 0..5 {
            let disk = small_frames(5).await;
            damage_both(&disk, frame);
            let error = open(&disk).await.unwrap_err();
            assert!(matches!(error, JournalError::Unreadable { .. }), "frame {frame}: {error}");
            // And stays so: refusing changed nothing.
            assert!(open(&disk).await.is_err());
        }
    });
}

#[test]
fn damage_at_different_frames_of_both_copies_costs_nothing() {
    block_on(async {
        let disk = small_frames(5).await;
        for (copy, frame) in NAMES[0].iter().zip([1, 3]) {
            disk.flip_bit(&Path::new(DIRECTORY).join(copy), frame * frame::ALIGN_BYTES + 9, 1).unwrap();
        }
        assert_eq!(open(&disk).await.unwrap().facts().of(Some(group(1))).len(), 5);
    });
}

#[test]
fn damage_at_the_end_of_both_copies_is_a_torn_tail() {
    block_on(async {
        let disk = small_frames(5).await;
        damage_both(&disk, 5);
        let journal = open(&disk).await.unwrap();
        assert_eq!(journal.facts().of(Some(group(1))).len(), 4);
    });
}

#[test]
fn a_missing_copy_is_made_again() {
    block_on(async {
        let disk = small_frames(3).await;
        disk.remove_file(&Path::new(DIRECTORY).join("0.a")).unwrap();
        assert_eq!(open(&disk).await.unwrap().facts().of(Some(group(1))).len(), 3);
        disk.kill_process();
        disk.remove_file(&Path::new(DIRECTORY).join("1.b")).unwrap();
        assert_eq!(open(&disk).await.unwrap().facts().of(Some(group(1))).len(), 3);
        for name in NAMES.iter().flatten() {
            disk.remove_file(&Path::new(DIRECTORY).join(name)).unwrap();
        }
        assert!(matches!(open(&disk).await, Err(JournalError::Unreadable { .. })));
    });
}

#[test]
fn files_stay_as_long_as_the_facts_need() {
    block_on(async {
        let disk = Arc::new(SimDisk::new(1));
        let mut journal = create(&disk).await.unwrap();
        for n in 0..5000u32 {
            journal.append(&[put(1, 1, n as u8, 100)]).await.unwrap();
        }
        let bytes: usize = disk.paths().iter().map(|path| disk.read_file(path).unwrap().len()).sum();
        assert_eq!(bytes as u64, 4 * FILE_BYTES);
        for n in 0..=255 {
            journal.append(&[put(2, n, n, 4000)]).await.unwrap();
        }
        disk.kill_process();
        assert_eq!(open(&disk).await.unwrap().facts().of(Some(group(2))).len(), 256);
    });
}

#[test]
fn a_full_disk_changes_nothing_and_any_other_error_is_final() {
    block_on(async {
        let disk = Arc::new(SimDisk::new(1));
        let mut journal = create(&disk).await.unwrap();
        disk.set_free_bytes(0);
        let error = journal.append(&[put(1, 1, 1, 2 << 20)]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        journal.append(&[put(1, 1, 1, 10)]).await.unwrap();
        disk.set_free_bytes(1 << 30);
        journal.append(&[put(1, 1, 1, 2 << 20)]).await.unwrap();

        disk.fail_syncs(Some("1.b"));
        while journal.append(&[put(1, 2, 2, 100_000)]).await.is_ok() {}
        disk.fail_syncs(None);
        assert!(journal.is_failed() && journal.append(&[put(1, 2, 2, 2)]).await.is_err());
    });
}
