//! Whole groups of one voter.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_core::PartitionState;
use headwater_proto::record::{Compression, RecordBatchBuilder};
use headwater_proto::types::{LogIndex, Offset, ReplicaId};
use headwater_storage::disk::SimDisk;
use headwater_storage::log::{LogId, LogOptions};

use super::support::{
    GROUP, OneVoter, REPLICA, ROOT, batch, data_dir, segment_files, small_segments, stamp, start,
};
use crate::{ConsensusError, Health, Leadership, Proposal, ProposeError};

/// Longer than any wait of a group that works, in simulated time.
const PATIENCE: Duration = Duration::from_secs(600);

fn values(range: std::ops::Range<usize>) -> Vec<Bytes> {
    range.map(|n| Bytes::from(format!("value {n}"))).collect()
}

async fn append_all(voter: &mut OneVoter, range: std::ops::Range<usize>) {
    for n in range {
        assert_eq!(voter.append(format!("value {n}").as_bytes()).await, Offset(n as i64));
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_begin_at_zero_and_go_on_after_a_power_cut() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    append_all(&mut voter, 0..25).await;
    let first_term = voter.group.leadership().unwrap().term;
    assert_eq!(voter.values(), values(0..25));

    drop(voter);
    disk.power_cut();
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    assert!(voter.group.wait_leader().await.unwrap().term > first_term);
    assert_eq!(voter.group.progress().borrow().high_watermark, Offset(25));
    append_all(&mut voter, 25..40).await;
    assert_eq!(voter.values(), values(0..40));
    assert_eq!(voter.group.health(), Health::Running);
}

#[tokio::test(start_paused = true)]
async fn a_group_leads_only_once_an_entry_of_its_own_term_is_applied() {
    let disk = Arc::new(SimDisk::new(1));
    disk.set_sync_latency(Duration::from_millis(20));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..3).await;
    drop(voter);
    disk.power_cut();

    let voter = OneVoter::new(&disk, LogOptions::default()).await;
    let mut progress = voter.group.progress();
    loop {
        let applied = progress.borrow_and_update().applied;
        match voter.group.leadership() {
            Some(Leadership { term }) => {
                assert_eq!(applied.term, term);
                break;
            }
            None => tokio::time::timeout(PATIENCE, progress.changed()).await.unwrap().unwrap(),
        }
    }
    assert_eq!(progress.borrow().high_watermark, Offset(3), "a leader has applied all of its predecessors'");
}

