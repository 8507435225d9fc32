//! Every command of the built binary against a broker on a real disk, through restarts of it.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use headwater_broker::config::Config;
use headwater_broker::env::{OsEntropy, SystemClock, TcpNetwork};
use headwater_broker::{Broker, Env, NodeError, StartError};
use headwater_storage::data_dir::OpenError;
use headwater_storage::disk::RealDisk;
use serde_json::Value;

/// A broker in this process, and the tool beside it.
struct Fixture {
    dir: tempfile::TempDir,
    broker: Option<Broker>,
    address: SocketAddr,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(&dir.path().join("data"), "127.0.0.1:0".parse().unwrap()).await;
        let address = broker.addresses().grpc;
        Self { dir, broker: Some(broker), address }
    }

    async fn stop(&mut self) {
        self.broker.take().unwrap().shutdown().await;
    }

    async fn start_again(&mut self) {
        self.broker = Some(start(&self.dir.path().join("data"), self.address).await);
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamctl"));
        command.args(args).env_clear().env("HOME", self.dir.path());
        command.env("HEADWATER_BROKERS", self.address.to_string()).stdin(Stdio::null());
        command
    }

    async fn run_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let input = input.to_vec();
        let run = move || {
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // A command that reads no input may close it.
            let _ = stdin.write_all(&input);
            drop(stdin);
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// Standard output of a command that must succeed.
    async fn ok(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.run_with(args, input).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, args: &[&str], input: &[u8]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat(), input).await).unwrap()
    }

    /// Exit code and error of a command that must fail.
    async fn fails(&self, args: &[&str], input: &[u8]) -> (i32, Value) {
        let output = self.run_with(&[args, &["-o", "json"]].concat(), input).await;
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["exit_code"].as_i64(), output.status.code().map(i64::from));
        (output.status.code().unwrap(), error["error"].clone())
    }
}

/// How often these brokers look for rot.
const SCRUB_INTERVAL_MS: u64 = 200;

