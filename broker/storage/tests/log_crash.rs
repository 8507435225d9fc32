//! The power fails after every single operation of a scenario: what was durable is there, what was not is a
//! prefix of what was appended, and the log goes on.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{GROUP, Life, Model, SMALL, batch, check, entry};
use headwater_proto::types::LogIndex;
use headwater_storage::disk::SimDisk;
use headwater_storage::log::{LogOptions, NewEntry};

/// What the scenario knew when the power failed.
#[derive(Debug, Default, Clone)]
struct Known {
    /// What the log must be a prefix of.
    model: Model,
    /// What it may be a prefix of instead, while a truncation is under way.
    after: Option<Model>,
    /// Everything below this index must be there.
    durable_next: u64,
}

fn some_batches(round: usize) -> Vec<NewEntry> {
    let term = 1 + round as u64 / 4;
    (0..5).map(|n| entry(term, batch((round + n) % 4, 40 * n, (10 * round + n) as i64))).collect()
}

async fn append(life: &Life, known: &mut Known, round: usize) -> Option<()> {
    let entries = some_batches(round);
    let mut model = known.model.clone();
    model.append(&entries);
    // Any part of a failed append may be found again.
    known.model = model;
    life.log.append(&entries).ok()?;
    Some(())
}

async fn flush(life: &Life, known: &mut Known) -> Option<()> {
    life.log.flush().await.ok()?;
    known.durable_next = known.model.next_index();
    Some(())
}

async fn truncate(life: &Life, known: &mut Known, last: u64) -> Option<()> {
    let mut after = known.model.clone();
    after.truncate_after(last);
    known.durable_next = known.durable_next.min(last + 1);
    known.after = Some(after.clone());
    life.log.truncate_after(Some(LogIndex(last))).await.ok()?;
    known.model = after;
    known.after = None;
    Some(())
}

/// Rolls, truncations into sealed and active segments, purges, a seal, and restarts' worth of appends.
async fn scenario(life: &Life, known: &mut Known) -> Option<()> {
    for round in 0..4 {
        append(life, known, round).await?;
        flush(life, known).await?;
    }
    append(life, known, 4).await?;
    truncate(life, known, 22).await?;
    append(life, known, 5).await?;
    flush(life, known).await?;
    truncate(life, known, 9).await?;
    append(life, known, 6).await?;
    flush(life, known).await?;
    // Of whole segments, so that files go.
    let sealed: Vec<_> = life.log.segments().into_iter().filter(|s| s.sealed).collect();
    let upto = sealed[sealed.len() / 2].last;
    let mut purged = known.model.clone();
    purged.purge(upto.index.0);
    known.after = Some(purged.clone());
    life.log.purge(upto).await.ok()?;
    known.model = purged;
    known.after = None;
    append(life, known, 7).await?;
    life.log.seal_active().await.ok()?;
    known.durable_next = known.model.next_index();
    append(life, known, 8).await?;
    let at = known.model.entries[1].id;
    life.log.write_tables(at, bytes::Bytes::from_static(b"tables")).await.ok()?;
    flush(life, known).await?;
    append(life, known, 9).await?;
    life.data_dir.flush_clean().await.ok()?;
    known.durable_next = known.model.next_index();
    Some(())
}

/// The log is a prefix of the model and holds all that was durable.
fn judge(life: &Life, known: &Known) -> Model {
    assert_eq!(life.log.damage(), None);
    let bounds = life.log.bounds();
    let next = bounds.last.map_or(1, |id| id.index.0 + 1);
    assert!(next >= known.durable_next, "ends at {next}, {} was durable", known.durable_next);
    let candidates = [Some(&known.model), known.after.as_ref()];
    let fits = |m: &&Model| m.purged == bounds.purged && next <= m.next_index() && is_prefix(life, m, next);
    let Some(model) = candidates.into_iter().flatten().find(fits) else {
        panic!("the log is no prefix of what was appended: {bounds:?}");
    };
    let model = model.prefix(next);
    check(&life.log, &model);
    model
}

fn is_prefix(life: &Life, model: &Model, next: u64) -> bool {
    let below = model.entries.iter().take_while(|e| e.id.index.0 < next);
    below.clone().all(|e| life.log.batch(e.id.index).unwrap().is_some_and(|(_, bytes)| bytes == e.bytes))
}