#[tokio::test(start_paused = true)]
async fn who_is_answered_can_read() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    for n in 0..50 {
        let offset = voter.append(b"v").await;
        assert_eq!(offset, Offset(n));
        assert!(voter.group.progress().borrow().high_watermark > offset);
        assert_eq!(voter.group.with_state(|state: &PartitionState| state.log.next_offset), Offset(n + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn proposals_in_flight_are_appended_in_the_order_of_the_calls() {
    let disk = Arc::new(SimDisk::new(1));
    disk.set_sync_latency(Duration::from_millis(5));
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    let mut pending = Vec::new();
    for n in 0..200 {
        pending.push(voter.propose(format!("value {n}").as_bytes()).await);
    }
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.await.unwrap().reply.base_offset, Offset(n as i64));
    }
    assert_eq!(voter.values(), values(0..200));
}

#[tokio::test(start_paused = true)]
async fn a_refused_proposal_followed_by_an_accepted_one_leaves_no_gap() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..2).await;
    let term = voter.group.leadership().unwrap().term.get();
    let group = Arc::clone(&voter.group);
    let propose = async |term, session, n| {
        let proposal = Proposal::new(stamp(term, session, n), batch(b"another"));
        group.propose(proposal).await.unwrap().await
    };

    assert_eq!(propose(term + 1, 0, 0).await, Err(ProposeError::NotLeader { leader: Some(REPLICA) }));
    // Number 2 never arrives.
    assert_eq!(propose(term, 0, 3).await, Err(ProposeError::Retry));
    assert_eq!(propose(term, 0, 4).await, Err(ProposeError::Retry));
    let accepted = propose(term, 1, 0).await.unwrap();
    assert_eq!(accepted.reply.base_offset, Offset(2), "void entries take no offset");

    drop((group, voter));
    disk.power_cut();
    let voter = OneVoter::new(&disk, LogOptions::default()).await;
    voter.group.wait_leader().await.unwrap();
    assert_eq!(voter.values().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_purge_takes_its_snapshot_where_it_purges_and_survives() {
    for seed in 0..10 {
        let disk = Arc::new(SimDisk::new(seed));
        let mut voter = OneVoter::new(&disk, small_segments()).await;
        append_all(&mut voter, 0..30).await;
        let state = voter.group.with_state(PartitionState::clone);
        let sealed: Vec<_> = voter.group.log().segments().into_iter().filter(|s| s.sealed).collect();
        let upto = sealed[sealed.len() / 2].last;
        tokio::time::timeout(PATIENCE, voter.group.purge(upto)).await.unwrap().unwrap();
        let bounds = voter.group.log().bounds();
        assert_eq!(bounds.purged, Some(upto));
        assert_eq!(voter.group.state.snapshot_log_id(), Some(upto));
        let kept = values(bounds.first_offset.get() as usize..30);
        assert_eq!(voter.values(), kept);
        assert_eq!(voter.group.with_state(PartitionState::clone), state, "a purge is not part of the state");

        drop(voter);
        disk.power_cut();
        let mut voter = OneVoter::new(&disk, small_segments()).await;
        voter.group.wait_leader().await.unwrap();
        assert_eq!(voter.group.state.snapshot_log_id(), Some(upto), "seed {seed}");
        assert_eq!(voter.values(), kept);
        append_all(&mut voter, 30..35).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_whose_caller_goes_away_bars_no_later_one() {
    for polls in 1..12 {
        let disk = Arc::new(SimDisk::new(polls));
        let mut voter = OneVoter::new(&disk, small_segments()).await;
        append_all(&mut voter, 0..30).await;
        disk.set_sync_latency(Duration::from_millis(5));
        let sealed: Vec<_> = voter.group.log().segments().into_iter().filter(|s| s.sealed).collect();
        let patience = Duration::from_millis(polls * 2);
        let _ = tokio::time::timeout(patience, voter.group.purge(sealed[1].last)).await;
        let upto = sealed[3].last;
        tokio::time::timeout(PATIENCE, voter.group.purge(upto)).await.unwrap().unwrap();
        assert_eq!(voter.group.log().bounds().purged, Some(upto));
        assert_eq!(voter.group.state.snapshot_log_id(), Some(upto));
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_finds_no_space_fails_and_the_group_goes_on() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    append_all(&mut voter, 0..30).await;
    let upto = voter.group.log().segments()[1].last;
    disk.set_free_bytes(0);
    assert!(tokio::time::timeout(PATIENCE, voter.group.purge(upto)).await.unwrap().is_err());
    disk.set_free_bytes(1 << 30);
    append_all(&mut voter, 30..40).await;
    assert_eq!(voter.group.health(), Health::Running);
    tokio::time::timeout(PATIENCE, voter.group.purge(upto)).await.unwrap().unwrap();
    assert_eq!(voter.group.log().bounds().purged, Some(upto));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_applied_or_not_there_is_not_purged() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    append_all(&mut voter, 0..5).await;
    let applied = voter.group.progress().borrow().applied;
    let beyond = LogId { index: applied.index.next(), ..applied };
    assert!(matches!(voter.group.purge(beyond).await, Err(ConsensusError::InvalidRequest(_))));
    let other_term = LogId { term: headwater_proto::types::Term(99), ..applied };
    assert!(matches!(voter.group.purge(other_term).await, Err(ConsensusError::InvalidRequest(_))));
    append_all(&mut voter, 5..8).await;
    assert_eq!(voter.values(), values(0..8));
}

#[tokio::test(start_paused = true)]
async fn after_a_checkpoint_the_next_start_replays_nothing() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..30).await;
    let progress = *voter.group.progress().borrow();
    voter.group.checkpoint().await.unwrap();
    voter.group.shutdown().await;
    assert_eq!(voter.group.health(), Health::Stopped);
    drop(voter);
    disk.power_cut();

    let data_dir = data_dir(disk, Path::new(ROOT)).await;
    let log = data_dir.open_log(GROUP, LogOptions::default()).await.unwrap();
    let shared = crate::log_store::Shared::open(GROUP, data_dir, log).unwrap();
    let state = crate::driver::State::<PartitionState>::open(shared, &PartitionState::default()).unwrap();
    assert_eq!(*state.progress.borrow(), progress);
}

#[tokio::test(start_paused = true)]
async fn tables_are_written_when_apply_crosses_a_segment_boundary() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    append_all(&mut voter, 0..30).await;
    voter.group.shutdown().await;
    let segments = voter.group.log().segments();
    assert!(segments.len() > 3);
    for pair in segments.windows(2) {
        let (at, _) = voter.group.log().tables(pair[0].last.index).unwrap().unwrap();
        assert_eq!(at, pair[0].last);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_what_was_taken_and_refuses_the_rest() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..3).await;
    disk.set_free_bytes(0);
    let large = Bytes::from(vec![1; 300 << 10]);
    let mut waiting = Box::pin(voter.propose(&large).await);
    let taken = tokio::time::timeout(Duration::from_secs(5), &mut waiting).await;
    assert!(taken.is_err(), "there is no space for it");
    assert_eq!(voter.group.health(), Health::NoSpace);
    let refused = Proposal::new(stamp(1, 0, 9), batch(b"v"));
    assert_eq!(voter.group.propose(refused).await.err(), Some(ProposeError::NoSpace));
    assert_eq!(voter.values(), values(0..3), "reads go on");

    disk.set_free_bytes(1 << 30);
    let committed = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert_eq!(committed.reply.base_offset, Offset(3));
    assert_eq!(voter.group.health(), Health::Running);
    voter.append(b"and on").await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_waits_for_space_can_be_shut_down() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..1).await;
    disk.set_free_bytes(0);
    let waiting = voter.propose(&vec![1; 300 << 10]).await;
    while voter.group.health() != Health::NoSpace {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(PATIENCE, voter.group.shutdown()).await.unwrap();
    assert!(matches!(waiting.await, Err(ProposeError::Stopped(_))));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_ends_the_group_and_reads_go_on() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..3).await;
    disk.fail_syncs(Some(".log"));
    let lost = voter.propose(b"unknown").await;
    let outcome = tokio::time::timeout(PATIENCE, lost).await.unwrap();
    assert!(matches!(outcome, Err(ProposeError::Stopped(_))), "{outcome:?}");
    assert!(matches!(voter.group.health(), Health::Failed(_)));
    assert!(matches!(voter.group.wait_leader().await, Err(ConsensusError::Failed(_))));
    assert_eq!(voter.values(), values(0..3));
}

