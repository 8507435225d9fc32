//! A cluster of broker processes on this machine, for chaos, failover and comparisons.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{Addresses, BrokerProcess, binary};

/// Brokers 1 to n over loopback; killed when dropped.
#[derive(Debug)]
pub struct LocalCluster {
    nodes: Vec<Node>,
    members: String,
    extra: Vec<String>,
}

#[derive(Debug)]
struct Node {
    id: usize,
    data_dir: PathBuf,
    addresses: Addresses,
    /// Absent while it is down.
    process: Option<BrokerProcess>,
}

impl LocalCluster {
    /// Starts `count` brokers under `dir`, and waits until all are ready. `extra`: flags that each is given.
    pub fn start(dir: &Path, count: usize, extra: &[&str]) -> io::Result<Self> {
        let nodes: Vec<Node> = (1..=count)
            .map(|id| {
                let (data_dir, addresses) = (dir.join(format!("node-{id}")), Addresses::free()?);
                Ok(Node { id, data_dir, addresses, process: None })
            })
            .collect::<io::Result<_>>()?;
        let members: Vec<_> =
            nodes.iter().map(|node| format!("{}@{}", node.id, node.addresses.peer)).collect();
        let extra = extra.iter().map(ToString::to_string).collect();
        let mut cluster = Self { nodes, members: members.join(","), extra };
        for id in 1..=count {
            cluster.spawn(id)?;
        }
        for node in &mut cluster.nodes {
            if let Some(process) = &mut node.process {
                process.wait_ready()?;
            }
        }
        Ok(cluster)
    }

    /// Starts broker `id` again, or one that `start` did not; does not wait.
    pub fn spawn(&mut self, id: usize) -> io::Result<()> {
        let (members, extra) = (self.members.clone(), self.extra.clone());
        let node = self.node_mut(id)?;
        let id = id.to_string();
        let mut flags = vec!["--node-id", &id, "--cluster", &members];
        flags.extend(extra.iter().map(String::as_str));
        node.process = Some(BrokerProcess::spawn(&node.data_dir, node.addresses, &flags)?);
        Ok(())
    }

    /// The broker, where it runs.
    pub fn process(&self, id: usize) -> Option<&BrokerProcess> {
        self.nodes.get(id.checked_sub(1)?)?.process.as_ref()
    }

    pub fn wait_ready(&mut self, id: usize) -> io::Result<()> {
        match &mut self.node_mut(id)?.process {
            Some(process) => process.wait_ready(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, id: usize) -> io::Result<()> {
        self.node_mut(id)?.process.take().map_or(Ok(()), BrokerProcess::kill)
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self, id: usize) -> io::Result<()> {
        self.node_mut(id)?.process.take().map_or(Ok(()), |process| process.stop().map(|_| ()))
    }

    pub fn data_dir(&self, id: usize) -> io::Result<&Path> {
        let node = id.checked_sub(1).and_then(|index| self.nodes.get(index));
        node.map(|node| node.data_dir.as_path()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The gRPC addresses of all brokers, separated by commas.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(|node| node.addresses.grpc.to_string()).collect::<Vec<_>>().join(",")
    }

    pub fn ids(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.nodes.len()
    }

    /// CPU seconds of the brokers that run, together.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(BrokerProcess::cpu_seconds).sum()
    }

    /// Runs `streamctl -o json` against the cluster and returns what it printed.
    pub fn streamctl(&self, arguments: &[&str]) -> io::Result<Value> {
        let output = Command::new(binary("streamctl")?)
            .args(arguments)
            .args(["-o", "json", "--brokers", &self.bootstrap()])
            .output()?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("streamctl {arguments:?}: {reason}")));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn node_mut(&mut self, id: usize) -> io::Result<&mut Node> {
        let node = id.checked_sub(1).and_then(|index| self.nodes.get_mut(index));
        node.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
