//! How each kind of fault is done.

use std::time::Duration;

use headwater_broker::env::Entropy;
use headwater_proto::types::GroupId;
use turmoil::Sim;

use super::{Nemesis, Suspect, Undo};
use crate::sim::cluster::faults::Kind;
use crate::sim::cluster::load::{CLIENTS, Order};
use crate::sim::cluster::net::{Direction, Mode};
use crate::sim::cluster::nodes::{Node, State};
use crate::sim::cluster::observer::Observer;
use crate::sim::cluster::rot;

/// What a disk loses that was durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The last entry of one group.
    Entry,
    /// The last entry of every partition.
    Flush,
    Everything,
}

impl Nemesis {
    pub(super) fn strike(
        &mut self,
        kind: Kind,
        sim: &mut Sim<'_>,
        nodes: &mut [Node],
        observer: &mut Observer,
    ) {
        let Some(victim) = self.victim(nodes) else { return };
        let done = match kind {
            Kind::Crash => self.break_down(victim, false, sim, nodes, observer),
            Kind::PowerCut => self.break_down(victim, true, sim, nodes, observer),
            Kind::PowerCutAll => self.black_out(sim, nodes, observer),
            Kind::PowerCutAtWrite => self.die_at_write(&nodes[victim]),
            Kind::CleanRestart => self.clean_restart(&mut nodes[victim]),
            Kind::ClockSkew => self.skew(&mut nodes[victim]),
            Kind::Pause | Kind::Partition | Kind::PartitionOneWay | Kind::Flapping => {
                self.cut_links(kind, victim, sim, nodes)
            }
            Kind::Delay | Kind::Loss => self.slow_links(kind, sim, nodes),
            Kind::DiskStall | Kind::DiskFull | Kind::SyncError => {
                self.trouble_disk(kind, &nodes[victim], sim)
            }
            Kind::Rot => self.rot(&nodes[victim], observer),
            Kind::RottenFlush => {
                let loss = if self.entropy.below(2) == 0 { Loss::Entry } else { Loss::Flush };
                self.lose(victim, loss, sim, nodes, observer)
            }
            Kind::EmptyDisk => self.lose(victim, Loss::Everything, sim, nodes, observer),
            Kind::LoseAndElect => self.isolate(victim, sim, nodes),
            Kind::Join => join(sim, nodes),
            Kind::Move | Kind::Transfer | Kind::Drain => self.order(kind, victim, sim.elapsed(), nodes),
        };
        if done {
            tracing::info!(fault = kind.name(), broker = nodes[victim].id, at = ?sim.elapsed(), "struck");
            self.counters.count(kind.name());
        }
    }

    /// Ends the process, and with `power` what its disk had not synced.
    fn break_down(
        &mut self,
        victim: usize,
        power: bool,
        sim: &mut Sim<'_>,
        nodes: &mut [Node],
        observer: &mut Observer,
    ) -> bool {
        let pause = if self.entropy.below(4) == 0 { self.about(6_000) } else { self.about(800) };
        self.break_down_for(victim, power, pause, sim, nodes, observer);
        true
    }

    pub(super) fn break_down_for(
        &mut self,
        victim: usize,
        power: bool,
        pause: Duration,
        sim: &mut Sim<'_>,
        nodes: &mut [Node],
        observer: &mut Observer,
    ) {
        let now = sim.elapsed();
        observer.look(nodes, now);
        if power {
            // A dead machine closes no connection: its peers hear nothing more.
            let silence = self.net.begin(sim, around(nodes, victim), Mode::Drop);
            self.undo.push((now + pause, Undo::Heal(silence)));
        }
        let node = &mut nodes[victim];
        node.crash(sim, now + pause);
        observer.ended(node.id);
        if power {
            node.disk().power_cut();
        } else {
            node.disk().kill_process();
        }
    }

    fn black_out(&mut self, sim: &mut Sim<'_>, nodes: &mut [Node], observer: &mut Observer) -> bool {
        for victim in 0..nodes.len() {
            if matches!(nodes[victim].state, State::Up | State::Stopping { .. }) {
                let pause = self.about(1_000);
                self.break_down_for(victim, true, pause, sim, nodes, observer);
            }
        }
        true
    }

    fn die_at_write(&self, node: &Node) -> bool {
        let disk = node.disk();
        disk.die_after(disk.operations() + 1 + self.entropy.below(60));
        true
    }

    fn clean_restart(&self, node: &mut Node) -> bool {
        node.stop(self.about(500));
        true
    }