#[tokio::test(start_paused = true)]
async fn rot_leaves_a_group_that_can_be_read_until_its_loss_is_accepted() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    append_all(&mut voter, 0..30).await;
    voter.group.checkpoint().await.unwrap();
    let damaged = segment_files(&disk)[2].clone();
    disk.flip_bit(&damaged, 100, 3).unwrap();
    voter.group.log().scrub().await.unwrap();
    assert!(matches!(voter.group.health(), Health::Damaged(_)));

    drop(voter);
    disk.power_cut();
    let voter = OneVoter::new(&disk, small_segments()).await;
    let Health::Damaged(damage) = voter.group.health() else { panic!("damage forgotten") };
    assert_eq!(voter.group.leadership(), None);
    assert!(matches!(voter.group.wait_leader().await, Err(ConsensusError::Damaged)));
    assert_eq!(voter.group.progress().borrow().high_watermark, Offset(30));
    let intact = voter.group.log().read(damage.ranges[0].next_offset, Offset(30), usize::MAX).unwrap();
    assert!(!intact.bytes.is_empty());

    voter.group.log().accept_loss().await.unwrap();
    voter.group.shutdown().await;
    drop(voter);
    disk.power_cut();
    let mut voter = OneVoter::new(&disk, small_segments()).await;
    append_all(&mut voter, 30..33).await;
    assert_eq!(voter.group.health(), Health::Running);
}

#[tokio::test(start_paused = true)]
async fn rot_that_a_start_reads_first_is_damage_and_no_failure() {
    let disk = Arc::new(SimDisk::new(1));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..30).await;
    let position = voter.group.log().entry(LogIndex(20)).unwrap().unwrap().position;
    voter.group.shutdown().await;
    voter.group.state.shared.data_dir.flush_clean().await.unwrap();
    drop(voter);
    disk.kill_process();
    // After a clean stop the start does not look through the log, and its header tells Raft what an entry is.
    disk.flip_bit(&segment_files(&disk)[0], position + 30, 3).unwrap();

    for _ in 0..2 {
        let voter = OneVoter::new(&disk, LogOptions::default()).await;
        let Health::Damaged(damage) = voter.group.health() else { panic!("{:?}", voter.group.health()) };
        assert_eq!(damage.ranges.len(), 1);
        assert_eq!(damage.ranges[0].first_index, LogIndex(20));
        assert_eq!(voter.group.leadership(), None);
        voter.group.shutdown().await;
        drop(voter);
        disk.kill_process();
    }
}

