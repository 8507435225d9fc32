//! One fault after another: each is begun, lasts a while, and is mended.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;

use super::disk::SmallDisk;
use super::links::{Link, Links};
use crate::local_cluster::LocalCluster;
use crate::sim::world::SimEntropy;

/// What can go wrong with the brokers of a cluster, their links and their disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    Kill,
    KillMajority,
    KillAll,
    Restart,
    Pause,
    Isolate,
    OneWay,
    Flapping,
    Cut,
    Slow,
    Lossy,
    FullDisk,
}

/// Breaks a cluster and mends it again.
pub struct Faults {
    pub cluster: LocalCluster,
    pub links: Links,
    /// The disk of the last broker, where one could be made.
    pub small_disk: Option<SmallDisk>,
    pub entropy: SimEntropy,
    /// How often each happened.
    pub counts: BTreeMap<Fault, u32>,
}

impl Faults {
    /// The next fault, each as likely as another; of `only` these, where there are any.
    pub fn draw(&self, only: &[Fault]) -> Fault {
        let faults = if only.is_empty() { Fault::value_variants() } else { only };
        loop {
            let fault = faults[self.entropy.below(faults.len() as u64) as usize];
            if fault != Fault::FullDisk || self.small_disk.is_some() || !only.is_empty() {
                return fault;
            }
        }
    }

    /// Does it, to a broker of its choice, and mends it; every broker runs and every link is up afterwards.
    pub async fn run(&mut self, fault: Fault) -> io::Result<()> {
        *self.counts.entry(fault).or_default() += 1;
        let victim = 1 + self.entropy.below(self.cluster.ids().count() as u64) as usize;
        match fault {
            Fault::Kill => self.kill_and_restart(&[victim]).await,
            Fault::KillMajority => {
                let spared = victim;
                let victims: Vec<_> = self.cluster.ids().filter(|id| *id != spared).collect();
                self.kill_and_restart(&victims).await
            }
            Fault::KillAll => {
                let victims: Vec<_> = self.cluster.ids().collect();
                self.kill_and_restart(&victims).await
            }
            Fault::Restart => {
                self.cluster.stop(victim)?;
                self.cluster.spawn(victim)
            }
            Fault::Pause => self.pause(victim).await,
            Fault::Isolate | Fault::Cut | Fault::Slow | Fault::Lossy => {
                let link = self.weather(fault);
                self.surround(victim, link);
                self.last().await;
                self.links.heal();
                Ok(())
            }
            Fault::OneWay => {
                for other in self.others(victim) {
                    self.links.set(victim, other, Link::Dark);
                }
                self.last().await;
                self.links.heal();
                Ok(())
            }
            Fault::Flapping => {
                for _ in 0..10 {
                    self.surround(victim, Link::Dark);
                    tokio::time::sleep(Duration::from_millis(50 + self.entropy.below(600))).await;
                    self.links.heal();
                    tokio::time::sleep(Duration::from_millis(50 + self.entropy.below(600))).await;
                }
                Ok(())
            }
            Fault::FullDisk => self.fill_disk().await,
        }
    }

    fn weather(&self, fault: Fault) -> Link {
        let late = Duration::from_millis(20 + self.entropy.below(300));
        match fault {
            Fault::Slow => Link::Slow(late),
            Fault::Lossy => Link::Lossy { one_in: 2 + self.entropy.below(20), late },
            Fault::Cut => Link::Cut,
            _ => Link::Dark,
        }
    }

    fn others(&self, id: usize) -> Vec<usize> {
        self.cluster.ids().filter(|other| *other != id).collect()
    }

    fn surround(&self, victim: usize, link: Link) {
        self.links.between(&[victim], &self.others(victim), link);
    }

    /// How long a fault goes on: from less than an election to several.
    async fn last(&self) {
        tokio::time::sleep(Duration::from_millis(100 + self.entropy.below(6_000))).await;
    }

    async fn kill_and_restart(&mut self, victims: &[usize]) -> io::Result<()> {
        for victim in victims {
            self.cluster.kill(*victim)?;
        }
        self.last().await;
        for victim in victims {
            self.cluster.spawn(*victim)?;
        }
        Ok(())
    }

    async fn pause(&self, victim: usize) -> io::Result<()> {
        let Some(process) = self.cluster.process(victim) else { return Ok(()) };
        process.signal(Signal::STOP)?;
        self.last().await;
        process.signal(Signal::CONT)
    }

    async fn fill_disk(&self) -> io::Result<()> {
        let Some(disk) = &self.small_disk else { return Ok(()) };
        disk.fill()?;
        self.last().await;
        disk.free()
    }
}
