//! Which brokers to talk to, and where that was said: flags, environment, context, default.
//!
//! Invariant: a flag beats the environment, the environment a context, a context the default.
//! `--context` is a flag: what the context that it names sets beats the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::Format;

pub const BROKERS_ENV: &str = "HEADWATER_BROKERS";
pub const CONTEXT_ENV: &str = "STREAMCTL_CONTEXT";
pub const CONFIG_ENV: &str = "STREAMCTL_CONFIG";
const DEFAULT_BROKER: &str = "127.0.0.1:9093";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The file that contexts are kept in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The context in use when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, Context>,
}

/// A named set of settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Format>,
}

impl ConfigFile {
    /// `$STREAMCTL_CONFIG`, else `$XDG_CONFIG_HOME/streamctl/config.toml`, else `~/.config/...`.
    pub fn path() -> Result<PathBuf, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = set(CONFIG_ENV) {
            return Ok(path);
        }
        let base = set("XDG_CONFIG_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .ok_or_else(|| {
                Failure::new(Exit::Failure, "no place for the configuration: HOME is not set")
                    .hint(format!("set {CONFIG_ENV} to a file"))
            })?;
        Ok(base.join("streamctl/config.toml"))
    }

    /// A file that does not exist is an empty one.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|e| {
                Failure::new(Exit::Failure, format!("{} is not a configuration: {e}", path.display()))
                    .hint("repair it, or remove it and set the contexts again")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Failure::file("read", path.display(), &e)),
        }
    }

    /// Replaces the file in one step, so that a reader sees the old one or the new one.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string_pretty(self)
            .map_err(|e| Failure::new(Exit::Failure, format!("cannot encode the configuration: {e}")))?;
        let failed = |e: std::io::Error| Failure::file("write", path.display(), &e);
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let next = path.with_extension(format!("toml.{}", std::process::id()));
        std::fs::write(&next, text).map_err(failed)?;
        std::fs::rename(&next, path).map_err(failed)
    }

    /// The context of that name; the error lists those that there are.
    pub fn context(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            Failure::new(Exit::NotFound, format!("no context `{name}`")).hint(match names.as_slice() {
                [] => format!("make it with `streamctl context set {name} --brokers HOST:PORT`"),
                names => format!("there are: {}", names.join(", ")),
            })
        })
    }
}

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Flag(&'static str),
    Env(&'static str),
    Context(String),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Context(name) => write!(f, "context {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    pub value: T,
    pub source: Source,
}

/// What is in force for this call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub brokers: Sourced<Vec<String>>,
    pub timeout: Sourced<Duration>,
    pub output: Sourced<Format>,
    pub context: Option<Sourced<String>>,
}

impl Settings {
    /// Weighs flags, environment, the configuration file and the defaults.
    pub fn resolve(
        global: &Global,
        file: &ConfigFile,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let env = |name: &'static str| env(name).filter(|value| !value.is_empty());
        let chosen = if let Some(name) = &global.context {
            Some(Sourced { value: name.clone(), source: Source::Flag("--context") })
        } else if let Some(name) = env(CONTEXT_ENV) {
            Some(Sourced { value: name, source: Source::Env(CONTEXT_ENV) })
        } else {
            file.current.clone().map(|name| Sourced { value: name, source: Source::Default })
        };
        let context = chosen.as_ref().map(|chosen| file.context(&chosen.value)).transpose()?;
        let of_context = || Source::Context(chosen.as_ref().map_or_else(String::new, |c| c.value.clone()));

        let in_context = context.filter(|c| !c.brokers.is_empty()).map(|c| c.brokers.clone());
        let in_env = env(BROKERS_ENV).map(|list| list.split(',').map(|b| b.trim().to_string()).collect());
        let context_is_flag = global.context.is_some();
        let brokers = if let Some(brokers) = &global.brokers {
            Sourced { value: brokers.clone(), source: Source::Flag("--brokers") }
        } else if let Some(brokers) = in_context.clone().filter(|_| context_is_flag) {
            Sourced { value: brokers, source: of_context() }
        } else if let Some(brokers) = in_env {
            Sourced { value: brokers, source: Source::Env(BROKERS_ENV) }
        } else if let Some(brokers) = in_context {
            Sourced { value: brokers, source: of_context() }
        } else {
            Sourced { value: vec![DEFAULT_BROKER.to_string()], source: Source::Default }
        };
        check_brokers(&brokers)?;

        let pick_timeout = context.and_then(|c| c.timeout_ms).map(Duration::from_millis);
        Ok(Self {
            timeout: pick(global.timeout, "--timeout", pick_timeout, of_context, DEFAULT_TIMEOUT),
            output: pick(
                global.output,
                "--output",
                context.and_then(|c| c.output),
                of_context,
                Format::Table,
            ),
            brokers,
            context: chosen,
        })
    }
}

fn pick<T>(
    flag: Option<T>,
    name: &'static str,
    context: Option<T>,
    of: impl Fn() -> Source,
    default: T,
) -> Sourced<T> {
    match (flag, context) {
        (Some(value), _) => Sourced { value, source: Source::Flag(name) },
        (None, Some(value)) => Sourced { value, source: of() },
        (None, None) => Sourced { value: default, source: Source::Default },
    }
}

fn check_brokers(brokers: &Sourced<Vec<String>>) -> Result<(), Failure> {
    let bad = |what: String| {
        Failure::usage(format!("{what} (from {})", brokers.source))
            .hint("brokers are gRPC addresses, HOST:PORT[,HOST:PORT...], such as 127.0.0.1:9093")
    };
    if brokers.value.iter().all(String::is_empty) {
        return Err(bad("no broker is named".to_string()));
    }
    for broker in &brokers.value {
        let valid = broker
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !valid {
            return Err(bad(format!("`{broker}` is not HOST:PORT")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file() -> ConfigFile {
        toml::from_str(
            "current = \"dev\"\n[contexts.dev]\nbrokers = [\"dev:1\"]\n[contexts.prod]\nbrokers = [\"prod:2\"]\ntimeout_ms = 500\noutput = \"json\"\n",
        )
        .unwrap()
    }

    fn resolve(global: &Global, file: &ConfigFile, env: &[(&str, &str)]) -> Result<Settings, Failure> {
        let env: BTreeMap<_, _> = env.iter().copied().collect();
        Settings::resolve(global, file, |name| env.get(name).map(|v| (*v).to_string()))
    }

    #[test]
    fn flags_beat_env_beats_context_beats_default() {
        let mut global = Global::default();
        let none = ConfigFile::default();
        let env = [(BROKERS_ENV, "env:3, env:4")];

        let default = resolve(&global, &none, &[]).unwrap();
        assert_eq!(
            (default.brokers.value, default.brokers.source),
            (vec![DEFAULT_BROKER.into()], Source::Default)
        );
        let context = resolve(&global, &file(), &[]).unwrap();
        assert_eq!(context.brokers.value, ["dev:1"]);
        assert_eq!(context.brokers.source, Source::Context("dev".into()));
        let from_env = resolve(&global, &file(), &env).unwrap();
        assert_eq!(from_env.brokers.value, ["env:3", "env:4"]);

        global.context = Some("prod".into());
        let named = resolve(&global, &file(), &env).unwrap();
        assert_eq!(named.brokers.value, ["prod:2"], "a context named by a flag counts as a flag");
        assert_eq!(named.timeout.value, Duration::from_millis(500));
        assert_eq!(named.output.value, Format::Json);

        global.brokers = Some(vec!["flag:5".into()]);
        global.output = Some(Format::Yaml);
        let flag = resolve(&global, &file(), &env).unwrap();
        assert_eq!((flag.brokers.value, flag.output.value), (vec!["flag:5".to_string()], Format::Yaml));
    }

    #[test]
    fn an_unknown_context_is_not_found_and_names_the_known_ones() {
        let failure = resolve(&Global::default(), &file(), &[(CONTEXT_ENV, "staging")]).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.hint.as_deref(), Some("there are: dev, prod"));
    }

    #[test]
    fn an_address_without_a_port_is_wrong_usage() {
        for bad in ["localhost", ":9093", "a:0", "a:99999", "", "a:1,,b:2"] {
            let global =
                Global { brokers: Some(bad.split(',').map(String::from).collect()), ..Global::default() };
            assert_eq!(resolve(&global, &ConfigFile::default(), &[]).unwrap_err().exit, Exit::Usage, "{bad}");
        }
        let global = Global { brokers: Some(vec!["[::1]:9093".into()]), ..Global::default() };
        assert!(resolve(&global, &ConfigFile::default(), &[]).is_ok());
    }

    #[test]
    fn the_file_survives_a_round_trip_and_a_broken_one_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/config.toml");
        assert_eq!(ConfigFile::load(&path).unwrap(), ConfigFile::default());
        file().save(&path).unwrap();
        assert_eq!(ConfigFile::load(&path).unwrap(), file());
        std::fs::write(&path, "contexts = 3").unwrap();
        assert!(ConfigFile::load(&path).unwrap_err().message.contains("config.toml"));
    }
}
