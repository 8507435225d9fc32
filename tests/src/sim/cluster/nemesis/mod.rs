//! Breaks things while the load goes on, and mends them.
//!
//! Invariant: at most a minority of the disks that hold a partition has lost what was durable on it, one of three, two
//! of five; the next one, and the end of the run, wait until the cluster has made the loss good. So nothing acknowledged
//! may be lost.

mod strike;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use headwater_broker::env::Entropy;
use tokio::sync::mpsc;
use turmoil::Sim;

use super::coverage::Counters;
use super::faults::Kind;
use super::load::Order;
use super::net::{Direction, FaultId, LATENCY_MAX, Mode, Net};
use super::nodes::{Node, State};
use super::observer::Observer;
use super::profile::Profile;
use super::rot::Rotten;
use crate::sim::world::SimEntropy;

/// Steps of the simulation between two looks at whether a lost disk was made good.
const MENDED_EVERY: u64 = 250;

/// Room of a disk that is not full.
const ROOM_BYTES: u64 = 1 << 40;

pub struct Nemesis {
    entropy: SimEntropy,
    profile: Profile,
    /// When faults begin.
    window: Range<Duration>,
    next: Duration,
    /// Kinds that have not come yet.
    first: VecDeque<Kind>,
    net: Net,
    undo: Vec<(Duration, Undo)>,
    suspects: Vec<Suspect>,
    /// Disks that may have lost something at the same time.
    suspects_max: usize,
    orders: mpsc::UnboundedSender<Order>,
    counters: Counters,
    steps: u64,
}

/// What ends a fault, or goes on with it.
enum Undo {
    Heal(FaultId),
    Flap {
        directions: Vec<Direction>,
        on: Option<FaultId>,
        until: Duration,
    },
    Latency(Vec<(String, String)>),
    Loss(Vec<(String, String)>),
    Stall(i32),
    Full(i32),
    Syncs(i32),
    PowerCut(i32),
    /// The second half of [`Kind::LoseAndElect`].
    Strike {
        isolated: FaultId,
        loses: i32,
        leaves: i32,
    },
    Undrain(i32),
}

/// A disk that lost something.
enum Suspect {
    /// These, on this broker's.
    Entries(i32, Vec<Rotten>),
    /// Everything, or it is still to come.
    Disk,
}

impl Suspect {
    fn is_rot_on(&self, broker: i32) -> bool {
        matches!(self, Self::Entries(rotten, _) if *rotten == broker)
    }
}

impl Nemesis {
    pub fn new(
        seed: u64,
        profile: Profile,
        suspects_max: usize,
        window: Range<Duration>,
        orders: mpsc::UnboundedSender<Order>,
        counters: Counters,
    ) -> Self {
        let entropy = SimEntropy::new(seed ^ 0xfa17);
        let mut first: Vec<Kind> = profile.kinds.iter().map(|(kind, _)| *kind).collect();
        for last in (1..first.len()).rev() {
            first.swap(last, entropy.below(last as u64 + 1) as usize);
        }
        Self {
            entropy,
            profile,
            next: window.start,
            window,
            first: first.into(),
            net: Net::default(),
            undo: Vec::new(),
            suspects: Vec::new(),
            suspects_max,
            orders,
            counters,
            steps: 0,
        }
    }

    /// Before each step of the simulation.
    pub fn step(&mut self, sim: &mut Sim<'_>, nodes: &mut [Node], observer: &mut Observer) {
        let now = sim.elapsed();
        self.steps += 1;
        self.mend(sim, nodes, observer);
        self.lives(sim, nodes, observer);
        if !self.suspects.is_empty() && self.steps.is_multiple_of(MENDED_EVERY) {
            self.check_mended(nodes, observer);
        }
        if !self.window.contains(&now) {
            return;
        }
        self.pounce(sim, nodes, observer);
        if now >= self.next {
            self.next = now + self.about(self.profile.pause_ms);
            if let Some(kind) = self.choose() {
                self.strike(kind, sim, nodes, observer);
            }
        }
    }

    /// Whether everything runs and nothing is broken any more.
    pub fn is_over(&self, now: Duration, nodes: &[Node]) -> bool {
        let running = |node: &Node| matches!(node.state, State::Up | State::Spare) && !node.disk().is_dead();
        now >= self.window.end
            && self.undo.is_empty()
            && self.suspects.is_empty()
            && nodes.iter().all(running)
    }

