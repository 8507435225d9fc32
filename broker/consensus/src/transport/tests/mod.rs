//! Transports of a few brokers over pipes in memory, whose wires can be cut and silenced.
#![allow(clippy::unwrap_used)]

mod bounds;
mod faults;
mod greeting;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_proto::types::{BrokerId, ClusterId, GroupId, Incarnation, PartitionId, ReplicaId, TopicId};
use headwater_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::*;
use crate::peer::{Body, Replica};

const WITHIN: Duration = Duration::from_secs(5);
const CLUSTER: ClusterId = ClusterId([1; 16]);
const PIPE_BYTES: usize = 64 << 10;

/// The wires between all brokers of a test.
#[derive(Default)]
struct Net {
    hosts: Mutex<BTreeMap<String, Transport>>,
    /// Connections are refused.
    down: AtomicBool,
    dials: AtomicUsize,
    carried_bytes: AtomicU64,
    /// Ends every connection that is open now.
    cut: Mutex<CancellationToken>,
    silent: watch::Sender<bool>,
    ended: Mutex<Vec<Result<(), String>>>,
    drain: CancellationToken,
}

impl Net {
    /// Breaks every connection; new ones can be made.
    fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    /// Swallows everything from now on, or no more.
    fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }

    fn carry(self: &Arc<Self>, from: DuplexStream, to: DuplexStream) {
        let (mut from_read, mut from_write) = tokio::io::split(from);
        let (mut to_read, mut to_write) = tokio::io::split(to);
        let (net, cut) = (Arc::clone(self), self.cut.lock().unwrap().clone());
        tokio::spawn(async move {
            let there = net.copy(&mut from_read, &mut to_write);
            let back = net.copy(&mut to_read, &mut from_write);
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = there => {}
                () = back => {}
            }
        });
    }

    async fn copy(&self, from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
        let (mut silent, mut buffer) = (self.silent.subscribe(), vec![0; PIPE_BYTES]);
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            // As a network that drops packets: nothing passes, and nobody is told.
            if silent.wait_for(|silent| !silent).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
                return;
            }
            self.carried_bytes.fetch_add(n as u64, Ordering::Relaxed);
        }
    }
}

struct NetDialer(Arc<Net>);

#[async_trait]
impl Dialer for NetDialer {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn PeerStream>> {
        let net = &self.0;
        net.dials.fetch_add(1, Ordering::Relaxed);
        if *net.silent.borrow() {
            std::future::pending::<()>().await;
        }
        let host = net.hosts.lock().unwrap().get(address).cloned();
        let host = host.filter(|_| !net.down.load(Ordering::Relaxed));
        let host = host.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = (tokio::io::duplex(PIPE_BYTES), tokio::io::duplex(PIPE_BYTES));
        net.carry(near.1, far.1);
        let net = Arc::clone(net);
        tokio::spawn(async move {
            let ended = host.serve(far.0, &net.drain).await;
            net.ended.lock().unwrap().push(ended);
        });
        Ok(Box::new(near.0))
    }
}

/// One broker: its transport, and what answers behind it.
struct Host {
    id: BrokerId,
    incarnation: Incarnation,
    transport: Transport,
    handler: Arc<Handler>,
    replica: Arc<Echo>,
}

impl Host {
    fn peer(&self) -> Peer {
        Peer { broker_id: self.id, incarnation: self.incarnation }
    }
}

#[derive(Default)]
struct Handler {
    refused: Mutex<BTreeSet<(BrokerId, Incarnation)>>,
    callers: Mutex<Vec<PeerIdentity>>,
}

#[async_trait]
impl NodeHandler for Handler {
    fn admits(&self, broker: BrokerId, incarnation: Incarnation) -> bool {
        !self.refused.lock().unwrap().contains(&(broker, incarnation))
    }

    async fn answer(&self, from: &PeerIdentity, request: NodeRequest) -> Result<NodeResponse, Refusal> {
        self.callers.lock().unwrap().push(from.clone());
        match request {
            NodeRequest::Submit(submit) => {
                let applied = v1::SubmitApplied { effect: submit.command, ..Default::default() };
                let outcome = Some(v1::submitted::Outcome::Applied(applied));
                Ok(NodeResponse::Submit(v1::Submitted { outcome }))
            }
            _ => Err(Refusal::Stopped("resting".to_owned())),
        }
    }

