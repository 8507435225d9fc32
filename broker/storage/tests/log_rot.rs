//! Rot that recovery can't see: below the durable point the index is believed, and only a read meets the batch.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{GROUP, Life, Model, ModelEntry, SMALL, batch, check, entry, files};
use headwater_proto::types::{LogIndex, Offset, Term};
use headwater_storage::data_dir::Suspect;
use headwater_storage::disk::{Disk, SimDisk};
use headwater_storage::inspect;
use headwater_storage::log::{LogError, NewEntry};
use proptest::prelude::*;

const ENTRIES: usize = 30;

/// Entries of two records, some of none: a few sealed segments and an active one, all durable.
async fn filled(seed: u64) -> (Life, Model) {
    let life = Life::begin(&Arc::new(SimDisk::new(seed)), SMALL).await;
    let mut model = Model::default();
    for n in 0..ENTRIES {
        let entries: Vec<NewEntry> = vec![entry(1, batch(if n % 7 == 3 { 0 } else { 2 }, 200, n as i64))];
        life.log.append(&entries).unwrap();
        model.append(&entries);
    }
    life.log.flush().await.unwrap();
    (life, model)
}

/// Flips a bit of an entry's batch, wherever that lies.
fn flip(disk: &SimDisk, model: &Model, n: usize, byte: usize, bit: u8) {
    for path in files(disk, "log") {
        let segment = inspect::segments(disk, &path).unwrap().remove(0);
        for found in segment.batches().unwrap() {
            if found.index == Some(model.entries[n].id.index) {
                return disk.flip_bit(&path, found.position + byte as u64, bit).unwrap();
            }
        }
    }
    panic!("no such entry on the disk");
}

#[derive(Debug, Clone, Copy)]
enum Restart {
    None,
    Clean,
    Kill,
    PowerCut,
}

impl Restart {
    async fn of(self, life: Life) -> Life {
        match self {
            Self::None => life,
            Self::Clean => life.restart_cleanly(SMALL).await,
            Self::Kill => life.restart_after_kill(SMALL).await,
            Self::PowerCut => life.restart_after_power_cut(SMALL).await,
        }
    }
}

/// Every way to the batch of an entry, each of which gives it as it was appended or an error.
async fn read(life: &Life, entry: &ModelEntry) -> Vec<LogError> {
    let (log, index) = (&life.log, entry.id.index);
    let mut errors = Vec::new();
    // Both ways twice: what is in memory by now is no better.
    let mut take = |found: Result<Vec<bytes::Bytes>, LogError>| match found {
        Ok(found) => assert_eq!(found, std::slice::from_ref(&entry.bytes), "entry {index}"),
        Err(error) => errors.push(error),
    };
    let bytes = |found: Vec<(_, bytes::Bytes)>| found.into_iter().map(|(_, bytes)| bytes).collect();
    take(log.batch(index).map(|found| bytes(Vec::from_iter(found))));
    take(log.batches(index..index.next(), 1).map(bytes));
    take(log.batches_async(index..index.next(), 1).await.map(bytes));
    if entry.records > 0 {
        let (from, below) = (Offset(entry.base_offset), Offset(entry.base_offset + entry.records));
        take(log.read(from, below, 1).map(|slice| vec![slice.bytes]));
        take(log.read_async(from, below, 1).await.map(|slice| vec![slice.bytes]));
    }
    errors
}

