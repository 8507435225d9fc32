//! A whole cluster under load and faults: three to five brokers, their clients, one seed.

pub mod coverage;
mod faults;
mod load;
mod nemesis;
mod net;
mod nodes;
mod observer;
mod profile;
mod replicas;
mod rot;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_core::mutant::Mutant;
use tokio::sync::{mpsc, watch};
use turmoil::Sim;

use self::coverage::{Counters, Coverage};
use self::load::{CLIENTS, Clients};
use self::nemesis::Nemesis;
use self::net::{LATENCY_MAX, LATENCY_MIN};
use self::nodes::Node;
use self::observer::Observer;
use self::profile::Profile;
use super::Result;
use super::world::now_micros;
use crate::history::{Findings, Recorder};

const TICK: Duration = Duration::from_millis(1);
/// Steps between two looks at the replicas, in four runs of five; in the others, which take half as long again, there is
/// one after every step. Before each crash there always is.
const LOOK_EVERY: u64 = 20;
/// Steps between two looks at whether everything is mended.
const WHOLE_EVERY: u64 = 100;
/// The founding of the cluster and of its topics, undisturbed.
const QUIET_START: Duration = Duration::from_secs(5);
/// From the last fault to the end of the load.
const QUIET_END: Duration = Duration::from_secs(3);
/// A cluster that isn't whole so long after the last fault never will be. A torn end is vouched for by a majority only
/// after a minute.
const WHOLE_MAX: Duration = Duration::from_secs(120);
/// A load that has too few operations to show goes on for as long, at most: then the cluster has its chance to be whole.
const LONGER_MAX: Duration = Duration::from_secs(100);
/// From the last answer to a client until every replica has applied what was answered.
const SETTLED_MAX: Duration = Duration::from_secs(5);

/// What a run is told.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// How long the load goes on, in simulated time.
    pub load: Duration,
    /// It goes on, after the last fault, until there were so many: where a disk that is lost meets a torn end, a
    /// partition may take no writes for a minute.
    pub operations: u64,
    /// The bug that is planted, which the faults are aimed at.
    pub mutant: Option<Mutant>,
    /// No faults at all.
    pub calm: bool,
}

/// What a run ended with.
#[derive(Debug)]
pub struct Outcome {
    /// Equal for equal runs.
    pub digest: u64,
    pub profile: &'static str,
    pub brokers: i32,
    pub acked: usize,
    pub operations: u64,
    pub simulated: Duration,
    pub coverage: Coverage,
    pub findings: Findings,
    /// Broken promises of Raft, and what else went wrong.
    pub violations: Vec<String>,
}

impl Outcome {
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.is_empty() && self.violations.is_empty() && self.acked > 0
    }
}

/// Runs the plan to its end. What goes wrong in it is part of the outcome.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let mut run = Run::new(plan);
    if let Err(error) = run.drive(plan) {
        run.failures.push(error.to_string());
    }
    run.outcome()
}

