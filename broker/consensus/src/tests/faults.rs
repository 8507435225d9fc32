//! Faults at random, and what must hold through all of them.
//!
//! After each step: at most one leader per term; no two brokers ever apply different entries at one place, a broker
//! that was restarted included. At the end, with everything repaired: all brokers agree, and hold each record that was
//! ever acknowledged, at the offset that was promised.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use headwater_proto::types::{BrokerId, LogIndex, Offset, Term};
use headwater_storage::log::LogId;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::{sleep, timeout};

use super::cluster::Cluster;
use super::support::small_segments;

const BROKERS: i32 = 3;
const STEPS: u32 = 100;

struct Run {
    cluster: Cluster,
    rng: StdRng,
    seed: u64,
    values: u32,
    acknowledged: BTreeMap<Offset, Bytes>,
    /// What is committed at each place.
    committed: BTreeMap<LogIndex, (Term, Bytes)>,
    /// How far each broker was looked at, since its start.
    seen: BTreeMap<i32, LogIndex>,
    leaders: BTreeMap<Term, i32>,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let cluster = Cluster::new(BROKERS, seed, small_segments()).await;
        if seed.is_multiple_of(3) {
            cluster.net.set_latency_us(5_000..30_000);
        }
        Self {
            cluster,
            rng: StdRng::seed_from_u64(seed),
            seed,
            values: 0,
            acknowledged: BTreeMap::new(),
            committed: BTreeMap::new(),
            seen: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    fn some_broker(&mut self) -> i32 {
        self.rng.random_range(1..=BROKERS)
    }

    fn runs(&self, node: i32) -> bool {
        self.cluster.node(node).group.is_some()
    }

    async fn step(&mut self) {
        let node = self.some_broker();
        match self.rng.random_range(0..100) {
            0..50 => self.write().await,
            50..63 if self.seed.is_multiple_of(2) || !self.runs(node) => self.restart(node).await,
            63..66 if self.runs(node) => self.cluster.kill(node).await,
            66..71 if self.runs(node) => self.cluster.power_cut(node).await,
            71..76 => self.cluster.net.isolate(&[BrokerId(node)]),
            76..78 => self.cluster.net.cut(BrokerId(node), BrokerId(1 + node % BROKERS)),
            78..89 => self.cluster.net.heal(),
            89..92 => self.cluster.net.set_loss(if self.rng.random() { 0.1 } else { 0.0 }),
            92..95 => {
                let stall = self.rng.random::<bool>().then_some(("log", Duration::from_millis(700)));
                self.cluster.node(node).disk.stall_syncs(stall);
            }
            95..100 => self.purge().await,
            _ => {}
        }
        let pause = self.rng.random_range(0..400);
        sleep(Duration::from_millis(pause * pause / 100)).await;
        self.look();
    }

    /// Several records at once, to whoever says that it leads.
    async fn write(&mut self) {
        let leaders: Vec<_> =
            self.cluster.running().filter(|(_, group)| group.leadership().is_some()).collect();
        let Some((leader, _)) = leaders.choose(&mut self.rng).copied() else { return };
        let mut pending = Vec::new();
        for _ in 0..self.rng.random_range(1..8) {
            let value = format!("value {}", self.values);
            self.values += 1;
            match self.cluster.enqueue(leader, value.as_bytes()).await {
                Ok(answer) => pending.push((value, answer)),
                Err(_) => break,
            }
        }
        for (value, answer) in pending {
            match timeout(Duration::from_secs(1), answer).await {
                Ok(Ok(committed)) => {
                    let before = self.acknowledged.insert(committed.reply.base_offset, value.into());
                    assert_eq!(before, None, "seed {}: two records of one offset", self.seed);
                }
                Ok(Err(_)) | Err(_) => self.cluster.new_session(),
            }
        }
    }

    async fn restart(&mut self, node: i32) {
        if self.runs(node) {
            self.cluster.stop(node).await;
        }
        self.seen.remove(&node);
        self.cluster.start(node).await;
    }

    /// Gives up the first half of what a broker has applied.
    async fn purge(&mut self) {
        let running: Vec<_> = self.cluster.running().map(|(_, group)| group.clone()).collect();
        let Some(group) = running.choose(&mut self.rng) else { return };
        let (begin, end) = (group.log().bounds().first_index, group.progress().borrow().applied.index);
        let half = LogIndex(begin.get().midpoint(end.get()));
        if let Ok(Some(entry)) = group.log().entry(half)
            && half < end
        {
            let _ = timeout(Duration::from_secs(1), group.purge(entry.log_id())).await;
        }
    }

    /// Compares what is applied everywhere with what was ever seen to be.
    fn look(&mut self) {
        for (node, group) in self.cluster.running() {
            if let Some(leadership) = group.leadership() {
                let leader = *self.leaders.entry(leadership.term).or_insert(node);
                assert_eq!(leader, node, "seed {}: two leaders in {:?}", self.seed, leadership.term);
            }
            let applied = group.progress().borrow().applied.index;
            let begin = self.seen.get(&node).map_or(group.log().bounds().first_index, |seen| seen.next());
            for index in begin.max(group.log().bounds().first_index).get()..=applied.get() {
                let Some((meta, batch)) = group.log().batch(LogIndex(index)).unwrap() else { continue };
                let found = (meta.term, batch);
                let known = self.committed.entry(meta.index).or_insert_with(|| found.clone());
                assert_eq!(*known, found, "seed {}: entry {index} of broker {node}", self.seed);
            }
            self.seen.insert(node, applied);
        }
    }

    /// Repairs everything and looks whether anything was lost.
    async fn finish(mut self) -> (BTreeMap<Offset, Bytes>, Option<LogId>) {
        self.cluster.net.heal();
        self.cluster.net.set_loss(0.0);
        for node in 1..=BROKERS {
            self.cluster.node(node).disk.stall_syncs(None);
            if !self.runs(node) {
                self.restart(node).await;
            }
        }
        let last = self.cluster.append(b"the last").await;
        self.acknowledged.insert(last, Bytes::from_static(b"the last"));
        self.cluster.converged().await;
        self.look();
        for node in 1..=BROKERS {
            let held: BTreeMap<_, _> = self.cluster.values(node).into_iter().collect();
            let first = self.cluster.group(node).log().bounds().first_offset;
            for (offset, value) in self.acknowledged.range(first..) {
                assert_eq!(held.get(offset), Some(value), "seed {}: {offset:?} of broker {node}", self.seed);
            }
        }
        let end = self.cluster.group(1).log().bounds().last;
        (self.acknowledged, end)
    }
}

async fn run(seed: u64) -> (BTreeMap<Offset, Bytes>, Option<LogId>) {
    let mut run = Run::new(seed).await;
    for _ in 0..STEPS {
        run.step().await;
    }
    run.finish().await
}

/// Seeds to run: `HEADWATER_FAULT_SEEDS=from..to`, or a few.
fn seeds() -> std::ops::Range<u64> {
    let chosen = std::env::var("HEADWATER_FAULT_SEEDS").ok();
    let parsed = chosen
        .as_deref()
        .and_then(|range| range.split_once(".."))
        .map(|(from, to)| from.parse().unwrap()..to.parse().unwrap());
    parsed.unwrap_or(0..6)
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_whatever_fails() {
    let mut records = 0;
    for seed in seeds() {
        let (acknowledged, _) = Box::pin(run(seed)).await;
        records += acknowledged.len();
    }
    assert!(records > 300, "{records} records only: nothing was put to the test");
}

/// Each planted bug that this test can see: run with the feature, one after the other, as they are process-wide.
#[cfg(feature = "mutants")]
#[test]
#[ignore = "plants bugs for the whole process"]
fn a_planted_bug_is_found() {
    use headwater_core::mutant::{Mutant, plant};
    let chosen = std::env::var("HEADWATER_MUTANT").unwrap();
    plant(Some(chosen.parse::<Mutant>().unwrap()));
    for seed in 0..60 {
        let world = std::panic::catch_unwind(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(true).build().unwrap();
            runtime.block_on(Box::pin(run(seed)));
        });
        if world.is_err() {
            println!("{chosen}: found by seed {seed}");
            return;
        }
    }
    panic!("{chosen}: not found");
}
