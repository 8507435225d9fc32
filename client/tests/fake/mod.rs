//! Brokers in memory, for the tests of the client: they keep batches, know duplicates, lead and stop to
//! lead, and fail on demand, over real gRPC on in-process pipes.
//!
//! All brokers share one log per partition: what a leader appends is committed. A broker may believe in
//! an old leader, itself included, until it is told.

#![allow(clippy::unwrap_used, dead_code)]

mod admin;
mod cluster;
mod data;
mod log;
pub mod script;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use headwater_client::{BoxedConnection, Client, ClientConfig, ErrorCode};
use headwater_proto::v1;
use headwater_proto::v1::admin_server::AdminServer;
use headwater_proto::v1::cluster_server::ClusterServer;
use headwater_proto::v1::data_server::DataServer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::{Router, TcpIncoming};

pub use log::{FakeLog, Producers};

pub const ADDRESS: &str = "fake:9093";

/// How often what goes wrong, in percent of the batches or messages.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The connection is cut before a batch is looked at.
    pub cut_before: u32,
    /// The connection is cut after a batch was appended, before it is answered.
    pub cut_after: u32,
    /// A batch is refused with a retriable error.
    pub refuse: u32,
    /// A batch is appended and answered with REQUEST_TIMED_OUT.
    pub time_out: u32,
    /// Upper bound on the delay of an answer, in milliseconds.
    pub delay_ms: u64,
    /// The connection is cut after a consume message.
    pub cut_consume: u32,
    /// Attempts to connect are refused.
    pub refuse_connect: u32,
}

/// One broker.
#[derive(Default)]
pub struct Node {
    pub address: String,
    pub rack: String,
    /// It accepts no connection.
    pub down: bool,
    /// Connections to it never come about.
    pub unreachable: bool,
    /// It reads nothing and answers nothing.
    pub hung: bool,
    /// Produce requests that it looked at.
    pub produced: u64,
    /// Offsets at which it was asked to serve, and whether as a follower.
    pub consumed: Vec<(i32, i64, bool)>,
    pipes: Vec<AbortHandle>,
}

pub struct State {
    pub nodes: Vec<Node>,
    /// How often a broker that does not lead says who does, in percent.
    pub hints: u32,
    /// The cluster has no leader of the metadata.
    pub no_controller: bool,
    /// This broker has not heard of any topic.
    pub unaware: Option<i32>,
    pub topics: BTreeMap<String, Vec<FakeLog>>,
    pub producers: Producers,
    pub faults: Faults,
    pub rng: StdRng,
    /// No connection is accepted.
    pub down: bool,
    /// Produce requests are read and never answered.
    pub silent: bool,
    /// Batches larger than this are refused.
    pub batch_bytes_max: usize,
    /// Batches are answered and forgotten.
    pub discard: bool,
    pub connections: u32,
    pub next_producer_id: i64,
    pub produce_messages: u64,
    pub batches: u64,
    pub largest_message_batches: usize,
    pub consume_offsets: Vec<i64>,
    pub leader_known: bool,
    /// Create a topic, then cut the connection before the answer.
    pub lose_admin_answer: bool,
    /// How long a broker takes to tell how the cluster is.
    pub status_takes: Duration,
}

impl State {
    pub fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    pub fn log(&mut self, topic: &str, partition: i32) -> Option<&mut FakeLog> {
        self.topics.get_mut(topic)?.get_mut(usize::try_from(partition).ok()?)
    }

    /// Ends every connection, as a restart of the broker does.
    pub fn cut(&mut self) {
        (0..self.nodes.len() as i32).for_each(|id| self.cut_node(id));
    }

    /// Ends the connections to one broker.
    pub fn cut_node(&mut self, id: i32) {
        self.node(id).pipes.drain(..).for_each(|pipe| pipe.abort());
    }

    pub fn node(&mut self, id: i32) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// Kills a broker: connections end, and none is accepted.
    pub fn kill(&mut self, id: i32) {
        self.node(id).down = true;
        self.cut_node(id);
    }

    /// Why a broker does not serve a partition, perhaps with who does.
    pub fn not_leader(&mut self, node: i32, topic: &str, partition: i32) -> Option<v1::Error> {
        let (leader, epoch) = self.log(topic, partition)?.belief(node);
        let mut refusal = data::error(ErrorCode::NotLeaderOrFollower);
        let percent = self.hints;
        if leader >= 0 && self.chance(percent) {
            let address = self.node(leader).address.clone();
            let hint = v1::LeaderHint { leader_id: leader, leader_epoch: epoch, leader_address: address };
            refusal.iter_mut().for_each(|error| error.leader = Some(hint.clone()));
        }
        refusal
    }
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    /// Something was appended, or who leads or hangs has changed.
    pub appended: Arc<Notify>,
    incoming: Arc<Vec<mpsc::UnboundedSender<io::Result<DuplexStream>>>>,
}

/// One broker's services.
#[derive(Clone)]
pub struct FakeNode {
    pub fake: Fake,
    pub id: i32,
}

