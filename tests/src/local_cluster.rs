//! A cluster of broker processes on this machine, for chaos, failover and comparisons.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Addresses, BrokerProcess, binary, send_signal};

/// Brokers 1 to n over loopback; killed when dropped.
#[derive(Debug)]
pub struct LocalCluster {
    nodes: Vec<Member>,
    /// What each is told of the others.
    members: String,
}

/// Where a broker lives, and how it is started.
#[derive(Debug)]
pub struct Node {
    pub data_dir: PathBuf,
    pub addresses: Addresses,
    /// What its peers connect to.
    pub advertised_peer: SocketAddr,
    pub flags: Vec<String>,
}

#[derive(Debug)]
struct Member {
    node: Node,
    /// Absent while it is down.
    process: Option<BrokerProcess>,
}

impl LocalCluster {
    /// Starts `count` brokers under `dir`, and waits until all are ready. `flags`: what each is given.
    pub fn start(dir: &Path, count: usize, flags: &[&str]) -> io::Result<Self> {
        let node = |id| {
            let addresses = Addresses::free()?;
            Ok(Node {
                data_dir: dir.join(format!("node-{id}")),
                addresses,
                advertised_peer: addresses.peer,
                flags: flags.iter().map(ToString::to_string).collect(),
            })
        };
        Self::start_nodes((1..=count).map(node).collect::<io::Result<_>>()?)
    }

    /// Starts brokers 1 to n, and waits until all are ready.
    pub fn start_nodes(nodes: Vec<Node>) -> io::Result<Self> {
        let member = |(index, node): (usize, &Node)| format!("{}@{}", index + 1, node.advertised_peer);
        let members = nodes.iter().enumerate().map(member).collect::<Vec<_>>().join(",");
        let nodes = nodes.into_iter().map(|node| Member { node, process: None }).collect();
        let mut cluster = Self { nodes, members };
        for id in cluster.ids() {
            cluster.spawn(id)?;
        }
        for id in cluster.ids() {
            cluster.wait_ready(id)?;
        }
        Ok(cluster)
    }

    /// Starts broker `id` again, or one that `start` did not; does not wait.
    pub fn spawn(&mut self, id: usize) -> io::Result<()> {
        let members = self.members.clone();
        let Member { node, process } = self.member_mut(id)?;
        let id = id.to_string();
        let mut flags = vec!["--node-id", &id, "--cluster", &members];
        flags.extend(node.flags.iter().map(String::as_str));
        *process = Some(BrokerProcess::spawn(&node.data_dir, node.addresses, &flags)?);
        Ok(())
    }

    /// The broker, where it runs.
    pub fn process(&self, id: usize) -> Option<&BrokerProcess> {
        self.nodes.get(id.checked_sub(1)?)?.process.as_ref()
    }

    pub fn wait_ready(&mut self, id: usize) -> io::Result<()> {
        match &mut self.member_mut(id)?.process {
            Some(process) => process.wait_ready(),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, id: usize) -> io::Result<()> {
        self.member_mut(id)?.process.take().map_or(Ok(()), BrokerProcess::kill)
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self, id: usize) -> io::Result<()> {
        self.member_mut(id)?.process.take().map_or(Ok(()), |process| process.stop().map(|_| ()))
    }

    pub fn data_dir(&self, id: usize) -> io::Result<&Path> {
        let node = id.checked_sub(1).and_then(|index| self.nodes.get(index));
        node.map(|member| member.node.data_dir.as_path()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The gRPC addresses of all brokers, separated by commas.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(|member| member.node.addresses.grpc.to_string()).collect::<Vec<_>>().join(",")
    }

    pub fn ids(&self) -> impl Iterator<Item = usize> + use<> {
        1..=self.nodes.len()
    }

    /// CPU seconds of the brokers that run, together.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        self.nodes.iter().filter_map(|member| member.process.as_ref()).map(BrokerProcess::cpu_seconds).sum()
    }

    /// Runs `streamctl -o json` against the cluster and returns what it printed.
    pub fn streamctl(&self, arguments: &[&str]) -> io::Result<Value> {
        self.begin_streamctl(arguments)?.printed()
    }

    /// The same, in the background.
    pub fn begin_streamctl(&self, arguments: &[&str]) -> io::Result<Streamctl> {
        let process = Command::new(binary("streamctl")?)
            .args(arguments)
            .args(["-o", "json", "--brokers", &self.bootstrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Streamctl { process: Some(process), arguments: format!("{arguments:?}") })
    }

    fn member_mut(&mut self, id: usize) -> io::Result<&mut Member> {
        let node = id.checked_sub(1).and_then(|index| self.nodes.get_mut(index));
        node.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A `streamctl` that is running; killed when dropped.
#[derive(Debug)]
pub struct Streamctl {
    /// Until somebody waited for it.
    process: Option<Child>,
    arguments: String,
}

impl Streamctl {
    /// SIGINT: it ends what it is measuring, and prints.
    pub fn interrupt(&mut self) -> io::Result<()> {
        send_signal(self.process()?, Signal::INT)
    }

    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.process()?.try_wait()?.is_none())
    }

    fn process(&mut self) -> io::Result<&mut Child> {
        self.process.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits for its end; what it printed.
    pub fn printed(mut self) -> io::Result<Value> {
        let process = self.process.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let output = process.wait_with_output()?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("streamctl {}: {reason}", self.arguments)));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Streamctl {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