async fn start(data_dir: &Path, grpc: SocketAddr) -> Broker {
    let free = "127.0.0.1:0".parse().unwrap();
    let mut config = Config::default();
    config.broker.data_dir = data_dir.to_owned();
    config.broker.kafka_addr = free;
    config.broker.grpc_addr = grpc;
    config.broker.peer_addr = free;
    config.broker.http_addr = free;
    config.storage.scrub_interval_ms = SCRUB_INTERVAL_MS;
    let env = Env {
        disk: Arc::new(RealDisk::new()),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy::new().unwrap()),
        network: Arc::new(TcpNetwork::default()),
    };
    loop {
        match Broker::start(config.clone(), env.clone()).await {
            Ok(broker) => return broker,
            // Within one process the last task of the broker before may still be about to give the directory up.
            Err(StartError::Node(NodeError::DataDir(OpenError::InUse { .. }))) => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_described_altered_and_deleted() {
    let f = Fixture::new().await;
    f.ok(&["topic", "create", "t", "--partitions", "2", "--config", "retention.ms=1000000"], b"").await;
    let (code, error) = f.fails(&["topic", "create", "t"], b"").await;
    assert_eq!((code, error["kafka_error"].as_str()), (4, Some("TOPIC_ALREADY_EXISTS")));
    f.ok(&["topic", "create", "t", "--if-not-exists"], b"").await;
    f.ok(&["topic", "create", "never", "--dry-run"], b"").await;
    assert_eq!(f.json(&["topic", "list"], b"").await.as_array().unwrap().len(), 1);

    f.ok(&["topic", "alter", "t", "--config", "retention.ms=5", "--dry-run"], b"").await;
    let described = f.json(&["topic", "describe", "t"], b"").await;
    assert_eq!(described["configs"]["retention.ms"], "1000000");
    assert_eq!(described["partitions"][1]["high_watermark"], 0);
    f.ok(&["topic", "alter", "t", "--unset", "retention.ms", "--partitions", "3"], b"").await;
    let described = f.json(&["topic", "describe", "t"], b"").await;
    assert_eq!(described["configs"], serde_json::json!({}));
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3);
    let configs = f.json(&["topic", "configs", "t", "retention.ms"], b"").await;
    assert_eq!((configs[0]["is_default"].as_bool(), configs.as_array().unwrap().len()), (Some(true), 1));

    assert_eq!(f.fails(&["topic", "describe", "none"], b"").await.0, 3);
    assert_eq!(f.fails(&["topic", "delete", "t"], b"").await.0, 2, "not confirmed");
    assert_eq!(f.fails(&["topic", "delete", "t", "none", "--yes"], b"").await.0, 7);
    f.ok(&["topic", "delete", "t", "--yes", "--if-exists"], b"").await;
    let cluster = f.json(&["cluster", "info"], b"").await;
    assert_eq!(
        (cluster["topics"].as_i64(), cluster["brokers"][0]["grpc_address"].as_str()),
        (Some(0), Some(f.address.to_string().as_str()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_in_the_order_of_its_key() {
    let f = Fixture::new().await;
    f.ok(&["topic", "create", "t", "--partitions", "4"], b"").await;
    let lines: Vec<String> =
        (0..5_000).map(|n| format!("{{\"key\": \"k{}\", \"n\": {n}, \"none\": null}}", n % 37)).collect();
    let input = lines.join("\n");
    let report = f.json(&["produce", "t", "--key-field", "key", "-z", "lz4"], input.as_bytes()).await;
    assert_eq!((report["records"].as_i64(), report["failed"].as_i64()), (Some(5_000), Some(0)));

    let out = f.ok(&["consume", "t"], b"").await;
    let mut sorted: Vec<&str> = out.lines().collect();
    let position = |line: &str| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
    let key = |line: &str| position(line) % 37;
    for k in 0..37 {
        let of_key: Vec<u64> =
            sorted.iter().filter(|line| key(line) == k).map(|line| position(line)).collect();
        assert!(of_key.is_sorted(), "key {k}");
    }
    sorted.sort_by_key(|line| position(line));
    assert_eq!(sorted, lines, "byte for byte, nothing lost, nothing doubled");

    assert_eq!(f.ok(&["consume", "t", "--from", "end-2"], b"").await.lines().count(), 8);
    assert_eq!(f.ok(&["consume", "t", "--max", "7"], b"").await.lines().count(), 7);
    assert_eq!(f.ok(&["consume", "t", "-p", "1", "--until", "3"], b"").await.lines().count(), 3);
    assert_eq!(f.ok(&["consume", "t", "--from", "1h-ago"], b"").await.lines().count(), 5_000);
    assert_eq!(f.ok(&["consume", "t", "--until", "1h-ago"], b"").await, "");
    let deleted = f.json(&["records", "delete", "t", "--before", "end", "-p", "0", "--yes"], b"").await;
    let left = 5_000 - deleted[0]["records"].as_u64().unwrap();
    assert_eq!(f.ok(&["consume", "t"], b"").await.lines().count() as u64, left);
    assert_eq!(f.fails(&["consume", "t", "-p", "9"], b"").await.0, 3);
    assert_eq!(f.fails(&["consume", "none"], b"").await.0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_copies_a_topic_bytes_and_all() {
    let f = Fixture::new().await;
    f.ok(&["topic", "create", "a", "b", "--partitions", "2"], b"").await;
    f.ok(&["produce", "a", "--key-separator", ":", "-H", "h=1"], b"k:\xff\x00\nno key\nk:\n").await;
    let envelopes = f.ok(&["consume", "a", "-o", "jsonl"], b"").await;
    assert_eq!(envelopes.lines().count(), 3);
    assert!(envelopes.contains("\"value_encoding\":\"base64\""));
    f.ok(&["produce", "b", "--format", "jsonl", "--keep-partition"], envelopes.as_bytes()).await;
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&f.ok(&["consume", "b", "-o", "jsonl"], b"").await), sorted(&envelopes));
    let template = f.ok(&["consume", "b", "--template", r"{header:h}{value:len}\c"], b"").await;
    let mut lengths: Vec<&str> = template.split_terminator('1').filter(|s| !s.is_empty()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, ["0", "2", "6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_stops_the_input_and_what_came_before_it_is_reported() {
    let f = Fixture::new().await;
    f.ok(&["topic", "create", "t"], b"").await;
    let (code, error) =
        f.fails(&["produce", "t", "--key-field", "k"], b"{\"k\":1}\n{\"k\":2}\nbroken\n{}\n").await;
    assert_eq!(code, 7, "partial");
    assert!(error["message"].as_str().unwrap().contains("standard input line 3"), "{error}");
    assert_eq!(f.ok(&["consume", "t"], b"").await.lines().count(), 2);
    assert_eq!(f.fails(&["produce", "t", "/nonexistent"], b"").await.0, 3);
    assert_eq!(f.fails(&["produce", "none"], b"x\n").await.0, 3);
    assert_eq!(f.fails(&["produce", "t", "-p", "5"], b"x\n").await.0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_under_load_can_be_dumped() {
    let f = Fixture::new().await;
    f.ok(&["topic", "create", "t", "--config", "segment.bytes=1048576"], b"").await;
    let bench = ["bench", "produce", "t", "--records", "40000", "--batch-records", "20", "-q"];
    let mut load = f.command(&bench).spawn().unwrap();
    let mut dumps = 0;
    while load.try_wait().unwrap().is_none() || dumps < 2 {
        f.ok(&["dump", f.data().to_str().unwrap(), "-q"], b"").await;
        dumps += 1;
    }
    assert!(load.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_shown_read_around_and_given_up_only_on_command() {
    let mut f = Fixture::new().await;
    f.ok(&["topic", "create", "t", "--config", "segment.bytes=1048576"], b"").await;
    let input: String = (0..20_000).map(|n| format!("{n:0100}\n")).collect();
    f.ok(&["produce", "t"], input.as_bytes()).await;
    assert_eq!(f.json(&["records", "accept-loss", "t"], b"").await, serde_json::json!([]));
    f.stop().await;
    let mut logs: Vec<PathBuf> = Vec::new();
    for group in std::fs::read_dir(f.data().join("groups")).unwrap() {
        let files = std::fs::read_dir(group.unwrap().path()).unwrap().map(|file| file.unwrap().path());
        logs.extend(files.filter(|path| path.extension().is_some_and(|e| e == "log")));
    }
    let mut sealed: Vec<_> = logs.into_iter().filter(|log| log.metadata().unwrap().len() > 500_000).collect();
    sealed.sort();
    let mut bytes = std::fs::read(&sealed[0]).unwrap();
    bytes[400_000] ^= 1;
    std::fs::write(&sealed[0], bytes).unwrap();
    let (code, error) = f.fails(&["dump", f.data().to_str().unwrap()], b"").await;
    assert_eq!(code, 1);
    assert!(error["message"].as_str().unwrap().contains(sealed[0].file_name().unwrap().to_str().unwrap()));

    f.start_again().await;
    let damage = loop {
        let described = f.json(&["topic", "describe", "t"], b"").await;
        if let Some(damage) = described["partitions"][0]["damage"].as_str() {
            break damage.to_string();
        }
        tokio::time::sleep(std::time::Duration::from_millis(SCRUB_INTERVAL_MS)).await;
    };
    assert!(damage.contains("offsets"), "{damage}");
    assert_eq!(f.fails(&["produce", "t", "--delivery-timeout", "300ms"], b"x\n").await.0, 6);
    assert_eq!(f.fails(&["records", "accept-loss", "t"], b"").await.0, 2, "not confirmed");
    assert_eq!(f.fails(&["records", "accept-loss", "t", "-p", "7", "--yes"], b"").await.0, 4, "whole");
    f.ok(&["records", "accept-loss", "t", "--yes"], b"").await;
    f.ok(&["produce", "t"], b"after\n").await;
    let left = f.ok(&["consume", "t"], b"").await;
    assert!(left.ends_with("after\n") && left.lines().count() > 1_000 && left.lines().count() < 20_001);
}

/// Sends lines while the broker is stopped and started again; ends the input when `restarts` are done.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_broker_is_ridden_out_on_both_sides() {
    let mut f = Fixture::new().await;
    f.ok(&["topic", "create", "t", "--partitions", "3"], b"").await;
    let mut follower = Lines::of(f.command(&["consume", "t", "--from", "start", "--follow"]));
    let mut producer = f.command(&["produce", "t", "--key-separator", "=", "-o", "json"]);
    let mut producer = producer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = producer.stdin.take().unwrap();
    let mut sent = 0;
    let mut send = |count: usize| {
        for _ in 0..count {
            writeln!(stdin, "key{}={sent}", sent % 5).unwrap();
            sent += 1;
        }
        stdin.flush().unwrap();
    };
    send(1_000);
    let mut seen = follower.take(1_000);
    for _ in 0..2 {
        // Some of these are on their way when the broker goes.
        send(500);
        f.stop().await;
        send(500);
        f.start_again().await;
        seen.extend(follower.take(1_000));
    }
    drop(stdin);
    let output = tokio::task::spawn_blocking(move || producer.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["records"], 3_000);

    let mut numbers: Vec<usize> = seen.iter().map(|line| line.parse().unwrap()).collect();
    for key in 0..5 {
        assert!(numbers.iter().filter(|n| *n % 5 == key).is_sorted(), "key {key}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..3_000).collect::<Vec<_>>());
    assert_eq!(f.ok(&["consume", "t"], b"").await.lines().count(), 3_000);

    f.stop().await;
    let dump = f.json(&["dump", f.data().to_str().unwrap()], b"").await;
    assert_eq!(dump["intact"], true);
}

/// The standard output of a command that does not end by itself.
struct Lines {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Lines {
    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn take(&mut self, count: usize) -> Vec<String> {
        tokio::task::block_in_place(|| self.lines.by_ref().take(count).map(Result::unwrap).collect())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn benchmarks_report_what_scripts_read() {
    let f = Fixture::new().await;
    f.ok(&["topic", "create", "t", "--partitions", "2"], b"").await;
    assert_eq!(f.fails(&["bench", "consume", "t", "--seconds", "1"], b"").await.0, 4, "empty");
    let load = ["--producers", "2", "--record-bytes", "100", "--batch-records", "10"];
    let produced = f.json(&[&["bench", "produce", "t", "--records", "1005"], &load[..]].concat(), b"").await;
    assert_eq!(produced["records"], 1_005);
    for field in ["mb_per_s", "records_per_s", "p50_ms", "p99_ms", "p999_ms", "client_cpu_seconds_per_gb"] {
        assert!(produced[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {produced}");
    }
    let consumed = f.json(&["bench", "consume", "t", "--consumers", "2", "--records", "3000"], b"").await;
    assert!(consumed["records"].as_u64().unwrap() >= 3_000, "it goes round: {consumed}");
    assert!(consumed["mb_per_s"].as_f64().unwrap() > 0.0);

    let open = ["bench", "produce", "t", "--records", "500", "--rate-mb", "1"];
    let open = f.json(&[&open, &load[..]].concat(), b"").await;
    assert!(open["seconds"].as_f64().unwrap() > 0.04, "50 KB at 1 MB/s: {open}");
    let e2e = ["bench", "e2e", "t", "--records", "500", "--rate-mb", "1", "--warmup-seconds", "0"];
    let e2e = f.json(&[&e2e, &load[..]].concat(), b"").await;
    assert_eq!((e2e["records"].as_i64(), e2e["missing"].as_i64()), (Some(500), Some(0)));
    assert!(e2e["p50_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(f.json(&["topic", "describe", "t"], b"").await["records"], 2_005);
}
