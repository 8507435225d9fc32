//! The brokers of a run: their hosts, their disks, which survive them, and their lives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_broker::config::{Config, HostPort, NodeList, SeedList};
use headwater_broker::env::{Entropy, Env};
use headwater_broker::{Broker, Node as BrokerNode, Observation};
use headwater_storage::disk::SimDisk;
use tokio::sync::watch;
use turmoil::Sim;

use crate::sim::world::{SimClock, SimEntropy, SimNetwork};

pub const GRPC_PORT: u16 = 9093;
const PEER_PORT: u16 = 9094;

/// Whether a broker runs, and when it does again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not switched on yet.
    Spare,
    Up,
    /// Asked to stop; it is started again this long after it has.
    Stopping {
        pause: Duration,
    },
    Down {
        until: Duration,
    },
}

/// One broker's machine.
pub struct Node {
    pub id: i32,
    pub name: String,
    pub state: State,
    machine: Arc<Machine>,
}

/// What the host and the driver share.
struct Machine {
    disk: Mutex<Arc<SimDisk>>,
    broker: Mutex<Option<Broker>>,
    /// What it runs, from the moment that it is up; also while it stops.
    node: Mutex<Option<Arc<BrokerNode>>>,
    on: AtomicBool,
    stop: watch::Sender<bool>,
    stopped: AtomicBool,
    /// How far its wall clock is off.
    skew_ms: AtomicI64,
    /// Why it could not start.
    refused: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    /// Adds the host to the simulation; a spare one idles until [`Node::switch_on`].
    pub fn add(sim: &mut Sim<'_>, id: i32, founders: i32, seed: u64, sync_latency: Duration) -> Self {
        let entropy = SimEntropy::new(seed ^ (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let disk = SimDisk::new(entropy.next_u64());
        disk.set_sync_latency(sync_latency);
        let spare = id > founders;
        let machine = Arc::new(Machine {
            disk: Mutex::new(Arc::new(disk)),
            broker: Mutex::default(),
            node: Mutex::default(),
            on: AtomicBool::new(!spare),
            stop: watch::Sender::new(false),
            stopped: AtomicBool::new(false),
            skew_ms: AtomicI64::new(0),
            refused: Mutex::default(),
        });
        let host = name(id);
        let (config, shared, boots) = (config(id, founders), Arc::clone(&machine), Arc::new(entropy));
        sim.host(host.as_str(), move || {
            let (machine, config) = (Arc::clone(&shared), config.clone());
            let entropy = Arc::new(SimEntropy::new(boots.next_u64()));
            async move {
                live(&machine, config, entropy).await;
                Ok(())
            }
        });
        let state = if spare { State::Spare } else { State::Up };
        Self { id, name: host, state, machine }
    }

    pub fn disk(&self) -> Arc<SimDisk> {
        Arc::clone(&lock(&self.machine.disk))
    }

    /// The replicas that run here; `None` while no broker does.
    pub fn observe(&self) -> Option<Vec<Observation>> {
        self.with_node(BrokerNode::observe)
    }

    /// Whether something may run here, to be looked at or not.
    pub const fn is_on(&self) -> bool {
        matches!(self.state, State::Up | State::Stopping { .. })
    }

    /// Runs `look` on what the broker runs.
    pub fn with_node<T>(&self, look: impl FnOnce(&BrokerNode) -> T) -> Option<T> {
        let mut node = lock(&self.machine.node);
        if node.is_none() {
            *node = lock(&self.machine.broker).as_ref().and_then(Broker::node);
        }
        node.as_deref().map(look)
    }

    /// Why the last start was refused.
    pub fn refused(&self) -> Option<String> {
        lock(&self.machine.refused).clone()
    }

    /// Why the broker that runs cannot go on.
    pub fn failure(&self) -> Option<String> {
        self.with_node(BrokerNode::failure).flatten()
    }

    /// Begins the life of a spare broker.
    pub fn switch_on(&mut self, sim: &mut Sim<'_>) {
        self.machine.on.store(true, Ordering::Relaxed);
        sim.bounce(self.name.as_str());
        self.state = State::Up;
    }

    /// Ends the process, without a chance to save anything. The caller decides what becomes of the disk.
    pub fn crash(&mut self, sim: &mut Sim<'_>, until: Duration) {
        sim.crash(self.name.as_str());
        lock(&self.machine.broker).take();
        lock(&self.machine.node).take();
        self.state = State::Down { until };
    }

    /// Asks for a stop that hands everything over.
    pub fn stop(&mut self, pause: Duration) {
        self.machine.stop.send_replace(true);
        self.state = State::Stopping { pause };
    }

    pub fn has_stopped(&self) -> bool {
        self.machine.stopped.load(Ordering::Relaxed)
    }

    pub fn start(&mut self, sim: &mut Sim<'_>) {
        self.machine.stop.send_replace(false);
        self.machine.stopped.store(false, Ordering::Relaxed);
        lock(&self.machine.refused).take();
        sim.bounce(self.name.as_str());
        self.state = State::Up;
    }

    /// A new disk in place of the old one; the broker must be down.
    pub fn empty_disk(&self, seed: u64, sync_latency: Duration) {
        let disk = SimDisk::new(seed);
        disk.set_sync_latency(sync_latency);
        *lock(&self.machine.disk) = Arc::new(disk);
    }

    /// From its next start on the wall clock is off by so much.
    pub fn skew(&self, skew_ms: i64) {
        self.machine.skew_ms.store(skew_ms, Ordering::Relaxed);
    }
}

/// Host name of a broker.
pub fn name(id: i32) -> String {
    format!("b{id}")
}

/// One life of a broker: from its start to the crash of its host, or a stop that it is asked for.
async fn live(machine: &Machine, config: Config, entropy: Arc<SimEntropy>) {
    if !machine.on.load(Ordering::Relaxed) {
        return std::future::pending().await;
    }
    let disk = Arc::clone(&lock(&machine.disk));
    let clock = Arc::new(SimClock::skewed(machine.skew_ms.load(Ordering::Relaxed)));
    let env = Env { disk: disk.clone(), clock, entropy, network: Arc::new(SimNetwork) };
    match Broker::start(config, env).await {
        Ok(broker) => *lock(&machine.broker) = Some(broker),
        // The power failed while it started: the driver will crash the host.
        Err(_) if disk.is_dead() => {}
        Err(error) => *lock(&machine.refused) = Some(error.to_string()),
    }
    let mut stop = machine.stop.subscribe();
    // The sender outlives the host.
    let _ = stop.wait_for(|stop| *stop).await;
    let broker = lock(&machine.broker).take();
    if let Some(broker) = broker {
        broker.shutdown().await;
    }
    machine.stopped.store(true, Ordering::Relaxed);
    std::future::pending().await
}

fn config(id: i32, founders: i32) -> Config {
    let mut config = Config::default();
    let bind = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let at = |id: i32, port| HostPort { host: name(id), port };
    let broker = &mut config.broker;
    broker.node_id = id;
    broker.rack = format!("rack-{}", id % 3);
    broker.data_dir = PathBuf::from("/data");
    (broker.kafka_addr, broker.grpc_addr) = (bind(9092), bind(GRPC_PORT));
    (broker.peer_addr, broker.http_addr) = (bind(PEER_PORT), bind(9095));
    broker.grpc_advertised_addr = Some(at(id, GRPC_PORT));
    broker.peer_advertised_addr = Some(at(id, PEER_PORT));
    broker.drain_timeout_ms = 2_000;
    if id <= founders {
        config.cluster.nodes = NodeList((1..=founders).map(|id| (id, at(id, PEER_PORT))).collect());
    } else {
        config.cluster.join = SeedList((1..=founders).map(|id| at(id, PEER_PORT)).collect());
    }
    // Small and quick, so that a minute holds what a day does.
    config.cluster.quiesce_after_ms = 1_000;
    config.cluster.metadata_segment_bytes = 16_384;
    config.storage.retention_check_interval_ms = 500;
    config.storage.scrub_interval_ms = 10_000;
    config.connections.keepalive_interval_ms = 1_000;
    config.connections.keepalive_timeout_ms = 2_000;
    config
}