impl std::ops::Deref for FakeNode {
    type Target = Fake;

    fn deref(&self) -> &Fake {
        &self.fake
    }
}

impl FakeNode {
    /// Returns once the broker does not hang.
    pub async fn awake(&self) {
        loop {
            let changed = self.appended.notified();
            if !self.lock().node(self.id).hung {
                return;
            }
            changed.await;
        }
    }

    /// Passes bytes on, but for while the broker hangs.
    async fn carry(&self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            self.awake().await;
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    }
}

impl Fake {
    /// Starts one broker with one topic `t`. Must be called within a runtime.
    pub fn start(seed: u64, partitions: usize) -> Self {
        Self::cluster(seed, 1, partitions)
    }

    /// Starts brokers with the ids 0, 1, .. and one topic `t`, all of it led by the first.
    pub fn cluster(seed: u64, nodes: i32, partitions: usize) -> Self {
        let (incoming, connections): (Vec<_>, Vec<_>) = (0..nodes).map(|_| mpsc::unbounded_channel()).unzip();
        let node = |id| Node {
            address: if id == 0 { ADDRESS.to_owned() } else { format!("fake-{id}:9093") },
            ..Node::default()
        };
        let fake = Self {
            state: Arc::new(Mutex::new(State {
                nodes: (0..nodes).map(node).collect(),
                hints: 100,
                no_controller: false,
                unaware: None,
                topics: BTreeMap::from([("t".to_owned(), vec![FakeLog::default(); partitions])]),
                producers: Producers::default(),
                faults: Faults::default(),
                rng: StdRng::seed_from_u64(seed),
                down: false,
                silent: false,
                batch_bytes_max: 64 << 20,
                discard: false,
                connections: 0,
                next_producer_id: 0,
                produce_messages: 0,
                batches: 0,
                largest_message_batches: 0,
                consume_offsets: Vec::new(),
                leader_known: true,
                lose_admin_answer: false,
                status_takes: Duration::ZERO,
            })),
            appended: Arc::new(Notify::new()),
            incoming: Arc::new(incoming),
        };
        for (id, connections) in connections.into_iter().enumerate() {
            let connections = UnboundedReceiverStream::new(connections);
            tokio::spawn(fake.server(id as i32).serve_with_incoming(connections));
        }
        fake
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes something that waiting requests look at.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.appended.notify_waiters();
        result
    }

    /// Another broker leads from now on (none: -1); those of `uninformed` don't know it.
    pub fn elect(&self, partition: i32, leader: i32, uninformed: &[i32]) {
        self.change(|state| {
            let nodes = state.nodes.len() as i32;
            state.log("t", partition).unwrap().elect(leader, nodes, uninformed);
        });
    }

    pub fn config(&self, seed: u64) -> ClientConfig {
        let fake = self.clone();
        ClientConfig {
            brokers: vec![ADDRESS.to_owned()],
            connector: Some(Arc::new(move |address: String| {
                let fake = fake.clone();
                Box::pin(async move { fake.connect(&address).await }) as _
            })),
            clock: Arc::new(|| 1_700_000_000_000),
            seed: Some(seed),
            bootstrap_timeout: Duration::from_secs(60),
            ..ClientConfig::default()
        }
    }

    pub async fn client(&self, seed: u64) -> Client {
        Client::connect(self.config(seed)).await.unwrap()
    }

    /// Listens on a free port too, and gives a configuration that goes there.
    pub async fn listen(&self) -> ClientConfig {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.lock().node(0).address.clone_from(&address);
        let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(self.server(0).serve_with_incoming(connections));
        ClientConfig::new([address])
    }

    fn server(&self, id: i32) -> Router {
        let node = FakeNode { fake: self.clone(), id };
        tonic::transport::Server::builder()
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(32 << 20)
            .max_frame_size(1 << 20)
            .add_service(DataServer::new(node.clone()).max_decoding_message_size(64 << 20))
            .add_service(ClusterServer::new(node.clone()))
            .add_service(AdminServer::new(node))
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn BoxedConnection>> {
        let found = self.lock().nodes.iter().position(|node| node.address == address);
        let id = found.ok_or(io::ErrorKind::AddrNotAvailable)?;
        if self.lock().nodes[id].unreachable {
            std::future::pending::<()>().await;
        }
        let mut state = self.lock();
        let refused = state.faults.refuse_connect;
        if state.down || state.nodes[id].down || state.chance(refused) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (client, near) = tokio::io::duplex(1 << 20);
        let (far, server) = tokio::io::duplex(1 << 20);
        let node = FakeNode { fake: self.clone(), id: id as i32 };
        let pipe = tokio::spawn(async move {
            let (near_read, near_write) = tokio::io::split(near);
            let (far_read, far_write) = tokio::io::split(far);
            tokio::join!(node.carry(near_read, far_write), node.carry(far_read, near_write));
        });
        state.nodes[id].pipes.push(pipe.abort_handle());
        state.connections += 1;
        self.incoming[id].send(Ok(server)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(Box::new(client))
    }
}
