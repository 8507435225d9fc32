//! Garbage, truncated and hostile frames on every listener: each ends its own connection, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use headwater_tests::process::http_get;
use http_body_util::{BodyExt, Full, StreamBody};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::transport::Channel;
use tower::ServiceExt;

use crate::harness::{Fixture, eventually};
use crate::http2::*;

/// Peers that say nothing, or not all of it, are given up soon; memory is scarce.
const CONFIG: &str = "
[connections]
handshake_timeout_ms = 500
idle_timeout_ms = 2000
[grpc]
receive_window_bytes_total = 33554432
[requests]
in_flight_bytes_per_connection = 33554432
in_flight_bytes_total = 67108864
";
/// Room for allocator slack on top of what the configuration above grants.
const MEMORY_GROWTH_MAX: u64 = 192 << 20;

async fn fixture() -> (Fixture, Vec<(i64, Bytes)>) {
    let fixture = Fixture::with(CONFIG);
    fixture.create("t", 1, &[]).await;
    (fixture, Vec::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_listener() {
    let (mut fixture, mut records) = fixture().await;
    let addresses = fixture.addresses;
    fixture.assert_serves("t", &mut records).await;
    let before = fixture.memory();
    let mut random = StdRng::seed_from_u64(1);
    let valid = conversation();
    let mut garbage: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0xff; 100_000],
        vec![0; 100_000],
        // A Kafka request of 2 GiB, one of a negative length, and an ApiVersions request as a client sends it.
        [&[0x7f, 0xff, 0xff, 0xff, 0, 18, 0, 3][..], &[0; 1_000]].concat(),
        vec![0xff, 0xff, 0xff, 0xfe, 0, 0],
        [&[0, 0, 0, 16, 0, 18, 0, 3, 0, 0, 0, 1, 0, 4][..], b"rdka\0\0"].concat(),
        // TLS.
        vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3],
        b"GET / HTTP/1.1\r\n\r\n\r\nGET".to_vec(),
        [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 1 << 20]].concat(),
        [b"GET /".as_slice(), &[b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat(),
        [b"GET / HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000), b"\r\n".to_vec()].concat(),
        b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .to_vec(),
    ];
    // The beginnings of something valid, and it with flipped bytes.
    garbage.extend((0..valid.len()).step_by(7).map(|end| valid[..end].to_vec()));
    garbage.extend((0..60).map(|_| {
        let mut mutated = valid.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..mutated.len());
            mutated[at] ^= random.random_range(1..=255);
        }
        mutated
    }));
    for addr in [addresses.kafka, addresses.grpc, addresses.peer, addresses.http] {
        stream::iter(&garbage)
            .for_each_concurrent(8, |bytes| async move { drop(exchange(addr, bytes).await) })
            .await;
        fixture.assert_serves("t", &mut records).await;
    }
    let grown = fixture.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "grown by {grown} bytes");
    for (listener, reason) in [("kafka", "not_served"), ("peer", "peer")] {
        let closed =
            format!("headwater_connections_failed_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
        assert!(fixture.metric(&closed).is_some_and(|count| count > 0.0), "{closed}");
    }
    fixture.restart();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_http2_frames() {
    let (fixture, mut records) = fixture().await;
    let grpc = fixture.addresses.grpc;
    fixture.assert_serves("t", &mut records).await;
    let before = fixture.memory();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let (protocol_error, flow_control_error, frame_size_error) = (1, 3, 6);
    let (compression_error, enhance_your_calm) = (9, 11);
    let open = frame(HEADERS, 0, 1, &call_headers("/headwater.v1.Admin/Metadata"));
    let reset_at_once: Vec<u8> = (0..3_000)
        .flat_map(|n| {
            let headers = frame(HEADERS, END_HEADERS, 2 * n + 1, &call_headers("/headwater.v1.Data/Produce"));
            [headers, frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat()
        })
        .collect();
    let cases: Vec<(&str, Vec<u8>, Vec<u32>)> = vec![
        ("a frame of 16 MiB", frame_of((1 << 24) - 1, DATA, 0, 1, &[0; 100]), vec![frame_size_error]),
        ("settings of an odd length", frame(SETTINGS, 0, 0, &[0; 5]), vec![frame_size_error, protocol_error]),
        ("a ping of the wrong length", frame(PING, 0, 0, &[0; 7]), vec![frame_size_error, protocol_error]),
        ("data on a stream that is not open", frame(DATA, 0, 5, &[0; 10]), vec![protocol_error, 5]),
        ("headers on stream 0", frame(HEADERS, END_HEADERS, 0, &[0x83]), vec![protocol_error]),
        (
            "a header block that is none",
            frame(HEADERS, END_HEADERS, 1, &[0xff; 40]),
            vec![compression_error, protocol_error],
        ),
        (
            "a window beyond 2 GiB",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2),
            vec![flow_control_error],
        ),
        (
            "continuations without end",
            [open, frame(CONTINUATION, 0, 1, &[0; 1_000]).repeat(2_000)].concat(),
            vec![protocol_error, compression_error, enhance_your_calm],
        ),
        ("streams reset as soon as they are opened", reset_at_once, vec![enhance_your_calm]),
    ];
    for (what, bytes, expected) in cases {
        let answer = exchange(grpc, &[begin.clone(), bytes].concat()).await;
        let code = goaway(&answer);
        assert!(code.is_some_and(|code| expected.contains(&code)), "{what}: {code:?}");
        fixture.assert_serves("t", &mut records).await;
    }
    // Nothing is wrong with these, but for their number.
    for flood in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[]), frame(99, 0, 1, &[0; 100])] {
        exchange(grpc, &[begin.clone(), flood.repeat(20_000)].concat()).await;
    }
    fixture.assert_serves("t", &mut records).await;
    let grown = fixture.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "grown by {grown} bytes");
}