    /// What disks lost and the cluster has not made good.
    pub fn lost(&self) -> String {
        let tell = |suspect: &Suspect| match suspect {
            Suspect::Entries(node, rotten) => {
                let rotten: Vec<_> = rotten.iter().map(ToString::to_string).collect();
                format!("rotten on broker {node}: {}", rotten.join(", "))
            }
            Suspect::Disk => "a disk that was lost".to_owned(),
        };
        if self.suspects.is_empty() {
            return "nothing".to_owned();
        }
        self.suspects.iter().map(tell).collect::<Vec<_>>().join("; ")
    }

    /// Between a half and one and a half of it.
    fn about(&self, mean_ms: u64) -> Duration {
        Duration::from_millis(mean_ms / 2 + self.entropy.below(mean_ms.max(1)))
    }

    fn choose(&mut self) -> Option<Kind> {
        if let Some(position) = self.first.iter().position(|kind| self.may(*kind)) {
            return self.first.remove(position);
        }
        let kinds = || self.profile.kinds.iter().filter(|(kind, _)| self.may(*kind));
        let mut draw = self.entropy.below(kinds().map(|(_, weight)| weight).sum());
        kinds().find_map(|(kind, weight)| {
            let chosen = draw < *weight;
            draw = draw.saturating_sub(*weight);
            chosen.then_some(*kind)
        })
    }

    fn may(&self, kind: Kind) -> bool {
        !kind.destroys() || self.may_lose()
    }

    fn may_lose(&self) -> bool {
        self.suspects.len() < self.suspects_max
    }

    /// A random broker that runs.
    fn victim(&self, nodes: &[Node]) -> Option<usize> {
        let up: Vec<_> = (0..nodes.len()).filter(|n| nodes[*n].state == State::Up).collect();
        (!up.is_empty()).then(|| up[self.entropy.below(up.len() as u64) as usize])
    }

    /// Crashes a broker at the moment that hurts: when it has just voted or cut its log.
    fn pounce(&mut self, sim: &mut Sim<'_>, nodes: &mut [Node], observer: &mut Observer) {
        for id in observer.take_turned() {
            let up = |node: &Node| node.id == id && node.state == State::Up;
            if self.entropy.below(100) < self.profile.pounce
                && let Some(victim) = nodes.iter().position(up)
            {
                let pause = Duration::from_millis(1 + self.entropy.below(300));
                self.break_down_for(victim, self.entropy.below(2) == 0, pause, sim, nodes, observer);
                self.counters.count(Kind::Crash.name());
            }
        }
    }

    /// Brings brokers back, and ends those whose disk died.
    fn lives(&mut self, sim: &mut Sim<'_>, nodes: &mut [Node], observer: &mut Observer) {
        let now = sim.elapsed();
        for position in 0..nodes.len() {
            match nodes[position].state {
                State::Up | State::Stopping { .. } if nodes[position].disk().is_dead() => {
                    let pause = self.about(600);
                    self.break_down_for(position, true, pause, sim, nodes, observer);
                }
                State::Stopping { pause } if nodes[position].has_stopped() => {
                    observer.look(nodes, now);
                    let node = &mut nodes[position];
                    node.crash(sim, now + pause);
                    observer.ended(node.id);
                    node.disk().kill_process();
                }
                State::Down { until } if now >= until => nodes[position].start(sim),
                State::Up if nodes[position].refused().is_some() && self.is_rotten_on(nodes[position].id) => {
                    self.replace_disk(position, sim, nodes, observer);
                }
                State::Up
                    if let Some(why) = nodes[position].refused().or_else(|| nodes[position].failure()) =>
                {
                    tracing::info!(
                        broker = nodes[position].id,
                        why,
                        "a broker that can't go on is restarted"
                    );
                    let pause = self.about(500);
                    nodes[position].stop(pause);
                    self.counters.count("operator:restarted");
                }
                _ => {}
            }
        }
    }

    fn is_rotten_on(&self, broker: i32) -> bool {
        self.suspects.iter().any(|suspect| suspect.is_rot_on(broker))
    }

