//! The listeners of a running broker, over real sockets: what they answer, refuse and survive.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::config::Config;
use headwater_broker::env::{OsEntropy, SystemClock, TcpNetwork};
use headwater_broker::{Addresses, Broker, Env, StartError};
use headwater_proto::v1::data_client::DataClient;
use headwater_proto::v1::{ListOffsetsRequest, ProducePartition, ProduceRequest};
use headwater_storage::disk::RealDisk;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn config(data_dir: &TempDir) -> Config {
    let mut config = Config::default();
    let free = "127.0.0.1:0".parse().unwrap();
    let broker = &mut config.broker;
    (broker.kafka_addr, broker.grpc_addr, broker.peer_addr, broker.http_addr) = (free, free, free, free);
    broker.data_dir = data_dir.path().join("data");
    config
}

fn env() -> Env {
    Env {
        disk: Arc::new(RealDisk::new()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy::new().unwrap()),
        network: Arc::new(TcpNetwork::default()),
    }
}

/// Runs a scenario against a broker, then stops it in good order.
async fn with_broker<F: Future<Output = ()>>(
    adjust: impl FnOnce(&mut Config),
    scenario: impl FnOnce(Addresses) -> F,
) {
    let data_dir = TempDir::new().unwrap();
    let mut config = config(&data_dir);
    adjust(&mut config);
    let broker = Broker::start(config, env()).await.unwrap();
    let addresses = broker.addresses();
    tokio::time::timeout(PATIENCE, scenario(addresses)).await.expect("the scenario ends in time");
    tokio::time::timeout(PATIENCE, broker.shutdown()).await.expect("the broker stops in time");
    assert!(TcpStream::connect(addresses.grpc).await.is_err(), "the address is free again");
}

/// Sends bytes, and returns what comes back until the broker closes.
async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The broker may refuse and close before it has taken everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// Status and body of a request over HTTP/1.
async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(exchange(addr, request.as_bytes()).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    assert!(!head.to_ascii_lowercase().contains("\r\ndate:"), "no wall clock in answers: {head}");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_owned())
}

async fn data_client(addr: SocketAddr) -> DataClient<tonic::transport::Channel> {
    DataClient::connect(format!("http://{addr}")).await.unwrap()
}

/// Whether a call over a new connection is answered.
async fn serves(addr: SocketAddr) -> bool {
    match DataClient::connect(format!("http://{addr}")).await {
        Ok(mut client) => client.list_offsets(ListOffsetsRequest::default()).await.is_ok(),
        Err(_) => false,
    }
}

/// That the broker serves, on both protocols it speaks.
async fn assert_serving(addresses: Addresses) {
    assert_eq!(get(addresses.http, "/health/ready").await.0, 200);
    assert!(serves(addresses.grpc).await);
}

