//! Brokers that share a group, in one runtime: each with a disk and a network of its own to fail.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_core::{PartitionState, Stamp};
use headwater_proto::types::{BrokerId, LogIndex, Offset, ReplicaId, Term};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::SimDisk;
use headwater_storage::log::LogOptions;
use tokio::time::{Instant, sleep, timeout};

use super::net::Net;
use super::support::{GROUP, ROOT, batch, values};
use crate::peer::Replicas;
use crate::{Group, GroupHost, GroupSpec, Peer, Pending, Proposal, ProposeError, RaftSettings};

pub(crate) type Partition = Group<PartitionState>;

/// A group of several brokers. Broker `n` holds replica `10 + n`.
pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) settings: RaftSettings,
    pub(crate) options: LogOptions,
    /// Those of the creation record.
    pub(crate) voters: BTreeMap<ReplicaId, Peer>,
    nodes: BTreeMap<i32, Node>,
    seed: u64,
    session: (Term, u64, u64),
}

/// One broker, which outlives its processes.
pub(crate) struct Node {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) peer: Peer,
    pub(crate) group: Option<Arc<Partition>>,
    /// How often it was started: each time draws other numbers.
    starts: u64,
}

pub(crate) fn replica(node: i32) -> ReplicaId {
    ReplicaId(10 + node as u64)
}

async fn open(disk: &Arc<SimDisk>, node: i32) -> Arc<DataDir> {
    let mut drawn = 1_000 * node as u64;
    let mut entropy = move || {
        drawn += 1;
        drawn
    };
    DataDir::open(disk.clone(), Path::new(ROOT), &mut entropy).await.unwrap()
}

impl Cluster {
    /// Brokers `1..=brokers`, all of them voters, started.
    pub(crate) async fn new(brokers: i32, seed: u64, options: LogOptions) -> Self {
        let mut cluster = Self {
            net: Net::new(seed),
            settings: RaftSettings::default(),
            options,
            voters: BTreeMap::new(),
            nodes: BTreeMap::new(),
            seed,
            session: (Term(0), 0, 0),
        };
        for node in 1..=brokers {
            let peer = cluster.add_disk(node).await;
            cluster.voters.insert(replica(node), peer);
        }
        for node in 1..=brokers {
            cluster.start(node).await;
        }
        cluster
    }

    /// A broker that holds nothing yet.
    pub(crate) async fn add_disk(&mut self, node: i32) -> Peer {
        let disk = Arc::new(SimDisk::new(self.seed * 100 + node as u64));
        disk.set_sync_latency(Duration::from_millis(1));
        let data_dir = open(&disk, node).await;
        let peer = Peer { broker_id: BrokerId(node), incarnation: data_dir.incarnation() };
        drop(data_dir);
        disk.kill_process();
        self.nodes.insert(node, Node { disk, peer, group: None, starts: 0 });
        peer
    }

    pub(crate) fn node(&self, node: i32) -> &Node {
        &self.nodes[&node]
    }

    pub(crate) fn group(&self, node: i32) -> &Arc<Partition> {
        self.nodes[&node].group.as_ref().unwrap()
    }