#[tokio::test(start_paused = true)]
async fn an_emptied_disk_is_another_replica() {
    let (disk, other) = (Arc::new(SimDisk::new(1)), Arc::new(SimDisk::new(2)));
    let mut voter = OneVoter::new(&disk, LogOptions::default()).await;
    append_all(&mut voter, 0..1).await;
    let incarnation = voter.group.state.shared.data_dir.incarnation();

    // What the disk held is gone; the replica's identity went with it.
    let mut entropy = || 4_711;
    let emptied = headwater_storage::data_dir::DataDir::open(other, Path::new(ROOT), &mut entropy);
    let emptied = emptied.await.unwrap();
    assert_ne!(emptied.incarnation(), incarnation);
    let peer = crate::Peer { broker_id: headwater_proto::types::BrokerId(1), incarnation };
    let spec = crate::GroupSpec {
        id: GROUP,
        replica_id: REPLICA,
        voters: [(REPLICA, peer)].into(),
        initialize: true,
    };
    let settings = crate::RaftSettings::default();
    let started = crate::Group::start(
        spec,
        crate::GroupHost::alone(emptied),
        LogOptions::default(),
        settings,
        1,
        PartitionState::default(),
    );
    let refused = Box::pin(started).await.unwrap_err();
    assert!(matches!(refused, ConsensusError::OtherIncarnation { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_directory_holds_one_replica_of_a_group() {
    let disk = Arc::new(SimDisk::new(1));
    let voter = OneVoter::new(&disk, LogOptions::default()).await;
    let data_dir = Arc::clone(&voter.group.state.shared.data_dir);
    assert_eq!(crate::creation(&data_dir, GROUP).unwrap().unwrap().replica_id, REPLICA);
    let refused = start(data_dir, LogOptions::default(), ReplicaId(12)).await.unwrap_err();
    assert!(matches!(refused, ConsensusError::OtherReplica { found: REPLICA, .. }), "{refused}");
}

/// Runs a load until the power fails at the given operation; returns what was acknowledged.
async fn load_until(voter: &mut OneVoter, disk: &SimDisk) -> Vec<(Offset, Bytes)> {
    let mut acknowledged = Vec::new();
    for n in 0..40 {
        let value = Bytes::from(format!("value {n}"));
        tokio::select! {
            biased;
            () = disk.died() => break,
            offset = voter.propose(&value) => match offset.await {
                Ok(committed) => acknowledged.push((committed.reply.base_offset, value)),
                Err(_) => break,
            },
        }
    }
    acknowledged
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_a_power_cut_at_every_write() {
    for step in 0..400 {
        let disk = Arc::new(SimDisk::new(step));
        disk.set_sync_latency(Duration::from_millis(2));
        let voter = OneVoter::new(&disk, small_segments()).await;
        voter.group.wait_leader().await.unwrap();
        let mut voter = voter;
        disk.die_after(disk.operations() + step);
        let load = tokio::time::timeout(PATIENCE, load_until(&mut voter, &disk));
        let acknowledged = load.await.unwrap_or_default();
        let over = !disk.is_dead();
        drop(voter);
        disk.power_cut();

        let voter = OneVoter::new(&disk, small_segments()).await;
        tokio::time::timeout(PATIENCE, voter.group.wait_leader()).await.unwrap().unwrap();
        let found = voter.values();
        for (offset, value) in acknowledged {
            assert_eq!(found.get(offset.get() as usize), Some(&value), "step {step}, offset {offset}");
        }
        assert!(segment_files(&disk).len() < 40);
        if over {
            return;
        }
    }
    panic!("the load never came to its end");
}

#[tokio::test(start_paused = true)]
async fn a_producer_whose_batch_was_lost_and_given_up_does_not_keep_its_group_from_starting() {
    let disk = Arc::new(SimDisk::new(1));
    let voter = OneVoter::new(&disk, LogOptions::default()).await;
    let term = voter.group.wait_leader().await.unwrap().term.get();
    let mut lost = None;
    for n in 0..4 {
        let mut builder = RecordBatchBuilder::new(Compression::None, None);
        builder.append(1, None, Some(b"value"), &[]).unwrap();
        builder.set_producer(5, 0, n);
        let proposal = Proposal::new(stamp(term, 0, n as u64), builder.build().unwrap());
        let committed = voter.group.propose(proposal).await.unwrap().await.unwrap();
        lost = lost.or(Some(committed.log_id.index).filter(|_| n == 1));
    }
    let position = voter.group.log().entry(lost.unwrap()).unwrap().unwrap().position;
    voter.group.shutdown().await;
    voter.group.state.shared.data_dir.flush_clean().await.unwrap();
    drop(voter);
    disk.kill_process();
    disk.flip_bit(&segment_files(&disk)[0], position + 65, 1).unwrap();

    let voter = OneVoter::new(&disk, LogOptions::default()).await;
    assert_eq!(voter.group.log().damage().unwrap().ranges.len(), 1, "the start reads it again");
    voter.group.log().accept_loss().await.unwrap();
    voter.group.shutdown().await;
    drop(voter);
    disk.kill_process();
    let voter = OneVoter::new(&disk, LogOptions::default()).await;
    voter.group.wait_leader().await.unwrap();
    assert_eq!(voter.group.progress().borrow().high_watermark, Offset(4));
    assert_eq!(voter.values().len(), 3);
}