    /// Takes effect with the restart.
    fn skew(&self, node: &mut Node) -> bool {
        const SKEW_MAX_MS: u64 = 20_000;
        node.skew(self.entropy.below(2 * SKEW_MAX_MS).cast_signed() - SKEW_MAX_MS.cast_signed());
        self.clean_restart(node)
    }

    fn cut_links(&mut self, kind: Kind, victim: usize, sim: &mut Sim<'_>, nodes: &[Node]) -> bool {
        let now = sim.elapsed();
        let for_long = if self.entropy.below(3) == 0 { self.about(8_000) } else { self.about(1_500) };
        let until = now + for_long;
        let both = self.split(nodes);
        let (directions, mode) = match kind {
            Kind::Pause => (around(nodes, victim), Mode::Hold),
            Kind::PartitionOneWay => (both.into_iter().step_by(2).collect(), Mode::Drop),
            _ if self.entropy.below(2) == 0 => (both, Mode::Hold),
            _ => (both, Mode::Drop),
        };
        let fault = self.net.begin(sim, directions.clone(), mode);
        if kind == Kind::Flapping {
            let next = now + self.about(200);
            self.undo.push((next, Undo::Flap { directions, on: Some(fault), until }));
        } else {
            self.undo.push((until, Undo::Heal(fault)));
        }
        true
    }

    /// Both directions, one after the other, of each link between two halves of the hosts.
    fn split(&self, nodes: &[Node]) -> Vec<Direction> {
        let mut hosts: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        hosts.push(CLIENTS.to_owned());
        // Neither half is empty.
        let halves = 1 + self.entropy.below((1 << hosts.len()) - 2);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (position, host) in hosts.into_iter().enumerate() {
            if halves >> position & 1 == 1 { one.push(host) } else { other.push(host) }
        }
        let swap = self.entropy.below(2) == 0;
        let mut directions = Vec::new();
        for a in &one {
            for b in &other {
                let pair = [(a.clone(), b.clone()), (b.clone(), a.clone())];
                directions.extend(if swap { [pair[1].clone(), pair[0].clone()] } else { pair });
            }
        }
        directions
    }

    fn slow_links(&mut self, kind: Kind, sim: &mut Sim<'_>, nodes: &[Node]) -> bool {
        let until = sim.elapsed() + self.about(3_000);
        let links: Vec<_> = self.split(nodes).into_iter().step_by(2).collect();
        if kind == Kind::Delay {
            for (a, b) in &links {
                sim.set_link_max_message_latency(a.as_str(), b.as_str(), self.about(150));
            }
            self.undo.push((until, Undo::Latency(links)));
        } else {
            for (a, b) in &links {
                sim.set_link_fail_rate(a.as_str(), b.as_str(), 0.005);
            }
            self.undo.push((until, Undo::Loss(links)));
        }
        true
    }

    fn trouble_disk(&mut self, kind: Kind, node: &Node, sim: &Sim<'_>) -> bool {
        let (now, disk) = (sim.elapsed(), node.disk());
        match kind {
            Kind::DiskStall => {
                disk.stall_syncs(Some(("", self.about(400))));
                self.undo.push((now + self.about(2_000), Undo::Stall(node.id)));
            }
            Kind::DiskFull => {
                disk.set_free_bytes(self.entropy.below(20_000));
                self.undo.push((now + self.about(3_000), Undo::Full(node.id)));
            }
            _ if self.entropy.below(2) == 0 => {
                // Its replica comes back by itself, without what was dropped.
                let Some(group) = self.any_partition(node) else { return false };
                disk.fail_syncs(Some(&format!("/groups/{group}/")));
                self.undo.push((now + self.about(500), Undo::Syncs(node.id)));
            }
            _ => {
                // What the kernel dropped is gone once the power is; only then may the broker come back.
                disk.fail_syncs(Some(if self.entropy.below(2) == 0 { "groups" } else { "" }));
                self.undo.push((now + self.about(1_500), Undo::PowerCut(node.id)));
            }
        }
        true
    }

    fn any_partition(&self, node: &Node) -> Option<GroupId> {
        let groups: Vec<_> = node.observe()?.iter().map(|seen| seen.group).collect();
        let partitions: Vec<_> = groups.into_iter().filter(|group| *group != GroupId::METADATA).collect();
        (!partitions.is_empty()).then(|| partitions[self.entropy.below(partitions.len() as u64) as usize])
    }

    fn rot(&mut self, node: &Node, observer: &mut Observer) -> bool {
        let Some(observations) = node.observe() else { return false };
        let Some(rotten) = rot::any_entry(&node.disk(), &observations, &self.entropy) else { return false };
        observer.rotted(rotten.group, rotten.replica);
        self.suspects.push(Suspect::Entries(node.id, vec![rotten]));
        true
    }