async fn crash_after(operation: u64, seed: u64, power_cuts: usize) -> bool {
    let disk = Arc::new(SimDisk::new(seed));
    disk.die_after(operation);
    let mut known = Known { durable_next: 1, ..Known::default() };
    let finished = tokio::select! {
        biased;
        () = disk.died() => false,
        done = async {
            let Ok(life) = Life::try_begin(&disk, SMALL).await else { return false };
            scenario(&life, &mut known).await.is_some()
        } => done,
    };
    // Power cuts during the recovery itself, too.
    for cut in 0..power_cuts as u64 {
        disk.power_cut();
        disk.die_after(disk.operations() + 2 + cut * 3);
        tokio::select! {
            biased;
            () = disk.died() => {}
            life = Life::try_begin(&disk, SMALL) => drop(life),
        }
    }
    disk.power_cut();
    let life = Life::begin(&disk, SMALL).await;
    let mut model = judge(&life, &known);
    // It goes on: what comes now is not confused with what was lost.
    let entries = some_batches(40);
    life.log.append(&entries).unwrap();
    model.append(&entries);
    life.log.flush().await.unwrap();
    check(&life.log, &model);
    let life = life.restart_after_power_cut(SMALL).await;
    assert_eq!(life.log.damage(), None);
    check(&life.log, &model);
    finished
}

