//! The `headwater` process: exit codes, one line for each error, signals.

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};

const PATIENCE: Duration = Duration::from_secs(20);
const FREE_PORTS: [&str; 4] = [
    "--kafka-addr=127.0.0.1:0",
    "--grpc-addr=127.0.0.1:0",
    "--peer-addr=127.0.0.1:0",
    "--http-addr=127.0.0.1:0",
];

fn headwater(data_dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command
        .current_dir(data_dir.path())
        .args(FREE_PORTS)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs to the end: exit code, standard output, standard error.
async fn run(command: &mut Command) -> (i32, String, String) {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Starts, and waits for the line that says so; the log lines up to it are returned.
async fn start(command: &mut Command) -> (Child, Lines<BufReader<ChildStderr>>, serde_json::Value) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the broker starts");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "ready" {
                return event;
            }
        }
    };
    let ready = tokio::time::timeout(PATIENCE, ready).await.unwrap();
    (child, lines, ready)
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Stops it in good order.
async fn stop(mut child: Child) {
    signal(&child, Signal::TERM);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn what_cannot_start_says_why_in_one_line_with_its_own_exit_code() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("--http-addr={}", taken.local_addr().unwrap());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--node-id=x"], 2, "headwater: `node_id`: expected a whole number"),
        (&["--config=missing.toml"], 2, "headwater: cannot read the configuration file missing.toml"),
        (&["--no-such-flag"], 2, "unexpected argument"),
        (&[&taken], 3, "headwater: cannot listen on 127.0.0.1:"),
        (&["--data-dir=file/below"], 6, "headwater: "),
    ];
    for (flags, code, expected) in cases {
        let mut command = headwater(&dir);
        // A flag given twice would be refused by itself.
        if flags[0] == taken {
            command = Command::new(env!("CARGO_BIN_EXE_headwater"));
            command.current_dir(dir.path()).args(&FREE_PORTS[..3]).env_clear().kill_on_drop(true);
        }
        let (exit, _, stderr) = run(command.args(flags)).await;
        assert_eq!(exit, code, "{flags:?}: {stderr}");
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
        if code != 2 {
            assert_eq!(stderr.lines().filter(|line| line.starts_with("headwater: ")).count(), 1, "{stderr}");
        }
    }
}

#[tokio::test]
async fn the_configuration_is_printed_and_nothing_is_started() {
    let dir = TempDir::new().unwrap();
    let (exit, stdout, _) = run(headwater(&dir).args(["--print-config", "--node-id=7"])).await;
    assert_eq!(exit, 0);
    assert!(stdout.contains("node_id = 7  # flag --node-id\n"), "{stdout}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no data directory");
}

async fn is_ready(http: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(http).await else { return false };
    let request = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn a_log_that_takes_nothing_stops_nothing() {
    let dir = TempDir::new().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.current_dir(dir.path()).args(&FREE_PORTS[..3]).arg(format!("--http-addr={http}")).env_clear();
    let child = command.stderr(Stdio::from(full)).kill_on_drop(true).spawn().unwrap();
    let ready = async {
        while !is_ready(http).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    stop(child).await;
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_with_zero_and_the_log_names_every_address() {
    for stop in [Signal::TERM, Signal::INT] {
        let dir = TempDir::new().unwrap();
        let (mut child, mut lines, ready) = start(&mut headwater(&dir)).await;
        for listener in ["kafka", "grpc", "peer", "http"] {
            let addr: std::net::SocketAddr = ready[listener].as_str().unwrap().parse().unwrap();
            assert_ne!(addr.port(), 0);
        }
        assert!(dir.path().join("headwater-data").is_dir(), "the default data directory");
        signal(&child, stop);
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
        let mut last = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            last = line;
        }
        assert!(last.contains("\"stopped\""), "{last}");
    }
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_and_the_owner_goes_on() {
    let dir = TempDir::new().unwrap();
    let (mut owner, _lines, _) = start(&mut headwater(&dir)).await;
    let (exit, _, stderr) = run(&mut headwater(&dir)).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(stderr.contains("in use"), "{stderr}");
    assert!(owner.try_wait().unwrap().is_none(), "the owner runs");
    signal(&owner, Signal::KILL);
    owner.wait().await.unwrap();
    let (next, _lines, _) = start(&mut headwater(&dir)).await;
    stop(next).await;
}

#[tokio::test]
async fn a_data_directory_of_another_version_is_refused_and_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    let (child, _lines, _) = start(&mut headwater(&dir)).await;
    stop(child).await;
    let format = dir.path().join("headwater-data/format");
    std::fs::write(&format, "headwater data directory, format 999\n").unwrap();
    let (exit, _, stderr) = run(&mut headwater(&dir)).await;
    assert_eq!(exit, 5, "{stderr}");
    assert!(stderr.contains("999"), "{stderr}");
    assert!(std::fs::read_to_string(format).unwrap().contains("999"));
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_node_id() {
    let dir = TempDir::new().unwrap();
    let (child, _lines, _) = start(&mut headwater(&dir)).await;
    stop(child).await;
    let (exit, _, stderr) = run(headwater(&dir).arg("--node-id=2")).await;
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains("belongs to broker 1"), "{stderr}");
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once() {
    let dir = TempDir::new().unwrap();
    let mut command = headwater(&dir);
    let (mut child, mut lines, ready) = start(command.env("HEADWATER_DRAIN_TIMEOUT_MS", "3600000")).await;
    // A peer that never answers keeps the drain waiting.
    let addr = ready["grpc"].as_str().unwrap();
    let mut silent = tokio::net::TcpStream::connect(addr).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // The broker's settings: the connection is one of HTTP/2 from here on.
    silent.read_exact(&mut [0; 9]).await.unwrap();
    signal(&child, Signal::TERM);
    let draining = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("draining") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, draining).await.unwrap();
    signal(&child, Signal::INT);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(128 + Signal::INT.as_raw()));
}