async fn rot_is_never_read(n: usize, byte: usize, bit: u8, before: Restart, after: Restart, warm: bool) {
    let (life, model) = filled(bit.into()).await;
    // The index of every entry is on the disk, or the start would scan the batch and find it damaged.
    let life = before.of(life.restart_cleanly(SMALL).await).await;
    let life = Restart::Clean.of(life).await;
    if warm {
        check(&life.log, &model);
    }
    let entry = &model.entries[n];
    flip(&life.disk, &model, n, byte % entry.bytes.len(), bit);
    let life = after.of(life).await;
    if warm {
        // What was evicted comes back into memory together with its neighbours, whoever reads those.
        for path in files(&life.disk, "log") {
            let file = life.disk.open(&path, 1 << 20).unwrap();
            file.populate(0..file.len()).await.unwrap();
        }
    }
    if life.log.damage().is_none() && !(warm && matches!(after, Restart::None)) {
        let whole = life.log.batches(LogIndex(1)..LogIndex(ENTRIES as u64 + 1), usize::MAX);
        assert!(matches!(whole, Err(LogError::Corrupt { at: Some(at), .. }) if at == entry.id.index));
        let errors = read(&life, entry).await;
        assert!(errors.iter().all(|e| matches!(e, LogError::Corrupt { .. })), "{errors:?}");
        assert_eq!(errors.len(), if entry.records > 0 { 5 } else { 3 });
        let suspect = life.data_dir.suspected().await;
        assert_eq!(suspect, Suspect { group: GROUP, index: entry.id.index });
        assert_eq!(life.log.scrub_at(suspect.index).await.unwrap().new_damage, 1);
        assert!(read(&life, entry).await.iter().all(|e| matches!(e, LogError::Damaged { .. })));
        for intact in model.entries.iter().filter(|e| e.id.index != entry.id.index) {
            assert!(read(&life, intact).await.is_empty());
        }
        assert_eq!(life.log.damage().unwrap().ranges.len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whichever bit flips, whatever happened before and happens after: a read gives what was appended or an error, and
    /// the error is followed up.
    #[test]
    fn what_rots_is_not_read(
        n in 0..ENTRIES,
        byte in 0usize..1_000,
        bit in 0u8..8,
        before in prop_oneof![Just(Restart::None), Just(Restart::Kill), Just(Restart::PowerCut)],
        after in prop_oneof![
            Just(Restart::None), Just(Restart::Clean), Just(Restart::Kill), Just(Restart::PowerCut)
        ],
        warm in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(rot_is_never_read(n, byte, bit, before, after, warm));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_proven_once_is_believed_and_what_leaves_the_memory_is_not() {
    let (life, model) = filled(1).await;
    let life = life.restart_cleanly(SMALL).await;
    check(&life.log, &model);
    assert!(read(&life, &model.entries[4]).await.is_empty());
    flip(&life.disk, &model, 4, 100, 2);
    assert_eq!(read(&life, &model.entries[4]).await.len(), 5);
    // An appended one too.
    let more = [entry(1, batch(2, 200, 99))];
    let index = life.log.append(&more).unwrap().index;
    life.log.flush().await.unwrap();
    let meta = life.log.entry(index).unwrap().unwrap();
    life.disk.flip_bit(&files(&life.disk, "log").pop().unwrap(), meta.position + 100, 2).unwrap();
    assert!(matches!(life.log.batch(index), Err(LogError::Corrupt { at: Some(at), .. }) if at == index));
}

/// The term of a batch lies outside its CRC. Where its index entry is lost too, only its neighbours tell, and the newest
/// term that the replica has voted in.
#[tokio::test(start_paused = true)]
async fn a_term_that_the_log_cannot_hold_is_a_torn_tail_above_the_durable_point_and_damage_below() {
    const EPOCH: u64 = 12;
    for (byte, bit, is_durable) in [(3, 4, false), (0, 0, false), (0, 7, false), (3, 2, false), (3, 4, true)]
    {
        let disk = Arc::new(SimDisk::new(3));
        let life = Life::begin(&disk, SMALL).await;
        let mut model = Model::default();
        let entries = [entry(5, batch(1, 10, 70)), entry(7, batch(1, 10, 71))];
        life.log.append(&entries).unwrap();
        model.append(&entries);
        life.log.flush().await.unwrap();
        if is_durable {
            // Another round journals the points of the one before.
            life.data_dir.put(None, 99, bytes::Bytes::from_static(b"x")).await.unwrap();
        }
        let (path, meta) =
            (files(&disk, "log").pop().unwrap(), life.log.entry(LogIndex(2)).unwrap().unwrap());
        disk.flip_bit(&path, meta.position + EPOCH + byte, bit).unwrap();
        disk.kill_process();
        drop(life);
        let data_dir = headwater_storage::data_dir::DataDir::open(disk.clone(), "/data".as_ref(), &mut || 1)
            .await
            .unwrap();
        let log = data_dir.open_log_up_to(GROUP, SMALL, Term(8)).await.unwrap();
        if is_durable {
            assert_eq!(log.damage().unwrap().end_missing_below, Some(LogIndex(3)));
        } else {
            assert_eq!(log.damage(), None);
            assert_eq!(log.tail_cut().unwrap().last, Some(model.entries[0].id), "byte {byte}, bit {bit}");
            check(&log, &model.prefix(2));
        }
    }
}
