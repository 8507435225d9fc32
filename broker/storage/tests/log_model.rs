//! Any sequence of operations and restarts leaves the log what a plain list would be.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Life, Model, SMALL, batch, check, entry};
use headwater_proto::types::{LogIndex, Offset, Term};
use headwater_storage::disk::SimDisk;
use headwater_storage::log::{LogId, LogOptions, NewEntry};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    /// Records per batch, bytes per value, timestamp, whether a new term begins.
    Append(Vec<(usize, usize, i64, bool)>),
    Flush,
    Seal,
    /// Per mille of the retained entries to keep.
    Truncate(u64),
    Purge(u64),
    RestartCleanly,
    RestartAfterKill,
    RestartAfterPowerCut,
}

fn op() -> impl Strategy<Value = Op> {
    let new = (0..4_usize, 0..400_usize, 0..60_i64, prop::bool::weighted(0.1));
    prop_oneof![
        8 => prop::collection::vec(new, 1..6).prop_map(Op::Append),
        3 => Just(Op::Flush),
        1 => Just(Op::Seal),
        1 => (0..=1_000_u64).prop_map(Op::Truncate),
        1 => (0..=1_000_u64).prop_map(Op::Purge),
        1 => Just(Op::RestartCleanly),
        1 => Just(Op::RestartAfterKill),
        2 => Just(Op::RestartAfterPowerCut),
    ]
}

struct Run {
    life: Life,
    model: Model,
    /// Everything below this index was flushed.
    durable_next: u64,
}

impl Run {
    async fn step(mut self, op: &Op) -> Self {
        match op {
            Op::Append(new) => {
                let mut term = self.model.last_term().max(1);
                let entries: Vec<NewEntry> = new
                    .iter()
                    .map(|(records, bytes, timestamp, bump)| {
                        term += u64::from(*bump);
                        entry(term, batch(*records, *bytes, *timestamp))
                    })
                    .collect();
                let last = self.life.log.append(&entries).unwrap();
                self.model.append(&entries);
                assert_eq!(last, self.model.entries.last().unwrap().id);
            }
            Op::Flush => {
                self.life.log.flush().await.unwrap();
                self.durable_next = self.model.next_index();
            }
            Op::Seal => self.life.log.seal_active().await.unwrap(),
            Op::Truncate(mille) => {
                let keep = self.point(*mille);
                let after = (keep > 0 || self.model.purged.is_some()).then_some(LogIndex(keep));
                self.life.log.truncate_after(after).await.unwrap();
                self.model.truncate_after(keep);
                self.durable_next = self.durable_next.min(self.model.next_index());
            }
            Op::Purge(mille) => {
                let upto = self.point(*mille);
                if let Some(id) = self.model.entries.iter().map(|e| e.id).find(|id| id.index.0 == upto) {
                    self.life.log.purge(id).await.unwrap();
                    self.model.purge(upto);
                }
            }
            Op::RestartCleanly => {
                self.life = self.life.restart_cleanly(SMALL).await;
                self.durable_next = self.model.next_index();
            }
            Op::RestartAfterKill => self.life = self.life.restart_after_kill(SMALL).await,
            Op::RestartAfterPowerCut => {
                self.life = self.life.restart_after_power_cut(SMALL).await;
                let last = self.life.log.bounds().last.map_or(1, |id| id.index.0 + 1);
                assert!(last >= self.durable_next, "{last} of {} were durable", self.durable_next);
                self.model = self.model.prefix(last);
                self.durable_next = last;
            }
        }
        assert_eq!(self.life.log.damage(), None);
        check(&self.life.log, &self.model);
        self
    }

    fn point(&self, mille: u64) -> u64 {
        let first = self.model.next_index() - self.model.entries.len() as u64;
        first - 1 + self.model.entries.len() as u64 * mille / 1_000
    }
}

fn run(seed: u64, ops: &[Op]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let disk = Arc::new(SimDisk::new(seed));
        let life = Life::begin(&disk, SMALL).await;
        let mut run = Run { life, model: Model::default(), durable_next: 1 };
        for op in ops {
            run = run.step(op).await;
        }
    });
}