    async fn probe(&self, request: v1::ProbeRequest) -> Result<v1::ProbeResponse, Status> {
        Ok(v1::ProbeResponse { incarnation: request.incarnation, ..Default::default() })
    }

    async fn join(&self, _: v1::JoinRequest) -> Result<v1::JoinResponse, Status> {
        Err(Status::failed_precondition("the cluster is full"))
    }
}

/// Answers with what it was asked, and remembers the order.
#[derive(Default)]
struct Echo {
    began: Mutex<Vec<(GroupId, Bytes)>>,
    /// Groups that do not answer before they are let go.
    stuck: Mutex<BTreeSet<GroupId>>,
    go: Notify,
}

impl Echo {
    fn stick(&self, group: GroupId) {
        self.stuck.lock().unwrap().insert(group);
    }

    fn let_go(&self) {
        self.stuck.lock().unwrap().clear();
        self.go.notify_waiters();
    }

    fn began(&self) -> usize {
        self.began.lock().unwrap().len()
    }
}

#[async_trait]
impl Replica for Echo {
    async fn answer(&self, request: GroupRequest) -> Result<Body, Refusal> {
        let body = request.body.clone().into_bytes();
        self.began.lock().unwrap().push((request.group, body.slice(..body.len().min(8))));
        loop {
            let go = self.go.notified();
            if !self.stuck.lock().unwrap().contains(&request.group) {
                break;
            }
            go.await;
        }
        Ok(Body::from(body.slice(..body.len().min(64))))
    }
}

fn group(partition: i32) -> GroupId {
    GroupId { topic_id: TopicId([5; 16]), partition: PartitionId(partition) }
}

fn request(partition: i32, kind: RequestKind, body: impl Into<Bytes>) -> GroupRequest {
    let (from, target) = (ReplicaId(1), ReplicaId(2));
    GroupRequest { group: group(partition), from, target, kind, body: Body::from(body.into()) }
}

fn submit(command: &'static str) -> NodeRequest {
    NodeRequest::Submit(v1::Submit { command: Bytes::from_static(command.as_bytes()), ..Default::default() })
}

fn address(id: i32) -> String {
    format!("broker-{id}:9094")
}

/// A broker that knows nobody's address, and answers for partitions 0 to 99.
fn stranger(net: &Arc<Net>, id: i32, settings: TransportSettings) -> Host {
    let local = LocalBroker {
        broker_id: BrokerId(id),
        boot_id: id as u64,
        peer_address: address(id),
        software_version: "test".to_owned(),
    };
    let (replicas, replica) = (Arc::new(Replicas::default()), Arc::new(Echo::default()));
    for partition in 0..100 {
        replicas.insert(group(partition), ReplicaId(2), Arc::clone(&replica) as _);
    }
    let dialer = Arc::new(NetDialer(Arc::clone(net)));
    let transport = Transport::new(settings, local, dialer, Arc::default(), replicas, 7);
    let handler = Arc::new(Handler::default());
    let as_handler: Arc<dyn NodeHandler> = Arc::clone(&handler) as _;
    transport.set_handler(Arc::downgrade(&as_handler));
    net.hosts.lock().unwrap().insert(address(id), transport.clone());
    Host { id: BrokerId(id), incarnation: Incarnation([id as u8; 16]), transport, handler, replica }
}

/// A broker of the cluster that knows the other two.
fn host_with(net: &Arc<Net>, id: i32, settings: TransportSettings) -> Host {
    let host = stranger(net, id, settings);
    host.transport.identify(host.incarnation);
    host.transport.enter(CLUSTER);
    (1..=3).for_each(|other| host.transport.addresses().suggest(BrokerId(other), &address(other)));
    host
}

fn host(net: &Arc<Net>, id: i32) -> Host {
    host_with(net, id, TransportSettings::default())
}

fn pair() -> (Arc<Net>, Host, Host) {
    let net = Arc::<Net>::default();
    let (a, b) = (host(&net, 1), host(&net, 2));
    (net, a, b)
}

/// One small append, which tells whether the other broker is reached.
async fn ping(from: &Host, to: &Host) -> Result<Bytes, CallError> {
    from.transport.call(to.peer(), Lane::Append, request(0, RequestKind::Append, "ping"), WITHIN).await
}
