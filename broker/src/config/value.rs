//! What a setting's value may be, and the macro that declares settings.
//!
//! Invariant: every value reads back from what it is written as, so that the output of
//! `--print-config` is itself a valid file.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// A type that a setting can have.
pub trait Value: Sized {
    /// What is accepted, to complete "expected ...".
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Option<Self>;

    /// As TOML.
    fn to_toml(&self) -> String;
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const EXPECTED: &'static str = "a whole number";

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_numbers!(u16, u32, u64, usize, i32);

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// An address to bind. Names are not looked up, `localhost` excepted: what a broker listens on must
/// not depend on a name server.
impl Value for SocketAddr {
    const EXPECTED: &'static str = "IP:PORT, such as 127.0.0.1:9093 or [::1]:0 (port 0: a free one)";

    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("localhost", port)) => Some(Self::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)),
            _ => text.parse().ok(),
        }
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

/// An address that others are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// 0: the port that the listener took.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Self { host: addr.ip().to_string(), port: addr.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let is_name = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        match port.parse() {
            Ok(port) if is_name => Ok(Self { host: host.to_owned(), port }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Empty text stands for "the address bound".
impl Value for Option<HostPort> {
    const EXPECTED: &'static str = "HOST:PORT, or nothing for the address bound";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn to_toml(&self) -> String {
        quoted(&self.as_ref().map(ToString::to_string).unwrap_or_default())
    }
}

/// The brokers with which a cluster begins, by id; empty: none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeList(pub BTreeMap<i32, HostPort>);

/// Broker ids as `node_id` allows them.
const NODE_IDS: RangeInclusive<i32> = 0..=1_000_000;

/// Brokers that one list may name.
const LISTED_MAX: usize = 64;

impl Value for NodeList {
    const EXPECTED: &'static str = "ID@HOST:PORT,... with each ID once and a PORT above 0, or nothing";

    fn parse(text: &str) -> Option<Self> {
        let mut nodes = BTreeMap::new();
        for node in listed(text)? {
            let (id, address) = node.split_once('@')?;
            let id = id.parse().ok().filter(|id| NODE_IDS.contains(id))?;
            if nodes.insert(id, peer(address)?).is_some() {
                return None;
            }
        }
        Some(Self(nodes))
    }

    fn to_toml(&self) -> String {
        let nodes: Vec<_> = self.0.iter().map(|(id, address)| format!("{id}@{address}")).collect();
        quoted(&nodes.join(","))
    }
}

/// Addresses of brokers of which any one will do; empty: none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeedList(pub Vec<HostPort>);

impl Value for SeedList {
    const EXPECTED: &'static str = "HOST:PORT,... with a PORT above 0, or nothing";

    fn parse(text: &str) -> Option<Self> {
        listed(text)?.into_iter().map(peer).collect::<Option<Vec<_>>>().map(Self)
    }

    fn to_toml(&self) -> String {
        let seeds: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        quoted(&seeds.join(","))
    }
}

fn listed(text: &str) -> Option<Vec<&str>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let items: Vec<_> = text.split(',').map(str::trim).collect();
    (items.len() <= LISTED_MAX).then_some(items)
}

/// An address that can be connected to.
fn peer(text: &str) -> Option<HostPort> {
    text.parse().ok().filter(|address: &HostPort| address.port != 0)
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// [`LogFormat::Human`] on a terminal, [`LogFormat::Json`] elsewhere.
    Auto,
    Human,
    Json,
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "auto, human or json";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "human" => Some(Self::Human),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn to_toml(&self) -> String {
        quoted(match self {
            Self::Auto => "auto",
            Self::Human => "human",
            Self::Json => "json",
        })
    }
}

/// A basic TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// One setting: how to read it into a configuration, and how to write it back.
pub struct Setting<C> {
    /// `key`, or `section.key`.
    pub name: &'static str,
    /// Its documentation, as in the source.
    pub doc: &'static str,
    /// Replaces the value, or says what was expected.
    pub set: fn(&mut C, &str) -> Result<(), String>,
    pub to_toml: fn(&C) -> String,
}

/// Reads a value and checks its range; the error completes a sentence after the setting's name.
pub fn read<T: Value>(text: &str, check: impl Fn(&T) -> Result<(), String>) -> Result<T, String> {
    // What the environment held was no UTF-8.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(format!("expected UTF-8, got {text:?}"));
    }
    let value = T::parse(text).ok_or_else(|| format!("expected {}, got {text:?}", T::EXPECTED))?;
    check(&value)?;
    Ok(value)
}

/// Declares the sections of a configuration: a struct with defaults for each, and one table of all
/// settings. The name of a setting is the path of its field.
macro_rules! settings {
    (
        $(#[$config_doc:meta])*
        struct $config:ident;
        $(
            $(#[doc = $section_doc:literal])*
            $section:ident: $type_name:ident $prefix:literal {
                $(
                    $(#[doc = $doc:literal])+
                    $key:ident: $type:ty = $default:expr $(, in $range:expr)?;
                )*
            }
        )*
    ) => {
        $(#[$config_doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $config {
            $($(#[doc = $section_doc])* pub $section: $type_name,)*
        }

        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $type_name {
                $($(#[doc = $doc])+ pub $key: $type,)*
            }

            impl Default for $type_name {
                fn default() -> Self {
                    Self { $($key: $default,)* }
                }
            }
        )*

        /// Every setting, in the order of `--print-config`.
        pub const SETTINGS: &[$crate::config::value::Setting<$config>] = &[
            $($(
                $crate::config::value::Setting {
                    name: concat!($prefix, stringify!($key)),
                    doc: concat!($($doc, "\n",)+),
                    set: |config, text| {
                        config.$section.$key = $crate::config::value::read::<$type>(text, |_value| {
                            $(
                                let range = $range;
                                if !range.contains(_value) {
                                    return Err(format!(
                                        "expected {} to {}, got {_value}", range.start(), range.end()
                                    ));
                                }
                            )?
                            Ok(())
                        })?;
                        Ok(())
                    },
                    to_toml: |config| $crate::config::value::Value::to_toml(&config.$section.$key),
                },
            )*)*
        ];
    };
}

pub(crate) use settings;
