//! Faults by name: what each leaves of the log, and what is reported.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Life, Model, SMALL, batch, check, directory, entry, files};
use headwater_proto::types::{LogIndex, Offset};
use headwater_storage::disk::{Disk, SimDisk};
use headwater_storage::inspect::{self, IndexState};
use headwater_storage::log::{LogError, LogOptions, NewEntry};

/// 30 entries of two records and 200-byte values: a few sealed segments and an active one, all durable.
async fn filled(seed: u64) -> (Life, Model) {
    let life = Life::begin(&Arc::new(SimDisk::new(seed)), SMALL).await;
    let mut model = Model::default();
    for n in 0..30 {
        let entries: Vec<NewEntry> = vec![entry(1, batch(2, 200, n))];
        life.log.append(&entries).unwrap();
        model.append(&entries);
    }
    life.log.flush().await.unwrap();
    assert!(life.log.segments().len() > 5);
    (life, model)
}

/// Flips a bit in the records of the `n`-th batch of a segment file.
fn flip(life: &Life, path: &std::path::Path, n: usize) {
    let segment = inspect::segments(life.disk.as_ref(), path).unwrap().remove(0);
    let batch = segment.batches().unwrap().nth(n).unwrap();
    life.disk.flip_bit(path, batch.position + 100, 3).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_in_a_sealed_segment_is_reported_and_the_rest_stays_readable() {
    let (life, mut model) = filled(1).await;
    let life = life.restart_cleanly(SMALL).await;
    flip(&life, &files(&life.disk, "log")[1], 1);
    let report = life.log.scrub().await.unwrap();
    assert_eq!((report.batches, report.new_damage), (30, 1));
    assert_eq!(life.log.scrub().await.unwrap().new_damage, 0, "known already");
    let damage = life.log.damage().unwrap();
    let range = damage.ranges[0].clone();
    assert_eq!((damage.ranges.len(), damage.accepted, range.first_index), (1, false, range.last_index));
    let life = life.restart_after_power_cut(SMALL).await;
    assert_eq!(life.log.damage(), Some(damage), "over a restart");

    let one = [entry(1, batch(1, 1, 1))];
    assert!(matches!(life.log.append(&one), Err(LogError::Damaged { .. })));
    assert!(matches!(life.log.batch(range.first_index), Err(LogError::Damaged { .. })));
    let lost = life.log.read(range.first_offset, Offset(i64::MAX), 1 << 20);
    assert!(
        matches!(lost, Err(LogError::Damaged { next_intact: Some(next), .. }) if next == range.next_offset)
    );
    for entry in model.entries.iter().filter(|e| e.id.index != range.first_index) {
        assert_eq!(life.log.read(Offset(entry.base_offset), Offset(i64::MAX), 1).unwrap().bytes, entry.bytes);
        assert_eq!(life.log.batch(entry.id.index).unwrap().unwrap().1, entry.bytes);
    }

    life.log.accept_loss().await.unwrap();
    let life = life.restart_after_power_cut(SMALL).await;
    assert!(life.log.damage().unwrap().accepted);
    life.log.append(&one).unwrap();
    let before = Offset(range.first_offset.0 - 1);
    assert_eq!(life.log.read(before, Offset(i64::MAX), 1 << 20).unwrap().next_offset, range.first_offset);
    let behind = life.log.read(range.first_offset, Offset(i64::MAX), 1).unwrap();
    assert_eq!(behind.bytes, model.entries[range.first_index.0 as usize].bytes, "the loss is stepped over");
    let (meta, stand_in) = life.log.batch(range.first_index).unwrap().unwrap();
    assert_eq!((meta.base_offset, meta.next_offset()), (range.first_offset, range.next_offset));
    headwater_proto::record::RecordBatch::trusted(stand_in).unwrap().check_crc().unwrap();
    model.append(&one);
    assert_eq!(life.log.batches(LogIndex(1)..LogIndex(32), usize::MAX).unwrap().len(), model.entries.len());
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_in_the_active_segment_below_the_durable_point_is_not_cut() {
    let (life, model) = filled(2).await;
    let disk = life.disk.clone();
    let life = life.restart_cleanly(SMALL).await;
    life.data_dir.flush_clean().await.unwrap();
    let active = files(&disk, "log").pop().unwrap();
    flip(&life, &active, 0);
    // Without its index, the start has to read the batches.
    let index = files(&disk, "index").pop().unwrap();
    disk.remove_file(&index).unwrap();
    let life = life.restart_after_kill(SMALL).await;
    let damage = life.log.damage().unwrap();
    assert_eq!(damage.end_missing_below, Some(LogIndex(31)));
    assert!(matches!(life.log.append(&[entry(1, batch(1, 1, 1))]), Err(LogError::Damaged { .. })));
    let last = life.log.bounds().last.unwrap().index.0;
    check(&life.log, &model.prefix(last + 1));
    let kept = disk.read_file(&active).unwrap();
    assert!(kept.iter().any(|byte| *byte != 0), "the damaged file is left as it is");

    life.log.accept_loss().await.unwrap();
    let life = life.restart_after_power_cut(SMALL).await;
    assert_eq!(life.log.damage(), None);
    let mut model = model.prefix(last + 1);
    let more = [entry(2, batch(3, 10, 99))];
    life.log.append(&more).unwrap();
    model.append(&more);
    life.log.flush().await.unwrap();
    let life = life.restart_after_power_cut(SMALL).await;
    check(&life.log, &model);
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_below_the_durable_point_with_the_index_intact_is_found_by_the_scrub() {
    let (life, _) = filled(3).await;
    let life = life.restart_cleanly(SMALL).await;
    flip(&life, &files(&life.disk, "log").pop().unwrap(), 0);
    assert_eq!(life.log.scrub().await.unwrap().new_damage, 1);
}

#[tokio::test(start_paused = true)]
async fn a_bit_flipped_above_the_durable_point_is_a_torn_tail_and_cut_with_a_flag() {
    let (life, mut model) = filled(4).await;
    let mut life = life.restart_cleanly(SMALL).await;
    let entries = [entry(1, batch(1, 10, 70)), entry(1, batch(1, 10, 71)), entry(1, batch(1, 10, 72))];
    life.log.append(&entries).unwrap();
    model.append(&entries);
    let path = files(&life.disk, "log").pop().unwrap();
    let meta = life.log.entry(LogIndex(32)).unwrap().unwrap();
    life.disk.flip_bit(&path, meta.position + 65, 0).unwrap();
    for _ in 0..2 {
        life = life.restart_after_kill(SMALL).await;
        assert_eq!(life.log.damage(), None);
        assert_eq!(life.log.tail_cut().unwrap().last.unwrap().index, LogIndex(31), "over restarts");
        check(&life.log, &model.prefix(32));
    }
    life.log.clear_tail_cut().await.unwrap();
    life = life.restart_after_kill(SMALL).await;
    assert_eq!(life.log.tail_cut(), None);
}

#[tokio::test(start_paused = true)]
async fn every_index_file_may_be_lost() {
    let (life, model) = filled(5).await;
    let life = life.restart_cleanly(SMALL).await;
    let disk = life.disk.clone();
    for index in files(&disk, "index") {
        disk.remove_file(&index).unwrap();
    }
    let life = life.restart_after_kill(SMALL).await;
    assert_eq!(life.log.damage(), None);
    check(&life.log, &model);
    let life = life.restart_after_power_cut(SMALL).await;
    check(&life.log, &model);
}

#[tokio::test(start_paused = true)]
async fn a_torn_footer_is_rebuilt_from_what_proves_itself() {
    let (life, model) = filled(6).await;
    let life = life.restart_cleanly(SMALL).await;
    for index in files(&life.disk, "index") {
        let length = life.disk.read_file(&index).unwrap().len() as u64;
        life.disk.flip_bit(&index, length - 30, 5).unwrap();
    }
    let life = life.restart_after_kill(SMALL).await;
    assert_eq!(life.log.damage(), None);
    check(&life.log, &model);
}

#[tokio::test(start_paused = true)]
async fn a_lost_sealed_segment_is_a_gap_and_the_rest_is_served() {
    let (life, model) = filled(7).await;
    let life = life.restart_cleanly(SMALL).await;
    let lost = life.log.segments()[2];
    life.disk.remove_file(&files(&life.disk, "log")[2]).unwrap();
    let life = life.restart_after_kill(SMALL).await;
    let damage = life.log.damage().unwrap();
    let range = &damage.ranges[0];
    assert_eq!((range.first_index, range.last_index), (lost.first_index, lost.last.index));
    assert_eq!((range.first_offset, range.next_offset), (lost.base_offset, lost.next_offset));
    for entry in
        model.entries.iter().filter(|e| e.id.index < lost.first_index || e.id.index > lost.last.index)
    {
        assert_eq!(life.log.read(Offset(entry.base_offset), Offset(i64::MAX), 1).unwrap().bytes, entry.bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn damage_that_was_purged_is_nobodys_loss() {
    let (life, model) = filled(16).await;
    let life = life.restart_cleanly(SMALL).await;
    flip(&life, &files(&life.disk, "log")[1], 1);
    life.log.scrub().await.unwrap();
    let lost = life.log.damage().unwrap().ranges[0].last_index;
    life.log.purge(model.entries[lost.0 as usize - 1].id).await.unwrap();
    assert_eq!(life.log.damage(), None);
    let life = life.restart_after_kill(SMALL).await;
    assert_eq!(life.log.damage(), None);
    life.log.append(&[entry(1, batch(1, 1, 1))]).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_the_append_and_takes_it_later() {
    let (life, mut model) = filled(8).await;
    let entries: Vec<NewEntry> = (0..20).map(|n| entry(1, batch(2, 300, n))).collect();
    for free in [0, 300, 3_000, 9_000] {
        life.disk.set_free_bytes(free);
        assert!(matches!(life.log.append(&entries), Err(LogError::NoSpace(_))), "{free} bytes free");
        check(&life.log, &model);
    }
    life.disk.set_free_bytes(1 << 20);
    life.log.append(&entries).unwrap();
    model.append(&entries);
    life.log.flush().await.unwrap();
    check(&life.log, &model);
    let life = life.restart_after_power_cut(SMALL).await;
    assert_eq!(life.log.damage(), None);
    check(&life.log, &model);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_stops_the_log_for_good() {
    let (life, _) = filled(9).await;
    life.disk.fail_syncs(Some(".log"));
    life.log.append(&[entry(1, batch(1, 1, 1))]).unwrap();
    assert!(life.log.flush().await.is_err());
    life.disk.fail_syncs(None);
    assert!(matches!(life.log.append(&[entry(1, batch(1, 1, 1))]), Err(LogError::Stopped(_))));
    assert!(life.log.flush().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn slices_outlive_truncation_purge_and_close() {
    let (life, model) = filled(10).await;
    let slices: Vec<Bytes> =
        model.entries.iter().map(|e| life.log.batch(e.id.index).unwrap().unwrap().1).collect();
    life.log.truncate_after(Some(LogIndex(12))).await.unwrap();
    life.log.append(&[entry(2, batch(2, 100, 1))]).unwrap();
    life.log.purge(model.entries[10].id).await.unwrap();
    for (slice, entry) in slices.iter().zip(&model.entries) {
        assert_eq!(*slice, entry.bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_are_told_in_the_order_in_which_they_came() {
    let (life, _) = filled(11).await;
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    for n in 0..20 {
        life.log.append(&[entry(1, batch(1, 10, 1))]).unwrap();
        let told = told.clone();
        life.log.when_durable(Box::new(move |result| told.lock().unwrap().push((n, result.is_ok()))));
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    life.log.flush().await.unwrap();
    assert_eq!(*told.lock().unwrap(), (0..20).map(|n| (n, true)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn tables_are_kept_below_the_durable_end_and_a_torn_one_is_passed_over() {
    let (life, model) = filled(12).await;
    assert_eq!(life.log.tables(LogIndex(u64::MAX)).unwrap(), None);
    for at in [3, 7, 9] {
        life.log.write_tables(model.entries[at].id, Bytes::from(format!("state {at}"))).await.unwrap();
    }
    let life = life.restart_after_power_cut(SMALL).await;
    assert_eq!(
        life.log.tables(LogIndex(u64::MAX)).unwrap(),
        Some((model.entries[9].id, Bytes::from("state 9")))
    );
    let newest = directory().join("00000000000000000010.tables");
    life.disk.flip_bit(&newest, 40, 1).unwrap();
    assert_eq!(
        life.log.tables(LogIndex(u64::MAX)).unwrap(),
        Some((model.entries[7].id, Bytes::from("state 7")))
    );
    life.log.truncate_after(Some(LogIndex(2))).await.unwrap();
    assert_eq!(life.log.tables(LogIndex(u64::MAX)).unwrap(), None, "beyond the end");
    life.log.append(&[entry(2, batch(1, 1, 1))]).unwrap();
    let beyond = life.log.bounds().last.unwrap();
    assert!(life.log.write_tables(beyond, Bytes::new()).await.is_err(), "not durable yet");
}

#[tokio::test(start_paused = true)]
async fn the_inspector_reads_sealed_active_and_damaged_segments() {
    let (life, _) = filled(13).await;
    flip(&life, &files(&life.disk, "log")[1], 1);
    let found = inspect::segments(life.disk.as_ref(), &directory()).unwrap();
    assert_eq!(found.len(), life.log.segments().len());
    let mut next = 0;
    for (n, segment) in found.iter().enumerate() {
        assert_eq!(segment.footer.is_some(), n + 1 < found.len());
        assert_ne!(segment.entries_hold().unwrap(), Some(false));
        let mut batches = segment.batches().unwrap();
        for (at, batch) in batches.by_ref().enumerate() {
            assert_eq!(batch.crc_holds, (n, at) != (1, 1));
            assert!(batch.follows);
            let written = if segment.footer.is_some() { IndexState::Consistent } else { IndexState::Absent };
            assert_eq!(batch.index_state, written);
            next += 1;
            assert_eq!(batch.index, Some(LogIndex(next)));
        }
        assert_eq!(batches.leftover_bytes().unwrap(), 0);
    }
    assert_eq!(next, 30);
    let one = inspect::segments(life.disk.as_ref(), &files(&life.disk, "log")[2]).unwrap();
    assert_eq!(one.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_segment_of_another_group_is_not_believed() {
    let (life, model) = filled(14).await;
    let life = life.restart_cleanly(SMALL).await;
    // The index of one segment under the name of another: what a misdirected write would leave.
    let indexes = files(&life.disk, "index");
    life.disk.remove_file(&indexes[2]).unwrap();
    life.disk.rename(&indexes[1], &indexes[2]).unwrap();
    let life = life.restart_after_kill(SMALL).await;
    assert_eq!(life.log.damage(), None);
    check(&life.log, &model);
}

#[tokio::test(start_paused = true)]
async fn options_apply_from_the_next_append_on() {
    let (life, _) = filled(15).await;
    let segments = life.log.segments().len();
    life.log.set_options(LogOptions { segment_bytes: 100, segment_batches: 1 });
    for _ in 0..3 {
        life.log.append(&[entry(1, batch(1, 10, 1))]).unwrap();
    }
    assert_eq!(life.log.segments().len(), segments + 3);
}
