//! The commands for a cluster, of the built binary, against three brokers on real disks.

#![allow(clippy::unwrap_used)]

#[path = "../../broker/tests/ports/mod.rs"]
mod ports;

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_broker::config::{Config, NodeList};
use headwater_broker::env::{OsEntropy, SystemClock, TcpNetwork};
use headwater_broker::{Broker, Env};
use headwater_storage::disk::RealDisk;
use serde_json::{Value, json};

use ports::free_address;

/// Brokers 1, 2 and 3 in this process, and the tool beside them.
struct Cluster {
    dir: tempfile::TempDir,
    brokers: Vec<Broker>,
    /// Of the second one; any of them would do.
    address: SocketAddr,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        let nodes = peers.iter().zip(1..).map(|(peer, id)| (id, peer.to_string().parse().unwrap()));
        let nodes = NodeList(nodes.collect());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut starting = Vec::new();
        for (peer, id) in peers.iter().zip(1..) {
            let mut config = Config::default();
            config.broker.node_id = id;
            config.broker.data_dir = dir.path().join(id.to_string());
            config.broker.kafka_addr = any;
            config.broker.grpc_addr = any;
            config.broker.http_addr = any;
            config.broker.peer_addr = *peer;
            config.cluster.nodes = nodes.clone();
            let env = Env {
                disk: Arc::new(RealDisk::new()),
                clock: Arc::new(SystemClock),
                entropy: Arc::new(OsEntropy::new().unwrap()),
                network: Arc::new(TcpNetwork::default()),
            };
            starting.push(tokio::spawn(Broker::start(config, env)));
        }
        let mut brokers = Vec::new();
        for broker in starting {
            brokers.push(broker.await.unwrap().unwrap());
        }
        let address = brokers[1].addresses().grpc;
        Self { dir, brokers, address }
    }

    async fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamctl"));
        command.args(args).env_clear().env("HOME", self.dir.path()).stdin(Stdio::null());
        command.env("HEADWATER_BROKERS", self.address.to_string());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat()).await).unwrap()
    }

    /// Exit code and message of a command that must fail.
    async fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(&[args, &["-o", "json"]].concat()).await;
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        (output.status.code().unwrap(), error["error"]["message"].as_str().unwrap().to_owned())
    }

    /// Waits until what a command prints is as it should be.
    async fn eventually(&self, args: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..300 {
            let seen = self.json(args).await;
            if wanted(&seen) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{args:?} never showed what was waited for: {}", self.ok(args).await);
    }
}

fn ids(value: &Value, field: &str) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|item| item[field].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_shown_changed_and_drained() {
    let mut c = Cluster::start().await;
    topics_are_created_and_listed(&c).await;
    replicas_are_added_and_moved(&c).await;
    leaders_are_handed_over(&c).await;
    nodes_are_drained_and_not_removed(&c).await;
    nothing_is_lost_that_could_be_given_up(&c).await;
    one_broker_left_says_what_it_can(&mut c).await;
    for broker in c.brokers {
        broker.shutdown().await;
    }
}

async fn topics_are_created_and_listed(c: &Cluster) {
    let calm = |status: &Value| {
        let brokers = status["brokers"].as_array().unwrap();
        brokers.len() == 3 && brokers.iter().all(|b| b["live"] == true) && status["controller_id"] != -1
    };
    c.eventually(&["cluster", "status"], calm).await;
    c.ok(&["topic", "create", "orders", "--partitions", "6", "--replicas", "3"]).await;
    c.ok(&["topic", "create", "single", "--partitions", "1", "--replicas", "1"]).await;
    let (code, _) = c.fails(&["topic", "create", "many", "--replicas", "9"]).await;
    assert_eq!(code, 1);
    let led = |list: &Value| list.as_array().unwrap().iter().all(|p| p["leader"].is_i64());
    let list = c.eventually(&["partition", "list", "orders"], led).await;
    assert_eq!(list.as_array().unwrap().len(), 6);
    assert_eq!(list[0]["replicas"].as_array().unwrap().len(), 3);
    c.eventually(&["partition", "list", "--unhealthy"], |list| list == &Value::Array(vec![])).await;
    assert!(c.ok(&["partition", "list", "--unhealthy"]).await.contains("healthy"));
    assert!(c.ok(&["cluster", "status"]).await.contains("all is well"));
}

