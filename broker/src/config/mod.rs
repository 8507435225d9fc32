//! Configuration: flags over environment over file over `--dev` over defaults.
//!
//! Invariants: a setting has one name, one type and one range wherever it comes from; an unknown one is
//! refused with a suggestion, never ignored; the result is checked as a whole and immutable. This
//! module reads neither the environment nor the disk: both are handed in.

mod cli;
mod print;
mod settings;
mod sources;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use cli::Cli;
pub use settings::*;
pub use value::{HostPort, LogFormat, NodeList, SeedList, Setting};

/// Where the value of a setting came from; later ones win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    /// `--dev`.
    Dev,
    File(PathBuf),
    /// Name of the variable.
    Environment(String),
    /// The flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Dev => f.write_str("--dev"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path}, line {line}: {message}")]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("unknown setting `{name}` ({origin}){hint}")]
    Unknown { name: String, origin: Origin, hint: String },
    #[error("`{name}`: {reason} ({origin})")]
    Invalid { name: String, reason: String, origin: Origin },
    #[error("{0}")]
    Inconsistent(String),
}

/// A configuration, and where each value in it came from.
#[derive(Debug, Clone)]
pub struct Effective {
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

impl Effective {
    /// Merges every source. `environment` is all of it: names that do not start with `HEADWATER_` are not looked at.
    ///
    /// # Errors
    /// The first thing that is wrong, in one line.
    pub fn load(
        cli: &Cli,
        environment: &BTreeMap<String, String>,
        read_file: impl FnOnce(&Path) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let given = sources::collect(cli, environment, read_file)?;
        let mut effective = Self { config: Config::default(), origins: BTreeMap::new() };
        effective.apply_all(&given)?;
        if effective.config.broker.dev {
            effective = Self { config: Config::default(), origins: BTreeMap::new() };
            for (name, text) in DEV {
                effective.apply(name, text, &Origin::Dev)?;
            }
            effective.apply_all(&given)?;
        }
        effective.listen_where_the_cluster_looks();
        effective.config.check()?;
        Ok(effective)
    }

    /// A broker of the list listens for peers where the list says, unless told otherwise.
    fn listen_where_the_cluster_looks(&mut self) {
        let broker = &mut self.config.broker;
        let Some(own) = self.config.cluster.nodes.0.get(&broker.node_id) else { return };
        let origin = self.origins.get("cluster.nodes").cloned().unwrap_or(Origin::Default);
        if let Ok(ip) = own.host.parse()
            && !self.origins.contains_key("peer_addr")
        {
            broker.peer_addr = SocketAddr::new(ip, own.port);
            self.origins.insert("peer_addr", origin.clone());
        }
        if broker.peer_advertised_addr.is_none() {
            broker.peer_advertised_addr = Some(own.clone());
            self.origins.insert("peer_advertised_addr", origin);
        }
    }

    /// Where the value of a setting came from.
    #[must_use]
    pub fn origin(&self, name: &str) -> &Origin {
        self.origins.get(name).unwrap_or(&Origin::Default)
    }

    /// `given` lists weaker sources first.
    fn apply_all(&mut self, given: &[sources::Given]) -> Result<(), ConfigError> {
        given.iter().try_for_each(|given| self.apply(&given.name, &given.text, &given.origin))
    }

    fn apply(&mut self, name: &str, text: &str, origin: &Origin) -> Result<(), ConfigError> {
        let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
            let hint = sources::suggest(name, origin);
            return Err(ConfigError::Unknown { name: name.to_owned(), origin: origin.clone(), hint });
        };
        (setting.set)(&mut self.config, text).map_err(|reason| ConfigError::Invalid {
            name: name.to_owned(),
            reason,
            origin: origin.clone(),
        })?;
        self.origins.insert(setting.name, origin.clone());
        Ok(())
    }
}

impl Config {
    /// What no single setting can tell.
    fn check(&self) -> Result<(), ConfigError> {
        let broker = &self.broker;
        let told_to_others = [
            ("kafka", broker.kafka_addr, &broker.kafka_advertised_addr),
            ("grpc", broker.grpc_addr, &broker.grpc_advertised_addr),
            ("peer", broker.peer_addr, &broker.peer_advertised_addr),
        ];
        for (name, bind, advertised) in told_to_others {
            if bind.ip().is_unspecified() && advertised.is_none() {
                return Err(ConfigError::Inconsistent(format!(
                    "`{name}_addr` is {bind}, which nobody can connect to: set `{name}_advertised_addr` to the \
                     HOST:PORT under which this broker is reached (port 0: the port bound)"
                )));
            }
        }
        let ordered = [
            (
                "requests.in_flight_bytes_per_connection",
                self.requests.in_flight_bytes_per_connection,
                "requests.in_flight_bytes_total",
                self.requests.in_flight_bytes_total,
            ),
            (
                "requests.message_bytes_max",
                self.requests.message_bytes_max,
                "requests.in_flight_bytes_total",
                self.requests.in_flight_bytes_total,
            ),
            (
                "requests.fetch_bytes_max",
                self.requests.fetch_bytes_max,
                "requests.message_bytes_max",
                self.requests.message_bytes_max,
            ),
            (
                "grpc.stream_window_bytes",
                self.grpc.stream_window_bytes as usize,
                "grpc.connection_window_bytes",
                self.grpc.connection_window_bytes as usize,
            ),
        ];
        for (smaller, value, larger, bound) in ordered {
            if value > bound {
                return Err(ConfigError::Inconsistent(format!(
                    "`{smaller}` ({value}) must not exceed `{larger}` ({bound})"
                )));
            }
        }
        self.check_cluster()
    }

    fn check_cluster(&self) -> Result<(), ConfigError> {
        let (cluster, node_id) = (&self.cluster, self.broker.node_id);
        if !cluster.nodes.0.is_empty() && !cluster.join.0.is_empty() {
            return Err(ConfigError::Inconsistent(
                "`cluster.nodes` (--cluster) begins a cluster and `cluster.join` (--join) joins one: set only one".to_owned(),
            ));
        }
        if !cluster.nodes.0.is_empty() && !cluster.nodes.0.contains_key(&node_id) {
            return Err(ConfigError::Inconsistent(format!(
                "`cluster.nodes` (--cluster) does not name this broker, whose `node_id` is {node_id}: add \
                 {node_id}@HOST:PORT, or join the cluster once it runs (--join)"
            )));
        }
        let ordered = [
            (
                "heartbeat_interval_ms",
                cluster.heartbeat_interval_ms,
                "election_timeout_min_ms",
                cluster.election_timeout_min_ms,
            ),
            (
                "election_timeout_min_ms",
                cluster.election_timeout_min_ms,
                "election_timeout_max_ms",
                cluster.election_timeout_max_ms,
            ),
            ("ping_interval_ms", cluster.ping_interval_ms, "ping_timeout_ms", cluster.ping_timeout_ms),
        ];
        for (smaller, value, larger, bound) in ordered {
            if value >= bound {
                return Err(ConfigError::Inconsistent(format!(
                    "`cluster.{smaller}` ({value}) must be less than `cluster.{larger}` ({bound})"
                )));
            }
        }
        Ok(())
    }
}
