//! A broker in memory, for the tests of the client: it keeps batches, knows duplicates, and fails on
//! demand, over real gRPC on in-process pipes.

#![allow(clippy::unwrap_used, dead_code)]

mod admin;
mod data;
mod log;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use headwater_client::{BoxedConnection, Client, ClientConfig};
use headwater_proto::v1::admin_server::AdminServer;
use headwater_proto::v1::data_server::DataServer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::DuplexStream;
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

pub struct State {
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
    /// What metadata says of where this broker is.
    pub address: String,
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
    pipes: Vec<AbortHandle>,
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
        self.pipes.drain(..).for_each(|pipe| pipe.abort());
    }
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    /// Something was appended.
    pub appended: Arc<Notify>,
    incoming: mpsc::UnboundedSender<io::Result<DuplexStream>>,
}

impl Fake {
    /// Starts it with one topic `t`. Must be called within a runtime.
    pub fn start(seed: u64, partitions: usize) -> Self {
        let (incoming, connections) = mpsc::unbounded_channel();
        let fake = Self {
            state: Arc::new(Mutex::new(State {
                topics: BTreeMap::from([("t".to_owned(), vec![FakeLog::default(); partitions])]),
                producers: Producers::default(),
                faults: Faults::default(),
                rng: StdRng::seed_from_u64(seed),
                down: false,
                silent: false,
                batch_bytes_max: 64 << 20,
                address: ADDRESS.to_owned(),
                discard: false,
                connections: 0,
                next_producer_id: 0,
                produce_messages: 0,
                batches: 0,
                largest_message_batches: 0,
                consume_offsets: Vec::new(),
                leader_known: true,
                lose_admin_answer: false,
                pipes: Vec::new(),
            })),
            appended: Arc::new(Notify::new()),
            incoming,
        };
        let connections = UnboundedReceiverStream::new(connections);
        tokio::spawn(fake.server().serve_with_incoming(connections));
        fake
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn config(&self, seed: u64) -> ClientConfig {
        let fake = self.clone();
        ClientConfig {
            brokers: vec![ADDRESS.to_owned()],
            connector: Some(Arc::new(move |_: String| {
                let fake = fake.clone();
                Box::pin(async move { fake.connect() }) as _
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
        self.lock().address.clone_from(&address);
        let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(self.server().serve_with_incoming(connections));
        ClientConfig::new([address])
    }

    fn server(&self) -> Router {
        tonic::transport::Server::builder()
            .initial_stream_window_size(16 << 20)
            .initial_connection_window_size(32 << 20)
            .max_frame_size(1 << 20)
            .add_service(DataServer::new(self.clone()).max_decoding_message_size(64 << 20))
            .add_service(AdminServer::new(self.clone()))
    }

    fn connect(&self) -> io::Result<Box<dyn BoxedConnection>> {
        let mut state = self.lock();
        let refused = state.faults.refuse_connect;
        if state.down || state.chance(refused) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (client, mut near) = tokio::io::duplex(1 << 20);
        let (mut far, server) = tokio::io::duplex(1 << 20);
        let pipe = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
        state.pipes.push(pipe.abort_handle());
        state.connections += 1;
        self.incoming.send(Ok(server)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(Box::new(client))
    }
}