async fn replicas_are_added_and_moved(c: &Cluster) {
    let altered = c.json(&["topic", "alter", "single", "--replicas", "3"]).await;
    assert_eq!(
        (altered["changes"][0]["before"].as_i64(), altered["status"].as_str()),
        (Some(1), Some("altered"))
    );
    let list = c.json(&["partition", "list", "single"]).await;
    assert_eq!(list[0]["replicas"].as_array().unwrap().len(), 3);
    let altered = c.json(&["topic", "alter", "single", "--replicas", "3"]).await;
    assert_eq!(altered["status"], "unchanged");
    let list = c.json(&["partition", "list", "single", "orders/3"]).await;
    assert_eq!(ids(&list, "partition"), [3, 0]);
    assert_eq!(c.fails(&["partition", "list", "orders/77"]).await.0, 3);
    let (code, said) = c.fails(&["partition", "list", "nosuch"]).await;
    assert!(code == 3 && said.starts_with("list partitions: there is no topic 'nosuch'"), "{said}");
    let (code, said) = c.fails(&["topic", "alter", "nosuch", "--replicas", "3"]).await;
    assert!(code == 3 && said.starts_with("alter topic nosuch: there is no topic"), "{said}");
    let moved = c.json(&["partition", "move", "orders/0", "--to", "2"]).await;
    assert_eq!(
        (moved[0]["status"].as_str(), moved[0]["after"].to_string()),
        (Some("done"), "[2]".to_owned())
    );
    let list = c.json(&["partition", "list", "orders"]).await;
    assert_eq!(ids(&list[0]["replicas"], "broker"), [2]);
    c.ok(&["partition", "move", "orders/0", "--to", "3,1,2"]).await;
    // Asked for again, it is there already.
    c.ok(&["partition", "move", "orders/0", "--to", "3,1,2"]).await;
    let (code, said) = c.fails(&["partition", "move", "orders/0", "--to", "1,9"]).await;
    assert!(code == 3 && said.contains("broker 9"), "{said}");
    assert_eq!(c.fails(&["leader", "transfer", "orders/0", "--to", "9"]).await.0, 3);
    assert_eq!(c.fails(&["partition", "recover", "orders/0", "--survivor", "9"]).await.0, 3);
    let (code, said) = c.fails(&["partition", "move", "orders/0", "--to", "1,1,3"]).await;
    assert!(code == 2 && said.contains("broker 1 is named twice"), "{said}");
    let (code, said) = c.fails(&["partition", "move", "orders/0", "--cancel"]).await;
    assert!(code == 4 && said.contains("no move of orders/0 is under way"), "{said}");
    assert_eq!(c.fails(&["partition", "move", "orders/77", "--to", "1"]).await.0, 3);
}

async fn leaders_are_handed_over(c: &Cluster) {
    c.ok(&["leader", "transfer", "orders/1", "--to", "3"]).await;
    c.eventually(&["partition", "list", "orders"], |list| list[1]["leader"] == 3).await;
    c.ok(&["leader", "balance", "--dry-run"]).await;
}

async fn nodes_are_drained_and_not_removed(c: &Cluster) {
    let drained = c.json(&["node", "drain", "2"]).await;
    assert_eq!(drained["status"], "drained");
    let status = c.json(&["cluster", "status"]).await;
    let two = status["brokers"].as_array().unwrap().iter().find(|b| b["id"] == 2).unwrap().clone();
    assert_eq!((two["state"].as_str(), two["leaders"].as_i64()), (Some("draining"), Some(0)));
    c.ok(&["node", "drain", "2", "--undo"]).await;
    assert_eq!(c.fails(&["node", "drain", "9"]).await.0, 3);
    c.ok(&["topic", "create", "lone", "--partitions", "1", "--replicas", "1"]).await;
    let led = |list: &Value| list[0]["leader"].is_i64();
    let lone = c.eventually(&["partition", "list", "lone"], led).await;
    let holder = lone[0]["leader"].to_string();
    let (code, said) = c.fails(&["node", "drain", &holder]).await;
    assert!(code == 4 && said.contains("only replica of lone/0"), "{said}");
    c.ok(&["node", "drain", &holder, "--undo"]).await;
    c.ok(&["topic", "delete", "lone", "--yes"]).await;
    assert_eq!(c.fails(&["node", "remove", "2"]).await.0, 2, "not confirmed");
    let (code, _) = c.fails(&["node", "remove", "2", "--yes"]).await;
    assert_eq!(code, 1, "three replicas do not fit on two brokers");
}

async fn nothing_is_lost_that_could_be_given_up(c: &Cluster) {
    let recover = ["partition", "recover", "orders/2", "orders/3", "--accept-loss", "--yes"];
    let (code, said) = c.fails(&recover).await;
    assert!(code != 0 && said.contains("orders/2") && said.contains("orders/3"), "{said}");
    assert_eq!(c.json(&["partition", "recover", "--all"]).await, json!([]));
    assert_eq!(c.fails(&["partition", "recover", "--all", "orders/2"]).await.0, 2, "which is it");
    assert_eq!(c.fails(&["partition", "recover"]).await.0, 2, "neither");
}

/// The one that is named to the tool.
async fn one_broker_left_says_what_it_can(c: &mut Cluster) {
    for gone in [2, 0] {
        c.brokers.remove(gone).shutdown().await;
    }
    let status = c.json(&["cluster", "status", "--timeout", "4s"]).await;
    assert_eq!(status["brokers"].as_array().unwrap().len(), 3);
    let input = c.dir.path().join("input");
    std::fs::write(&input, "one\n").unwrap();
    let started = Instant::now();
    let produce = ["produce", "orders", input.to_str().unwrap(), "-p", "1", "--delivery-timeout", "2s"];
    let (code, said) = c.fails(&produce).await;
    assert!(code == 6 && said.starts_with("not acknowledged") && said.contains("orders/1"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}: {said}", started.elapsed());

    // Its partitions, of orders and single, could be recovered, once there is a controller to say so.
    let all = |seen: &Value| seen.as_array().unwrap().len() == 7;
    let outlooks = c.eventually(&["partition", "recover", "--all"], all).await;
    assert_eq!((&outlooks[0]["chosen"], &outlooks[0]["status"]), (&json!(2), &json!("preview")));
    let (code, said) = c.fails(&["partition", "recover", "--all", "--accept-loss", "--yes"]).await;
    assert!(code == 6 && said.contains("no controller"), "{said}");
}