/// gRPC status and message that these bytes are answered with.
async fn call(channel: &Channel, path: &str, body: tonic::body::Body) -> (i32, String) {
    let request = http::Request::post(format!("http://broker/headwater.v1.{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = channel.clone().oneshot(request).await.unwrap();
    let headers = response.headers().clone();
    // An answer that is an error from the beginning has its status in the headers.
    let trailers = match response.into_body().collect().await {
        Ok(collected) => collected.trailers().cloned().unwrap_or_default(),
        Err(status) => return (status.code() as i32, status.message().to_owned()),
    };
    let text = |name| headers.get(name).or(trailers.get(name)).map_or("", |value| value.to_str().unwrap());
    (text("grpc-status").parse().unwrap_or(-1), text("grpc-message").to_owned())
}

fn bytes(body: &[u8]) -> tonic::body::Body {
    tonic::body::Body::new(Full::new(Bytes::copy_from_slice(body)))
}

fn message(body: &[u8]) -> tonic::body::Body {
    bytes(&[&[0], (body.len() as u32).to_be_bytes().as_slice(), body].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_messages_that_lie() {
    let (fixture, mut records) = fixture().await;
    fixture.assert_serves("t", &mut records).await;
    let before = fixture.memory();
    let channel = fixture.channel().await;
    let (unknown_length, exhausted, unimplemented) = (&[0, 0xff, 0xff, 0xff, 0xff], 8, 12);
    for path in ["Admin/Metadata", "Data/Produce", "Data/Fetch", "Data/Consume", "Admin/CreateTopics"] {
        let (status, said) = call(&channel, path, bytes(unknown_length)).await;
        assert_eq!(status, exhausted, "{path}: {said}");
        assert!(said.contains("4294967295") && said.contains("requests.message_bytes_max"), "{path}: {said}");
        let lies: [(&str, tonic::body::Body); 8] = [
            ("ends in the length", bytes(&[0, 0, 0])),
            ("ends in the message", bytes(&[0, 0, 0, 1, 0, 1, 2, 3])),
            ("compressed with nothing", bytes(&[1, 0, 0, 0, 3, 1, 2, 3])),
            ("a flag that means nothing", bytes(&[9, 0, 0, 0, 3, 1, 2, 3])),
            ("no protobuf", message(&[0xff; 40])),
            ("a field of 2^60 bytes", message(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f])),
            ("a group that never ends", message(&[0x0b; 5_000])),
            ("a varint of eleven bytes", message(&[[0x08].as_slice(), &[0xff; 11]].concat())),
        ];
        for (what, body) in lies {
            let (status, said) = call(&channel, path, body).await;
            assert!(status > 0, "{path}, {what}: {status} {said}");
            assert!(!said.is_empty(), "{path}, {what}: {status}");
        }
        fixture.assert_serves("t", &mut records).await;
    }
    assert_eq!(call(&channel, "Admin/Nothing", message(&[])).await.0, unimplemented);
    assert_eq!(call(&channel, "../../etc/passwd", message(&[])).await.0, unimplemented);
    let grown = fixture.memory().saturating_sub(before);
    assert!(grown < 64 << 20, "grown by {grown} bytes");
}

/// Connections that declare large messages and send most of them, and then nothing, together far more than
/// the broker grants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_take_bounded_memory() {
    const CONNECTIONS: usize = 12;
    const CALLS: usize = 4;
    const MESSAGE_BYTES: u32 = 30 << 20;
    let (fixture, mut records) = fixture().await;
    fixture.assert_serves("t", &mut records).await;
    let before = fixture.memory();
    let chunk = Bytes::from(vec![0; 1 << 20]);
    // Clients whose end is the end of their sockets.
    let clients = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let grpc = fixture.addresses.grpc;
    for _ in 0..CONNECTIONS {
        let chunk = chunk.clone();
        clients.spawn(async move {
            let channel = Channel::from_shared(format!("http://{grpc}")).unwrap().connect().await.unwrap();
            let unfinished = (0..CALLS).map(|_| {
                let header = Bytes::from([&[0], MESSAGE_BYTES.to_be_bytes().as_slice()].concat());
                let sent = stream::iter([header]).chain(stream::iter(vec![chunk.clone(); 29]));
                let frames = sent.chain(stream::pending());
                let frames = frames.map(|bytes| Ok::<_, tonic::Status>(http_body::Frame::data(bytes)));
                call(&channel, "Data/Produce", tonic::body::Body::new(StreamBody::new(frames)))
            });
            futures_util::future::join_all(unfinished).await
        });
    }
    let in_flight = || fixture.metric("headwater_requests_in_flight_bytes").unwrap();
    eventually("memory for bulk messages is used up", async || in_flight() > f64::from(MESSAGE_BYTES)).await;
    let mut peak = 0;
    // The broker has taken in what it takes once its memory stays where it is.
    let mut still = 0;
    while still < 10 {
        let now = fixture.memory();
        still = if now > peak { 0 } else { still + 1 };
        peak = peak.max(now);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(in_flight() <= f64::from(64 << 20), "{}", in_flight());
    let grown = peak - before;
    assert!(grown < MEMORY_GROWTH_MAX, "grown by {grown} bytes");
    // Small messages have a lane of their own.
    fixture.assert_serves("t", &mut records).await;
    assert!(http_get(fixture.addresses.http, "/health/ready").unwrap().starts_with("HTTP/1.1 200"));
    clients.shutdown_background();
    eventually("the memory is given back", async || in_flight() == 0.0).await;
    fixture.assert_serves("t", &mut records).await;
}