#[tokio::test]
async fn people_and_probes_are_answered() {
    with_broker(
        |_| {},
        async |addresses| {
            assert_eq!(get(addresses.http, "/health/live").await, (200, "live\n".to_owned()));
            assert_eq!(get(addresses.http, "/health/ready").await, (200, "ready\n".to_owned()));
            let (status, metrics) = get(addresses.http, "/metrics").await;
            assert_eq!(status, 200);
            for line in [
                "headwater_build_info{version=\"",
                "headwater_ready 1\n",
                "headwater_connections{listener=\"http\"}",
            ] {
                assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
            }
            for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
                let (_, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
            assert_eq!(get(addresses.http, "/elsewhere").await.0, 404);
        },
    )
    .await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let short = |config: &mut Config| config.connections.handshake_timeout_ms = 300;
    with_broker(short, async |addresses| {
        let oversized_frame = [PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
        let broken_headers =
            [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 4, 1, 5, 0, 0, 0, 1], &[0xff; 4]].concat();
        let endless_header = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 1 << 20]].concat();
        let kafka_frame_of_2_gib = [0x7f, 0xff, 0xff, 0xff, 0, 18, 0, 3];
        let garbage: [&[u8]; 10] = [
            b"",
            b"\0",
            &[0xff; 4_096],
            &[0; 100_000],
            b"GET / HTTP/1.1\r\n\r\n\r\nGET",
            &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3],
            &oversized_frame,
            &broken_headers,
            &endless_header,
            &kafka_frame_of_2_gib,
        ];
        for addr in [addresses.kafka, addresses.grpc, addresses.peer, addresses.http] {
            for bytes in garbage {
                // Ends only if the broker closes.
                exchange(addr, bytes).await;
            }
            assert_serving(addresses).await;
        }
        let told = String::from_utf8(exchange(addresses.grpc, b"GET / HTTP/1.1\r\n\r\n").await).unwrap();
        assert!(told.starts_with("HTTP/1.1 400") && told.contains("gRPC listener"), "{told}");
        let (_, metrics) = get(addresses.http, "/metrics").await;
        for reason in ["not_http2", "http1", "tls", "handshake_timeout"] {
            let counted =
                format!("headwater_connections_failed_total{{listener=\"grpc\",reason=\"{reason}\"}}");
            assert!(metrics.contains(&counted), "{counted} is missing in:\n{metrics}");
        }
        assert!(metrics.contains("{listener=\"kafka\",reason=\"not_served\"}"), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_its_length() {
    let small = |config: &mut Config| {
        config.requests.message_bytes_max = 65_536;
        config.requests.fetch_bytes_max = 65_536;
    };
    with_broker(small, async |addresses| {
        let records = vec![0; 65_536].into();
        let partition = ProducePartition { topic: "t".to_owned(), records, ..Default::default() };
        let request = ProduceRequest { partitions: vec![partition], acks: -1, ..Default::default() };
        let mut client = data_client(addresses.grpc).await;
        let status = match client.produce(tokio_stream::once(request)).await {
            Err(status) => status,
            Ok(mut responses) => responses.get_mut().message().await.unwrap_err(),
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("requests.message_bytes_max"), "{status}");
        assert_serving(addresses).await;
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once_and_room_comes_back() {
    let two = |config: &mut Config| config.connections.per_ip_max = 2;
    with_broker(two, async |addresses| {
        let first = TcpStream::connect(addresses.grpc).await.unwrap();
        let _second = TcpStream::connect(addresses.grpc).await.unwrap();
        let mut third = TcpStream::connect(addresses.kafka).await.unwrap();
        assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0, "the third is closed");
        assert_eq!(get(addresses.http, "/health/live").await.0, 200, "probes reach a full broker");
        assert!(!serves(addresses.grpc).await);
        drop(first);
        // The broker notices the closed connection in its own time.
        while !serves(addresses.grpc).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let short = |config: &mut Config| config.connections.idle_timeout_ms = 200;
    with_broker(short, async |addresses| {
        let mut client = data_client(addresses.grpc).await;
        let (requests, receiver) = tokio::sync::mpsc::channel::<ProduceRequest>(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut responses = client.produce(stream).await.unwrap().into_inner();
        let mut silent = TcpStream::connect(addresses.grpc).await.unwrap();
        silent.write_all(PREFACE).await.unwrap();
        silent.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut answer = Vec::new();
        silent.read_to_end(&mut answer).await.unwrap();
        assert!(answer.windows(4).any(|frame| frame[3] == 7), "a GOAWAY comes before the end");
        requests.send(ProduceRequest { correlation: 9, acks: -1, ..Default::default() }).await.unwrap();
        let response = responses.message().await.unwrap().unwrap();
        assert_eq!(response.correlation, 9, "the open stream kept its connection");
    })
    .await;
}

#[tokio::test]
async fn an_address_in_use_is_told_with_its_setting() {
    let data_dir = TempDir::new().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&data_dir);
    config.broker.peer_addr = taken.local_addr().unwrap();
    let error = Broker::start(config, env()).await.unwrap_err();
    assert!(matches!(error, StartError::Bind { setting: "peer_addr", .. }), "{error}");
}

#[tokio::test]
async fn a_drain_ends_open_streams_and_does_not_wait_for_idle_connections() {
    let data_dir = TempDir::new().unwrap();
    let broker = Broker::start(config(&data_dir), env()).await.unwrap();
    let addresses = broker.addresses();
    let _silent = TcpStream::connect(addresses.grpc).await.unwrap();
    let mut client = data_client(addresses.grpc).await;
    let (_requests, receiver) = tokio::sync::mpsc::channel::<ProduceRequest>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = client.produce(stream).await.unwrap().into_inner();
    let started = tokio::time::Instant::now();
    broker.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let end = responses.message().await;
    assert!(!matches!(end, Ok(Some(_))), "the stream has ended: {end:?}");
}