    /// Those whose broker runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = (i32, &Arc<Partition>)> {
        self.nodes.iter().filter_map(|(node, state)| Some((*node, state.group.as_ref()?)))
    }

    /// Starts the broker's process on what its disk holds.
    pub(crate) async fn start(&mut self, node: i32) {
        let Node { disk, peer, starts, .. } = &self.nodes[&node];
        let (peer, seed) = (*peer, self.seed * 10_000 + node as u64 * 100 + starts);
        let host = GroupHost {
            data_dir: open(disk, node).await,
            messenger: self.net.messenger(peer.broker_id),
            replicas: Arc::<Replicas>::default(),
        };
        let initialize = self.voters.contains_key(&replica(node));
        let voters = self.voters.clone();
        let spec = GroupSpec { id: GROUP, replica_id: replica(node), voters, initialize };
        self.net.attach(peer.broker_id, peer.incarnation, Arc::clone(&host.replicas));
        let (options, settings) = (self.options, self.settings);
        let started = Group::start(spec, host, options, settings, seed, PartitionState::default());
        let group = Box::pin(started).await.unwrap();
        let state = self.nodes.get_mut(&node).unwrap();
        state.group = Some(group);
        state.starts += 1;
    }

    /// The broker's power fails: what was not synced is lost or torn.
    pub(crate) async fn power_cut(&mut self, node: i32) {
        self.die(node, SimDisk::power_cut).await;
    }

    /// Its process dies, its machine lives.
    pub(crate) async fn kill(&mut self, node: i32) {
        self.die(node, SimDisk::kill_process).await;
    }

    async fn die(&mut self, node: i32, how: impl FnOnce(&SimDisk)) {
        let state = self.nodes.get_mut(&node).unwrap();
        self.net.detach(state.peer.broker_id);
        how(&state.disk);
        // Its tasks cannot be killed, but the disk and the network of its life are gone. What waits for a sync that
        // was under way waits for ever.
        if let Some(group) = state.group.take() {
            let _ = timeout(Duration::from_millis(10), group.shutdown()).await;
        }
    }

    /// Stops it as an operator does.
    pub(crate) async fn stop(&mut self, node: i32) {
        let state = self.nodes.get_mut(&node).unwrap();
        if let Some(group) = state.group.take() {
            group.shutdown().await;
            group.host.data_dir.flush_clean().await.unwrap();
        }
        self.net.detach(state.peer.broker_id);
        state.disk.kill_process();
    }

    /// The leader of the highest term.
    pub(crate) fn leader(&self) -> Option<(i32, Term)> {
        let leaders = self.running().filter_map(|(node, group)| Some((node, group.leadership()?.term)));
        leaders.max_by_key(|(_, term)| *term)
    }

    /// Waits, a minute at most, until `wanted` gives something.
    pub(crate) async fn until<T>(&self, what: &str, mut wanted: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = wanted(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "seed {}: never: {what}\n{}", self.seed, self.describe());
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn describe(&self) -> String {
        let line = |(node, group): (i32, &Arc<Partition>)| {
            let (progress, bounds) = (*group.progress().borrow(), group.log().bounds());
            format!(
                "{node}: leads {:?}, follows {:?}, {progress:?}, log {:?} to {:?}, {:?}\n",
                group.leadership(),
                group.leader(),
                bounds.first_index,
                bounds.last,
                group.health(),
            )
        };
        self.running().map(line).collect()
    }

    /// Waits for one of `among` to lead in a term after `after`.
    pub(crate) async fn new_leader(&self, among: &[i32], after: Term) -> (i32, Term) {
        let leads =
            |cluster: &Self| cluster.leader().filter(|(node, term)| among.contains(node) && *term > after);
        self.until("a new leader", leads).await
    }

    pub(crate) async fn wait_leader(&self) -> (i32, Term) {
        self.until("a leader", Self::leader).await
    }

    /// Proposes one record to a broker and waits for the answer.
    pub(crate) async fn propose(&mut self, node: i32, value: &[u8]) -> Result<Offset, ProposeError> {
        let answered = match self.enqueue(node, value).await {
            Ok(pending) => pending.await.map(|committed| committed.reply.base_offset),
            Err(error) => Err(error),
        };
        if answered.is_err() {
            self.new_session();
        }
        answered
    }

    /// After a proposal that was refused, or may not have been appended.
    pub(crate) fn new_session(&mut self) {
        self.session.1 += 1;
        self.session.2 = 0;
    }

    /// Proposes one record to a broker.
    pub(crate) async fn enqueue(
        &mut self,
        node: i32,
        value: &[u8],
    ) -> Result<Pending<headwater_core::Applied>, ProposeError> {
        let group = Arc::clone(self.group(node));
        let Some(leadership) = group.leadership() else {
            return Err(ProposeError::NotLeader { leader: group.leader() });
        };
        let (term, session, n) = &mut self.session;
        if *term != leadership.term {
            (*term, *session, *n) = (leadership.term, 0, 0);
        }
        let stamp = Stamp { term: *term, session: *session, n: *n };
        *n += 1;
        group.propose(Proposal::new(stamp, batch(value))).await
    }

    /// Has whoever leads take a record, however long that takes.
    pub(crate) async fn append(&mut self, value: &[u8]) -> Offset {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (leader, _) = self.wait_leader().await;
            if let Ok(offset) = self.propose(leader, value).await {
                return offset;
            }
            assert!(Instant::now() < deadline, "seed {}: no record is taken\n{}", self.seed, self.describe());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn append_all(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.append(format!("value {number}").as_bytes()).await;
        }
    }

    /// Waits until everybody that runs has applied what the leader has.
    pub(crate) async fn converged(&self) -> Offset {
        let agreed = |cluster: &Self| {
            let (leader, _) = cluster.leader()?;
            let (target, last) = {
                let group = cluster.group(leader);
                (group.progress().borrow().applied, group.log().bounds().last)
            };
            let same = |group: &Partition| {
                group.progress().borrow().applied == target && group.log().bounds().last == last
            };
            let all = Some(target) == last && cluster.running().all(|(_, group)| same(group));
            all.then(|| cluster.group(leader).progress().borrow().high_watermark)
        };
        let high_watermark = self.until("agreement", agreed).await;
        self.check_logs();
        high_watermark
    }

    /// Every two logs hold the same bytes where both are committed, and their machines the same state.
    pub(crate) fn check_logs(&self) {
        let groups: Vec<_> = self.running().collect();
        for pair in groups.windows(2) {
            let [(one, first), (other, second)] = pair else { continue };
            let applied = |group: &Partition| group.progress().borrow().applied.index;
            let begin = first.log().bounds().first_index.max(second.log().bounds().first_index);
            let end = applied(first).min(applied(second));
            for index in begin.get()..=end.get() {
                let bytes = |group: &Partition| group.log().batch(LogIndex(index)).unwrap().unwrap();
                assert_eq!(
                    bytes(first).1,
                    bytes(second).1,
                    "seed {}: entry {index} of brokers {one} and {other}",
                    self.seed
                );
            }
            if applied(first) == applied(second) {
                let state = |group: &Partition| group.with_state(headwater_core::Machine::encode);
                assert_eq!(state(first), state(second), "seed {}: brokers {one} and {other}", self.seed);
            }
        }
    }

    /// Each record of one broker that is committed, as far as it still has them.
    pub(crate) fn values(&self, node: i32) -> Vec<(Offset, Bytes)> {
        values(self.group(node))
    }
}