struct Run {
    sim: Sim<'static>,
    nodes: Vec<Node>,
    observer: Observer,
    nemesis: Nemesis,
    recorder: Recorder,
    counters: Counters,
    profile: Profile,
    founders: i32,
    look_every: u64,
    stop: watch::Sender<bool>,
    whole: watch::Sender<bool>,
    clients: Arc<Mutex<Option<Result<()>>>>,
    failures: Vec<String>,
    steps: u64,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .simulation_duration(Duration::from_secs(86_400))
            .tick_duration(TICK)
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(1 << 16)
            .build();
        let profile = plan.mutant.map_or_else(|| Profile::of_seed(plan.seed), Profile::against);
        // Half of the clusters have as many brokers as replicas; all of them can grow.
        let founders = if plan.mutant.is_some() { 3 } else { [3, 3, 4, 5][(plan.seed / 10 % 4) as usize] };
        let total = (founders + 1).min(5);
        // With five, every partition is on all of them, or on three.
        let replicas = if founders == 5 && (plan.seed / 40).is_multiple_of(2) { 5 } else { 3 };
        let sync_latency = Duration::from_millis(profile.sync_ms);
        let nodes: Vec<_> =
            (1..=total).map(|id| Node::add(&mut sim, id, founders, plan.seed, sync_latency)).collect();
        let counters = Counters::default();
        let (orders, ordered) = mpsc::unbounded_channel();
        let window =
            if plan.calm { plan.load..plan.load } else { QUIET_START..plan.load.saturating_sub(QUIET_END) };
        let (stop, whole) = (watch::Sender::new(false), watch::Sender::new(false));
        let recorder = Recorder::new(now_micros);
        let clients = Clients {
            seed: plan.seed,
            founders,
            replicas,
            recorder: recorder.clone(),
            counters: counters.clone(),
            orders: ordered,
            stop: stop.subscribe(),
            whole: whole.subscribe(),
        };
        let ended = Arc::new(Mutex::new(None));
        let end = Arc::clone(&ended);
        sim.client(CLIENTS, async move {
            let result = clients.run().await;
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            Ok(())
        });
        Self {
            sim,
            nodes,
            observer: Observer::new(replicas, counters.clone()),
            nemesis: Nemesis::new(plan.seed, profile, replicas / 2, window, orders, counters.clone()),
            recorder,
            counters,
            profile,
            founders,
            look_every: if plan.seed % 5 == 3 { 1 } else { LOOK_EVERY },
            stop,
            whole,
            clients: ended,
            failures: Vec::new(),
            steps: 0,
        }
    }

    fn drive(&mut self, plan: &Plan) -> Result<()> {
        let mut finished = false;
        while !finished {
            if !plan.calm {
                self.nemesis.step(&mut self.sim, &mut self.nodes, &mut self.observer);
            }
            finished = self.sim.step().map_err(|error| format!("at {:?}: {error}", self.sim.elapsed()))?;
            self.steps += 1;
            if self.steps.is_multiple_of(self.look_every) {
                self.observer.look(&self.nodes, self.sim.elapsed());
                if !self.observer.violations().is_empty() {
                    return Ok(());
                }
            }
            if self.steps.is_multiple_of(WHOLE_EVERY) {
                self.go_on(plan)?;
            }
        }
        let ended = self.clients.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.unwrap_or_else(|| Err("the clients did not come to their end".into()))?;
        self.settle()?;
        self.observer.look(&self.nodes, self.sim.elapsed());
        self.failures.extend(replicas::note(&self.nodes, &self.recorder));
        self.failures.extend(replicas::states_differ(&self.nodes));
        Ok(())
    }

    /// Lets followers hear that the last records are committed, which the clients knew first. One that still has not
    /// is compared as it is.
    fn settle(&mut self) -> Result<()> {
        let end = self.sim.elapsed() + SETTLED_MAX;
        while self.sim.elapsed() < end && !replicas::agree(&self.nodes) {
            self.sim.step().map_err(|error| format!("at {:?}: {error}", self.sim.elapsed()))?;
        }
        Ok(())
    }

    /// Ends the load, then waits until everything is mended.
    fn go_on(&mut self, plan: &Plan) -> Result<()> {
        let now = self.sim.elapsed();
        if !*self.stop.borrow() {
            let enough = self.recorder.note(|history| history.operations()) >= plan.operations;
            if now < plan.load || !enough && now < plan.load + LONGER_MAX {
                return Ok(());
            }
            self.stop.send_replace(true);
        }
        if *self.whole.borrow() {
            return Ok(());
        }
        let whole = self.observer.whole(&self.nodes);
        if whole.is_ok() && (plan.calm || self.nemesis.is_over(now, &self.nodes)) {
            self.whole.send_replace(true);
        } else if now > plan.load + WHOLE_MAX {
            let reason = whole.err().unwrap_or_else(|| format!("lost is {}", self.nemesis.lost()));
            return Err(format!("not whole {WHOLE_MAX:?} after the last fault: {reason}").into());
        }
        Ok(())
    }

    fn outcome(self) -> Outcome {
        let complete = *self.whole.borrow() && self.failures.is_empty();
        let (acked, operations, digest, findings) = self.recorder.note(|history| {
            // Without the last read everything would seem lost.
            let findings = if complete { history.check() } else { Findings::default() };
            (history.acked_count(), history.operations(), history.digest(), findings)
        });
        let mut violations = self.observer.violations().to_vec();
        violations.extend(self.failures);
        let seen = self.observer.digest().rotate_left(17) ^ self.sim.elapsed().as_micros() as u64;
        Outcome {
            digest: digest ^ seen,
            profile: self.profile.name,
            brokers: self.founders,
            acked,
            operations,
            simulated: self.sim.elapsed(),
            coverage: self.counters.taken(),
            findings,
            violations,
        }
    }
}
