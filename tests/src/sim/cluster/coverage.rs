//! What a run has been through: each kind of fault, and each path of the broker that only faults reach.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use super::faults::Kind;

/// Paths of the broker that every full run must take.
pub const PATHS: &[&str] = &[
    "path:election",
    "path:truncation",
    "path:segment-roll",
    "path:snapshot-install",
    "path:torn-tail",
    "path:quarantine",
    "path:rebuild",
    "path:move",
    "path:transfer",
    "path:drain",
    "path:quiet",
];

/// How often each thing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Everything that a full run must have seen.
    fn wanted() -> impl Iterator<Item = &'static str> {
        Kind::ALL.iter().map(|kind| kind.name()).chain(PATHS.iter().copied())
    }

    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    fn add(&mut self, what: &str, times: u64) {
        *self.0.entry(what.to_owned()).or_default() += times;
    }

    /// Adds what another run has seen.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    /// Kinds of fault that happened.
    #[must_use]
    pub fn kinds(&self) -> usize {
        Kind::ALL.iter().filter(|kind| self.0.contains_key(kind.name())).count()
    }

    /// What never happened and should have.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        Self::wanted().filter(|what| !self.0.contains_key(*what)).collect()
    }

    /// One line for each thing, in a fixed order.
    #[must_use]
    pub fn table(&self) -> String {
        let wanted: Vec<&str> = Self::wanted().collect();
        let others = self.0.keys().map(String::as_str).filter(|what| !wanted.contains(what));
        let lines = wanted.iter().copied().chain(others);
        lines.map(|what| format!("{what:<28} {:>9}\n", self.0.get(what).copied().unwrap_or(0))).collect()
    }
}

/// In one line, as one process tells it to another.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (what, times) in &self.0 {
            write!(f, "{between}{what}={times}")?;
            between = " ";
        }
        Ok(())
    }
}

impl FromStr for Coverage {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let parse = |pair: &str| {
            let (what, times) = pair.split_once('=')?;
            Some((what.to_owned(), times.parse().ok()?))
        };
        let pairs =
            line.split_whitespace().map(|pair| parse(pair).ok_or_else(|| format!("not a count: {pair}")));
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

/// A coverage that the driver and the clients count into.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<Coverage>>);

impl Counters {
    pub fn count(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count(what);
    }

    #[must_use]
    pub fn taken(&self) -> Coverage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_coverage_survives_its_line_and_knows_what_is_missing() {
        let mut coverage = Coverage::default();
        coverage.count("path:election");
        coverage.merge(&coverage.clone());
        assert_eq!(coverage.to_string(), "path:election=2");
        assert_eq!(coverage.to_string().parse::<Coverage>().unwrap(), coverage);
        assert!(coverage.missing().contains(&"path:truncation"));
        assert!(!coverage.missing().contains(&"path:election"));
        assert!("nonsense".parse::<Coverage>().is_err());
    }
}