    /// A machine loses power and the last batch that its disk had synced, in one group or in all; or everything.
    fn lose(
        &mut self,
        victim: usize,
        loss: Loss,
        sim: &mut Sim<'_>,
        nodes: &mut [Node],
        observer: &mut Observer,
    ) -> bool {
        if !self.may_lose() {
            return false;
        }
        let observations = nodes[victim].observe().unwrap_or_default();
        // A flush covers all groups that had something to sync.
        let mut last = rot::last_entries(&observations);
        if loss == Loss::Flush {
            last.retain(|stored| !stored.is_of_metadata());
        } else if !last.is_empty() {
            last = vec![last.swap_remove(self.entropy.below(last.len() as u64) as usize)];
        }
        let pause = self.about(300);
        self.break_down_for(victim, true, pause, sim, nodes, observer);
        let node = &nodes[victim];
        if loss == Loss::Everything {
            observer.emptied(node.id);
            node.empty_disk(self.entropy.next_u64(), Duration::from_millis(self.profile.sync_ms));
            self.suspects.push(Suspect::Disk);
            return true;
        }
        let disk = node.disk();
        let rotten: Vec<_> = last.into_iter().filter_map(|last| last.rot(&disk, &self.entropy)).collect();
        rotten.iter().for_each(|rotten| observer.rotted(rotten.group, rotten.replica));
        let any = !rotten.is_empty();
        self.suspects.extend(any.then_some(Suspect::Entries(node.id, rotten)));
        any
    }

    /// The first half of [`Kind::LoseAndElect`]: one broker hears and says nothing, while the others go on.
    fn isolate(&mut self, victim: usize, sim: &mut Sim<'_>, nodes: &[Node]) -> bool {
        let others: Vec<_> =
            nodes.iter().filter(|n| n.state == State::Up && n.id != nodes[victim].id).map(|n| n.id).collect();
        let [first, second] = others[..] else { return false };
        let (loses, leaves) = if self.entropy.below(2) == 0 { (first, second) } else { (second, first) };
        let isolated = self.net.begin(sim, around(nodes, victim), Mode::Drop);
        self.suspects.push(Suspect::Disk);
        self.undo.push((sim.elapsed() + self.about(2_000), Undo::Strike { isolated, loses, leaves }));
        true
    }

    pub(super) fn second_half(
        &mut self,
        (loses, leaves): (i32, i32),
        sim: &mut Sim<'_>,
        nodes: &mut [Node],
        observer: &mut Observer,
    ) {
        let position = |id: i32| nodes.iter().position(|node| node.id == id && node.state == State::Up);
        let claim = self.suspects.iter().position(|suspect| matches!(suspect, Suspect::Disk));
        claim.map(|claim| self.suspects.swap_remove(claim));
        let (Some(loses), Some(leaves)) = (position(loses), position(leaves)) else { return };
        let loss = if self.entropy.below(2) == 0 { Loss::Flush } else { Loss::Everything };
        let away = self.about(6_000);
        self.break_down_for(leaves, false, away, sim, nodes, observer);
        self.lose(loses, loss, sim, nodes, observer);
    }

    fn order(&mut self, kind: Kind, victim: usize, now: Duration, nodes: &[Node]) -> bool {
        let dice = self.entropy.next_u64();
        let brokers: Vec<i32> =
            nodes.iter().filter(|node| node.state != State::Spare).map(|node| node.id).collect();
        let order = match kind {
            Kind::Move => Order::Move { dice, brokers },
            Kind::Transfer => Order::Transfer { dice },
            _ => {
                self.undo.push((now + self.about(4_000), Undo::Undrain(nodes[victim].id)));
                Order::Drain { broker: nodes[victim].id, undo: false }
            }
        };
        self.orders.send(order).is_ok()
    }
}

/// Every direction to and from one broker.
fn around(nodes: &[Node], victim: usize) -> Vec<Direction> {
    let own = &nodes[victim].name;
    let others = nodes.iter().map(|node| node.name.as_str()).filter(|name| name != own).chain([CLIENTS]);
    others.flat_map(|other| [(own.clone(), other.to_owned()), (other.to_owned(), own.clone())]).collect()
}

fn join(sim: &mut Sim<'_>, nodes: &mut [Node]) -> bool {
    let spare = nodes.iter_mut().find(|node| node.state == State::Spare);
    spare.is_some_and(|node| {
        node.switch_on(sim);
        true
    })
}