    /// A broker whose own metadata rotted says so and does not start: its operator gives it an empty disk.
    fn replace_disk(
        &mut self,
        position: usize,
        sim: &mut Sim<'_>,
        nodes: &mut [Node],
        observer: &mut Observer,
    ) {
        tracing::info!(broker = nodes[position].id, why = ?nodes[position].refused(), "a disk is replaced");
        let pause = self.about(1_000);
        self.break_down_for(position, false, pause, sim, nodes, observer);
        let node = &nodes[position];
        observer.emptied(node.id);
        node.empty_disk(self.entropy.next_u64(), Duration::from_millis(self.profile.sync_ms));
        self.suspects.retain(|suspect| !suspect.is_rot_on(node.id));
        self.suspects.push(Suspect::Disk);
        self.counters.count("operator:disk-replaced");
    }

    /// Ends the faults whose time is over.
    fn mend(&mut self, sim: &mut Sim<'_>, nodes: &mut [Node], observer: &mut Observer) {
        let now = sim.elapsed();
        if self.undo.iter().all(|(due, _)| now < *due) {
            return;
        }
        let (due, rest) = std::mem::take(&mut self.undo).into_iter().partition(|(due, _)| now >= *due);
        self.undo = rest;
        for (_, undo) in due {
            self.end(undo, sim, nodes, observer);
        }
    }

    fn end(&mut self, undo: Undo, sim: &mut Sim<'_>, nodes: &mut [Node], observer: &mut Observer) {
        let now = sim.elapsed();
        let node = |id: i32| nodes.iter().find(|node| node.id == id);
        match undo {
            Undo::Heal(fault) => self.net.end(sim, fault),
            Undo::Flap { on: Some(fault), directions, until } => {
                self.net.end(sim, fault);
                if now < until {
                    self.undo.push((now + self.about(250), Undo::Flap { directions, on: None, until }));
                }
            }
            Undo::Flap { on: None, directions, until } => {
                let on = Some(self.net.begin(sim, directions.clone(), Mode::Drop));
                self.undo.push((now + self.about(250), Undo::Flap { directions, on, until }));
            }
            Undo::Latency(links) => {
                for (a, b) in links {
                    sim.set_link_max_message_latency(a.as_str(), b.as_str(), LATENCY_MAX);
                }
            }
            Undo::Loss(links) => {
                for (a, b) in links {
                    sim.set_link_fail_rate(a.as_str(), b.as_str(), 0.0);
                }
            }
            Undo::Stall(id) => node(id).into_iter().for_each(|node| node.disk().stall_syncs(None)),
            Undo::Full(id) => node(id).into_iter().for_each(|node| node.disk().set_free_bytes(ROOM_BYTES)),
            Undo::Syncs(id) => node(id).into_iter().for_each(|node| node.disk().fail_syncs(None)),
            Undo::PowerCut(id) => {
                let up = |node: &Node| node.id == id && node.state == State::Up;
                if let Some(victim) = nodes.iter().position(up) {
                    let pause = self.about(500);
                    self.break_down_for(victim, true, pause, sim, nodes, observer);
                }
            }
            Undo::Strike { isolated, loses, leaves } => {
                self.second_half((loses, leaves), sim, nodes, observer);
                self.net.end(sim, isolated);
            }
            Undo::Undrain(broker) => {
                // The clients end with the simulation.
                let _ = self.orders.send(Order::Drain { broker, undo: true });
            }
        }
    }

    fn check_mended(&mut self, nodes: &[Node], observer: &Observer) {
        // A strike that is still to come keeps its claim.
        let strikes = self.undo.iter().any(|(_, undo)| matches!(undo, Undo::Strike { .. }));
        let is_gone = |suspect: &Suspect| match suspect {
            Suspect::Entries(id, rotten) => {
                let node = nodes.iter().find(|node| node.id == *id);
                node.is_some_and(|node| {
                    rotten.iter().all(|one| one.is_gone(observer.replica_at(*id, one.group), node))
                })
            }
            Suspect::Disk => !strikes,
        };
        if self.suspects.iter().any(is_gone) && observer.whole(nodes).is_ok() {
            self.suspects.retain(|suspect| !is_gone(suspect));
        }
    }
}
