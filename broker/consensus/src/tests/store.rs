//! The log store alone: what openraft relies on and no type says.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use headwater_core::ControlEntry;
use headwater_storage::log::LogOptions;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use super::support::{
    Fixture, GROUP, Unit, batch, blanks, log_id, proposal, raft_id, segment_files, small_segments, stamp,
    vote,
};
use crate::encoding::{decode_log_id, encode_log_id};
use crate::log_store::{Shared, fact};
use crate::types::Payload;

async fn save_vote(fixture: &mut Fixture, term: u64) {
    RaftLogStorage::<Unit>::save_vote(&mut fixture.store, &vote(term)).await.unwrap();
}

async fn truncate_after(fixture: &mut Fixture, last: u64) {
    RaftLogStorage::<Unit>::truncate_after(&mut fixture.store, Some(raft_id(1, last))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stored_vote_proves_every_append_before_it() {
    for seed in 0..20 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        fixture.disk.set_sync_latency(Duration::from_millis(5));
        let flushed = fixture.append(blanks(1, 0..30)).await;
        save_vote(&mut fixture, 2).await;
        drop(flushed);

        let fixture = fixture.power_cut().await;
        assert_eq!(fixture.shared.vote(), Some(vote(2)));
        assert_eq!(fixture.log_ids().await.last(), Some(&raft_id(1, 29)), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn appends_complete_in_order_over_many_segments() {
    let mut fixture = Fixture::new(3, small_segments()).await;
    fixture.disk.set_sync_latency(Duration::from_millis(5));
    let waiting = FuturesUnordered::new();
    for index in 0..100 {
        let flushed = fixture.append(blanks(1, index..index + 1)).await;
        waiting.push(async move {
            flushed.await.unwrap().unwrap();
            index
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let completed: Vec<u64> = waiting.collect().await;
    assert!(completed.is_sorted(), "{completed:?}");
    assert!(segment_files(&fixture.disk).len() > 5);
}

#[tokio::test(start_paused = true)]
async fn a_completed_append_survives_with_everything_before_it_across_rolls() {
    for seed in 0..30 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        fixture.disk.set_sync_latency(Duration::from_millis(3));
        for index in 0..40 {
            drop(fixture.append(blanks(1, index..index + 1)).await);
        }
        fixture.append_durably(blanks(1, 40..41)).await;
        drop(fixture.append(blanks(1, 41..60)).await);

        let fixture = fixture.power_cut().await;
        let kept = fixture.log_ids().await;
        let expected: Vec<_> = (0..kept.len() as u64).map(|index| raft_id(1, index)).collect();
        assert_eq!(kept, expected, "seed {seed}");
        assert!(kept.len() >= 41, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_truncated_never_comes_back() {
    for seed in 0..30 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        fixture.append_durably(blanks(1, 0..20)).await;
        truncate_after(&mut fixture, 9).await;
        fixture.append_durably(blanks(2, 10..12)).await;
        // Only some of these were synced when the power goes; none may let an old entry through.
        drop(fixture.append(blanks(2, 12..15)).await);

        let fixture = fixture.power_cut().await;
        let kept = fixture.log_ids().await;
        assert!((12..=15).contains(&kept.len()), "seed {seed}: {kept:?}");
        for (index, id) in kept.iter().enumerate() {
            let term = if index < 10 { 1 } else { 2 };
            assert_eq!(*id, raft_id(term, index as u64), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncation_alone_survives_a_power_cut() {
    for seed in 0..20 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        fixture.append_durably(blanks(1, 0..20)).await;
        truncate_after(&mut fixture, 4).await;
        let fixture = fixture.power_cut().await;
        assert_eq!(fixture.log_ids().await.len(), 5, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_survives_a_power_cut_and_reads_below_it_are_empty() {
    for seed in 0..20 {
        let mut fixture = Fixture::new(seed, small_segments()).await;
        fixture.append_durably(blanks(1, 0..40)).await;
        RaftLogStorage::<Unit>::purge(&mut fixture.store, raft_id(1, 25)).await.unwrap();

        let mut fixture = fixture.power_cut().await;
        let state = RaftLogStorage::<Unit>::get_log_state(&mut fixture.store).await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(raft_id(1, 25)));
        assert_eq!(state.last_log_id, Some(raft_id(1, 39)));
        assert_eq!(fixture.log_ids().await.first(), Some(&raft_id(1, 26)));
        let below = RaftLogReader::<Unit>::try_get_log_entries(&mut fixture.reader(), 3..20).await.unwrap();
        assert!(below.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn committed_is_never_stored_beyond_the_durable_end() {
    let mut fixture = Fixture::new(1, LogOptions::default()).await;
    fixture.append_durably(blanks(1, 0..5)).await;
    fixture.disk.stall_syncs(Some((".log", Duration::from_secs(60))));
    drop(fixture.append(blanks(1, 5..10)).await);
    // openraft commits what a quorum of others has, although this replica has not flushed it.
    RaftLogStorage::<Unit>::save_committed(&mut fixture.store, Some(raft_id(1, 9))).await.unwrap();
    fixture.shared.checkpoint_committed().await.unwrap();

    let stored = fixture.shared.data_dir.get(Some(GROUP), fact::COMMITTED).unwrap();
    assert_eq!(decode_log_id(&stored).unwrap(), log_id(1, 5));
}

#[tokio::test(start_paused = true)]
async fn committed_is_clamped_to_the_end_that_recovery_found() {
    let mut fixture = Fixture::new(1, LogOptions::default()).await;
    fixture.append_durably(blanks(1, 0..5)).await;
    let beyond = encode_log_id(log_id(1, 100));
    fixture.shared.data_dir.put(Some(GROUP), fact::COMMITTED, beyond).await.unwrap();

    let fixture = fixture.power_cut().await;
    assert_eq!(fixture.shared.committed(), Some(raft_id(1, 4)));
}

async fn kinds(fixture: &Fixture) -> Vec<&'static str> {
    let entries = RaftLogReader::<Unit>::try_get_log_entries(&mut fixture.reader(), ..).await.unwrap();
    let kind = |payload: &Payload| match payload {
        Payload::Stored(stored) => match &stored.control {
            Some(ControlEntry::Void) => "void",
            Some(_) => "control",
            None => "records",
        },
        _ => "not stored",
    };
    entries.iter().map(|entry| kind(&entry.payload)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_proposal_that_does_not_follow_its_session_is_stored_void() {
    let mut fixture = Fixture::new(1, LogOptions::default()).await;
    let stamps = [
        (stamp(1, 0, 0), "records"),
        (stamp(1, 0, 1), "records"),
        // Number 2 was refused before it came here: what follows it must not be accepted.
        (stamp(1, 0, 3), "void"),
        (stamp(1, 0, 4), "void"),
        // Decided under another leadership.
        (stamp(2, 0, 0), "void"),
        (stamp(1, 1, 0), "records"),
        (stamp(1, 0, 2), "void"),
        (stamp(1, 1, 1), "records"),
    ];
    let entries = stamps.iter().enumerate().map(|(n, (stamp, _))| proposal(1, n as u64, *stamp, batch(b"v")));
    fixture.append_durably(entries.collect()).await;

    let expected: Vec<_> = stamps.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds(&fixture).await, expected);
    // A void entry takes its place in the log, and no offset.
    assert_eq!(fixture.shared.log.bounds().next_offset.get(), 4);
    let fixture = fixture.power_cut().await;
    assert_eq!(kinds(&fixture).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_limited_read_is_bounded_by_size_and_never_empty() {
    let mut fixture = Fixture::new(1, LogOptions::default()).await;
    let large = Bytes::from(vec![7; 700 << 10]);
    let entries = (0..4).map(|n| proposal(1, n, stamp(1, 0, n), batch(&large)));
    fixture.append_durably(entries.collect()).await;

    let mut reader = fixture.reader();
    let limited = RaftLogReader::<Unit>::limited_get_log_entries(&mut reader, 0, 4).await.unwrap();
    assert!((1..3).contains(&limited.len()), "{} entries of 700 KiB", limited.len());
    let all = RaftLogReader::<Unit>::try_get_log_entries(&mut reader, 0..4).await.unwrap();
    assert_eq!(all.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_an_offset_that_its_own_log_would_not_give() {
    let mut leader = Fixture::new(1, LogOptions::default()).await;
    let proposals = (0..3).map(|n| proposal(1, n, stamp(1, 0, n), batch(b"v")));
    leader.append_durably(proposals.collect()).await;
    let entries = RaftLogReader::<Unit>::try_get_log_entries(&mut leader.reader(), ..).await.unwrap();

    let mut follower = Fixture::new(2, LogOptions::default()).await;
    follower.append_durably(entries[..1].to_vec()).await;
    let mut wrong = entries[1].clone();
    let Payload::Stored(stored) = &mut wrong.payload else { panic!("not stored") };
    stored.base_offset.0 += 1;
    let callback = openraft::storage::IOFlushed::<Unit>::noop();
    let refused = RaftLogStorage::<Unit>::append(&mut follower.store, vec![wrong], callback).await;
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::InvalidData);

    follower.append_durably(entries[1..].to_vec()).await;
    let copied = RaftLogReader::<Unit>::try_get_log_entries(&mut follower.reader(), ..).await.unwrap();
    let bytes = |entries: &[crate::types::RaftEntry]| -> Vec<Payload> {
        entries.iter().map(|entry| entry.payload.clone()).collect()
    };
    assert_eq!(format!("{:?}", bytes(&copied)), format!("{:?}", bytes(&entries)));
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_the_indexes_is_an_error() {
    let mut fixture = Fixture::new(1, LogOptions::default()).await;
    fixture.append_durably(blanks(1, 0..3)).await;
    let callback = openraft::storage::IOFlushed::<Unit>::noop();
    let appended = RaftLogStorage::<Unit>::append(&mut fixture.store, blanks(1, 4..5), callback).await;
    assert_eq!(appended.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(fixture.log_ids().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_reaches_every_append_that_waits_and_all_later_ones() {
    let mut fixture = Fixture::new(1, LogOptions::default()).await;
    fixture.append_durably(blanks(1, 0..3)).await;
    fixture.disk.fail_syncs(Some(".log"));
    let first = fixture.append(blanks(1, 3..4)).await;
    let second = fixture.append(blanks(1, 4..5)).await;
    assert!(first.await.unwrap().is_err());
    assert!(second.await.unwrap().is_err());
    fixture.disk.fail_syncs(None);
    let callback = openraft::storage::IOFlushed::<Unit>::noop();
    let later = RaftLogStorage::<Unit>::append(&mut fixture.store, blanks(1, 5..6), callback).await;
    assert!(later.is_err(), "an fsync error is final");
}

#[tokio::test(start_paused = true)]
async fn a_vote_of_a_newer_version_is_refused_by_name() {
    let fixture = Fixture::new(1, LogOptions::default()).await;
    let newer = Bytes::from_static(&[0, 9, 0, 0]);
    fixture.shared.data_dir.put(Some(GROUP), fact::VOTE, newer).await.unwrap();
    let shared = &fixture.shared;
    let opened = Shared::open(GROUP, shared.data_dir.clone(), shared.log.clone());
    assert!(opened.unwrap_err().to_string().contains("version 9"));
}