#[tokio::test(start_paused = true)]
async fn power_fails_after_each_operation_of_rolls_truncations_and_purges() {
    for seed in 0..2 {
        let mut operation = 1;
        while !crash_after(operation, seed * 1_000 + operation, 0).await {
            operation += 1;
        }
        assert!(operation > 100, "the scenario is shorter than it should be: {operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn power_fails_again_and_again_during_recovery() {
    let mut operation = 1;
    while !crash_after(operation, 77 + operation, 3).await {
        operation += 3;
    }
}

/// A footer may reach the disk before the entries that it vouches for: both lie in one file that nobody synced.
#[tokio::test(start_paused = true)]
async fn power_fails_after_a_roll_whose_seal_was_not_synced() {
    let options = LogOptions { segment_bytes: 1 << 20, segment_batches: 64 };
    for seed in 0..40 {
        let life = Life::begin(&Arc::new(SimDisk::new(seed)), options).await;
        let mut model = Model::default();
        let entries: Vec<NewEntry> = (0..64).map(|n| entry(1, batch(1, 10, n))).collect();
        life.log.append(&entries).unwrap();
        model.append(&entries);
        life.log.flush().await.unwrap();
        // The durable point, which covers the whole segment, is journalled with this.
        life.data_dir.put(None, 99, bytes::Bytes::from_static(b"x")).await.unwrap();
        life.log.append(&[entry(1, batch(1, 10, 64))]).unwrap();
        assert!(life.log.segments()[0].sealed);

        let killed = seed % 2 == 0;
        let mut life = if killed {
            life.restart_after_kill(options).await
        } else {
            life.restart_after_power_cut(options).await
        };
        if killed {
            // What the start believed must not hang on a page cache that goes later.
            let kept = [entry(1, batch(1, 10, 64))];
            model.append(&kept);
            let more = [entry(2, batch(2, 10, 65))];
            life.log.append(&more).unwrap();
            model.append(&more);
            life.log.flush().await.unwrap();
            life.data_dir.put(None, 99, bytes::Bytes::from_static(b"y")).await.unwrap();
            life = life.restart_after_power_cut(options).await;
            check(&life.log, &model);
        } else {
            assert!(life.log.bounds().last.unwrap().index >= LogIndex(64), "seed {seed}");
            check(&life.log, &model.prefix(65));
        }
    }
}

/// The kernel reports a failed write-back once; the sync after it succeeds and proves nothing.
#[tokio::test(start_paused = true)]
async fn nothing_is_durable_after_a_failed_sync() {
    let life = Life::begin(&Arc::new(SimDisk::new(5)), SMALL).await;
    life.disk.set_sync_latency(std::time::Duration::from_millis(5));
    life.disk.fail_syncs(Some(".log"));
    life.log.append(&[entry(1, batch(1, 10, 1))]).unwrap();
    let (disk, (done, first)) = (life.disk.clone(), tokio::sync::oneshot::channel());
    life.log.when_durable(Box::new(move |result| {
        disk.fail_syncs(None);
        done.send(result).unwrap();
    }));
    // The round that will fail is under way.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    life.log.append(&[entry(1, batch(1, 10, 2))]).unwrap();
    let (done, second) = tokio::sync::oneshot::channel();
    life.log.when_durable(Box::new(move |result| done.send(result).unwrap()));
    assert!(first.await.unwrap().is_err());
    assert!(second.await.unwrap().is_err());
    assert_eq!(life.log.bounds().durable_index, None);
    life.data_dir.put(None, 99, bytes::Bytes::from_static(b"x")).await.unwrap();
    let life = life.restart_after_power_cut(SMALL).await;
    assert_eq!(life.log.damage(), None, "a durable point was journalled for what was never durable");
}

/// The log is opened again after its sync failed at any moment, by the same process or the next: what the failed sync
/// left in memory proves nothing, and what comes after lasts.
#[tokio::test(start_paused = true)]
async fn a_log_goes_on_after_a_failed_sync() {
    let (mut failures, mut after_ms) = (0, 0);
    loop {
        let disk = Arc::new(SimDisk::new(after_ms));
        let life = Life::begin(&disk, SMALL).await;
        disk.set_sync_latency(std::time::Duration::from_millis(5));
        let mut known = Known::default();
        let fails = async {
            tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
            disk.fail_syncs(Some("/groups/"));
            std::future::pending().await
        };
        tokio::select! {
            _ = scenario(&life, &mut known) => {}
            () = fails => {}
        }
        disk.fail_syncs(None);
        // The scenario ends with a clean stop.
        if life.data_dir.put(None, 98, bytes::Bytes::from_static(b"x")).await.is_err() {
            break;
        }
        failures += 1;
        let life =
            if after_ms % 4 == 0 { open_again(life).await } else { life.restart_after_kill(SMALL).await };
        let mut model = judge(&life, &known);
        let entries = [entry(9, batch(3, 40, 99))];
        model.append(&entries);
        life.log.append(&entries).unwrap();
        life.log.flush().await.unwrap();
        life.data_dir.put(None, 99, bytes::Bytes::from_static(b"x")).await.unwrap();
        let life = life.restart_after_power_cut(SMALL).await;
        assert_eq!(life.log.damage(), None, "failed after {after_ms} ms");
        check(&life.log, &model);
        after_ms += 1;
    }
    assert!(failures > 40, "{failures}");
}

/// A clean stop syncs the index of the segment that is open, and fails. The next process seals that segment: its seal
/// vouches for entries that the kernel takes for written.
#[tokio::test(start_paused = true)]
async fn a_segment_is_sealed_whose_index_the_last_process_failed_to_sync() {
    let options = LogOptions { segment_bytes: 1 << 20, segment_batches: 64 };
    for seed in 0..20 {
        let life = Life::begin(&Arc::new(SimDisk::new(seed)), options).await;
        let mut model = Model::default();
        append_all(&life, &mut model, 0..48).await;
        life.disk.fail_syncs(Some(".index"));
        life.log.flush_clean().await.unwrap_err();
        life.disk.fail_syncs(None);
        let life = life.restart_after_kill(options).await;
        append_all(&life, &mut model, 48..70).await;
        assert!(life.log.segments()[0].sealed);
        let life = life.restart_after_power_cut(options).await;
        assert_eq!(life.log.damage(), None, "seed {seed}");
        check(&life.log, &model);
    }
}

/// Appends batches; they are durable, and so is the point that says so.
async fn append_all(life: &Life, model: &mut Model, timestamps: std::ops::Range<i64>) {
    let entries: Vec<_> = timestamps.map(|n| entry(1, batch(1, 10, n))).collect();
    life.log.append(&entries).unwrap();
    model.append(&entries);
    life.log.flush().await.unwrap();
    life.data_dir.put(None, 99, bytes::Bytes::from_static(b"x")).await.unwrap();
}

/// The same process gives up what was not synced, and opens the log once more.
async fn open_again(life: Life) -> Life {
    life.log.give_up_unsynced().await.unwrap();
    let Life { disk, data_dir, log } = life;
    drop(log);
    let log = data_dir.open_log(GROUP, SMALL).await.unwrap();
    Life { disk, data_dir, log }
}

/// Names that a killed broker made are in the page cache only: the next one must not take them for durable.
#[tokio::test(start_paused = true)]
async fn the_power_fails_after_a_start_that_followed_a_kill_during_the_first_one() {
    for operation in 1.. {
        let disk = Arc::new(SimDisk::new(operation));
        disk.die_after(operation);
        let started = tokio::select! {
            biased;
            () = disk.died() => false,
            life = Life::try_begin(&disk, SMALL) => life.is_ok(),
        };
        disk.kill_process();
        let life = Life::begin(&disk, SMALL).await;
        let mut model = Model::default();
        let entries = some_batches(1);
        life.log.append(&entries).unwrap();
        model.append(&entries);
        life.log.flush().await.unwrap();
        drop(life);
        disk.power_cut();
        let life = Life::try_begin(&disk, SMALL).await;
        let life = life.unwrap_or_else(|error| panic!("killed after operation {operation}: {error}"));
        assert_eq!(life.log.damage(), None, "killed after operation {operation}");
        check(&life.log, &model);
        if started {
            assert!(operation > 10);
            return;
        }
    }
}