proptest! {
    #[test]
    fn the_log_is_a_list(seed: u64, ops in prop::collection::vec(op(), 1..40)) {
        run(seed, &ops);
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_beyond_the_end_empties_the_log_and_survives_a_restart() {
    let disk = Arc::new(SimDisk::new(1));
    let life = Life::begin(&disk, SMALL).await;
    life.log.append(&[entry(1, batch(3, 10, 5)), entry(1, batch(0, 0, 0))]).unwrap();
    let upto = LogId { term: Term(2), index: LogIndex(20) };
    life.log.purge(upto).await.unwrap();
    for _ in 0..2 {
        let life = Life::begin_again(&disk).await;
        let bounds = life.log.bounds();
        assert_eq!((bounds.purged, bounds.last), (Some(upto), Some(upto)));
        assert_eq!((bounds.first_index, bounds.next_offset), (LogIndex(21), Offset(3)));
        assert_eq!(life.log.damage(), None);
    }
    let life = Life::begin_again(&disk).await;
    let id = life.log.append(&[entry(2, batch(2, 10, 5))]).unwrap();
    assert_eq!(id.index, LogIndex(21));
    life.log.flush().await.unwrap();
    let life = Life::begin_again(&disk).await;
    assert_eq!(life.log.entry(LogIndex(21)).unwrap().unwrap().base_offset, Offset(3));
}

#[tokio::test(start_paused = true)]
async fn a_reset_goes_on_at_the_snapshots_offset() {
    let disk = Arc::new(SimDisk::new(2));
    let life = Life::begin(&disk, SMALL).await;
    life.log.append(&[entry(1, batch(3, 10, 5))]).unwrap();
    life.log
        .reset(LogId { term: Term(4), index: LogIndex(100) }, Offset(5_000), &bytes::Bytes::new())
        .await
        .unwrap();
    let life = Life::begin_again(&disk).await;
    let id = life.log.append(&[entry(4, batch(2, 10, 5))]).unwrap();
    assert_eq!(id.index, LogIndex(101));
    assert_eq!(life.log.bounds().next_offset, Offset(5_002));
    assert_eq!(life.log.entry_at_offset(Offset(5_001)).unwrap().unwrap().index, LogIndex(101));
}

#[tokio::test(start_paused = true)]
async fn a_log_may_begin_at_index_0_and_loses_its_index_file() {
    let disk = Arc::new(SimDisk::new(3));
    let life = Life::begin(&disk, SMALL).await;
    life.log.begin_at(LogIndex(0)).unwrap();
    let id = life.log.append(&[entry(1, batch(0, 0, 0)), entry(1, batch(2, 10, 5))]).unwrap();
    assert_eq!(id.index, LogIndex(1));
    assert!(life.log.begin_at(LogIndex(5)).is_err());
    let life = life.restart_cleanly(SMALL).await;
    assert_eq!(life.log.bounds().first_index, LogIndex(0));
    life.log.truncate_after(Some(LogIndex(0))).await.unwrap();
    assert_eq!(life.log.bounds().last.unwrap().index, LogIndex(0));
}

#[tokio::test(start_paused = true)]
async fn one_call_fills_many_segments_and_many_batches_go_in_one_write() {
    let disk = Arc::new(SimDisk::new(4));
    let life = Life::begin(&disk, LogOptions { segment_bytes: 1 << 20, segment_batches: 1_500 }).await;
    let entries: Vec<NewEntry> = (0..4_000).map(|n| entry(1, batch(1, 5, n / 100))).collect();
    let before = disk.operations();
    life.log.append(&entries).unwrap();
    assert_eq!(life.log.segments().len(), 3);
    assert!(disk.operations() - before < 40, "{} operations", disk.operations() - before);
    let mut model = Model::default();
    model.append(&entries);
    check(&life.log, &model);
    let life = life.restart_after_kill(SMALL).await;
    check(&life.log, &model);
}
