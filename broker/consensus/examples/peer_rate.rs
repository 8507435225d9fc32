//! How much two brokers can say to one another over loopback TCP: small calls per second, and megabytes of appends.
//!
//! `cargo run --release -p headwater-consensus --example peer_rate [seconds for each figure]`
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use headwater_consensus::Peer;
use headwater_consensus::peer::{
    Body, GroupRequest, Lane, Messenger, Refusal, Replica, Replicas, RequestKind,
};
use headwater_consensus::transport::{
    Dialer, LocalBroker, NodeHandler, NodeRequest, NodeResponse, PeerIdentity, PeerStream, Transport,
    TransportSettings,
};
use headwater_proto::types::{BrokerId, ClusterId, GroupId, Incarnation, PartitionId, ReplicaId, TopicId};
use headwater_proto::v1;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

const WITHIN: Duration = Duration::from_secs(10);

struct Tcp;

#[async_trait]
impl Dialer for Tcp {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn PeerStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

struct Anybody;

#[async_trait]
impl NodeHandler for Anybody {
    fn admits(&self, _: BrokerId, _: Incarnation) -> bool {
        true
    }

    async fn answer(&self, _: &PeerIdentity, _: NodeRequest) -> Result<NodeResponse, Refusal> {
        Err(Refusal::Stopped("it only counts".to_owned()))
    }

    async fn probe(&self, _: v1::ProbeRequest) -> Result<v1::ProbeResponse, Status> {
        Err(Status::unavailable(""))
    }

    async fn join(&self, _: v1::JoinRequest) -> Result<v1::JoinResponse, Status> {
        Err(Status::unavailable(""))
    }
}

/// Answers at once.
struct Sink;

#[async_trait]
impl Replica for Sink {
    async fn answer(&self, _: GroupRequest) -> Result<Body, Refusal> {
        Ok(Body::from(Bytes::from_static(b"received")))
    }
}

fn group(partition: i32) -> GroupId {
    GroupId { topic_id: TopicId([5; 16]), partition: PartitionId(partition) }
}

async fn broker(id: i32, handler: &Arc<dyn NodeHandler>) -> (Transport, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let local = LocalBroker {
        broker_id: BrokerId(id),
        boot_id: 1,
        peer_address: address.clone(),
        software_version: String::new(),
    };
    let replicas = Arc::new(Replicas::default());
    (0..1_000).for_each(|n| replicas.insert(group(n), ReplicaId(2), Arc::new(Sink)));
    let transport =
        Transport::new(TransportSettings::default(), local, Arc::new(Tcp), Arc::default(), replicas, 1);
    let weak: Weak<dyn NodeHandler> = Arc::downgrade(handler);
    transport.set_handler(weak);
    transport.identify(Incarnation([id as u8; 16]));
    transport.enter(ClusterId([1; 16]));
    let serving = transport.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let serving = serving.clone();
            tokio::spawn(async move { serving.serve(stream, &CancellationToken::new()).await });
        }
    });
    (transport, address)
}

/// Calls as fast as answers come, each task for a group of its own; returns calls per second.
async fn rate(
    from: &Transport,
    tasks: i32,
    lane: Lane,
    kind: RequestKind,
    body: &Body,
    run: Duration,
) -> f64 {
    let (done, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let callers = (0..tasks).map(|n| {
        let (from, done, body) = (from.clone(), done.clone(), body.clone());
        tokio::spawn(async move {
            let peer = Peer { broker_id: BrokerId(2), incarnation: Incarnation([2; 16]) };
            while started.elapsed() < run {
                let (from_replica, target) = (ReplicaId(1), ReplicaId(2));
                let request =
                    GroupRequest { group: group(n), from: from_replica, target, kind, body: body.clone() };
                from.call(peer, lane, request, WITHIN).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let run = Duration::from_secs_f64(seconds);
    let handler: Arc<dyn NodeHandler> = Arc::new(Anybody);
    let (caller, _) = broker(1, &handler).await;
    let (_answerer, address) = broker(2, &handler).await;
    caller.addresses().suggest(BrokerId(2), &address);

    let small = Body::from(Bytes::from(vec![1; 100]));
    for tasks in [1, 16, 256] {
        let calls = rate(&caller, tasks, Lane::Append, RequestKind::Append, &small, run).await;
        println!("appends of 100 bytes, {tasks:>4} groups: {calls:>9.0} calls/s");
    }
    let beats = rate(&caller, 1_000, Lane::Control, RequestKind::Heartbeat, &small, run).await;
    println!("heartbeats of 100 bytes, 1000 groups: {beats:>9.0} calls/s");
    for (name, len) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let body = Body::from_pieces(vec![Bytes::from(vec![1; 64]), Bytes::from(vec![2; len])]);
        for tasks in [1, 4, 16] {
            let calls = rate(&caller, tasks, Lane::Append, RequestKind::Append, &body, run).await;
            let megabytes = calls * len as f64 / 1e6;
            println!("appends of {name}, {tasks:>2} groups: {megabytes:>7.0} MB/s");
        }
    }
}
