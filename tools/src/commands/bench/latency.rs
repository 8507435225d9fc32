//! Latency histograms and their percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use super::round;
use crate::exit::{Exit, Failure};

/// Microseconds, three significant digits, up to an hour.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

const MICROS_MAX: u64 = 3_600_000_000;

impl Latencies {
    pub fn new() -> Result<Self, Failure> {
        Histogram::new_with_bounds(1, MICROS_MAX, 3)
            .map(Self)
            .map_err(|e| Failure::new(Exit::Failure, format!("no histogram: {e}")))
    }

    /// Counts a latency that `records` records share.
    pub fn record(&mut self, latency: Duration, records: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX);
        self.0.saturating_record_n(micros, records);
    }

    pub fn merge(&mut self, other: &Self) -> Result<(), Failure> {
        self.0.add(&other.0).map_err(|e| Failure::new(Exit::Failure, format!("histograms differ: {e}")))
    }

    #[must_use]
    pub fn millis(&self, quantile: f64) -> f64 {
        round(self.0.value_at_quantile(quantile) as f64 / 1e3)
    }

    /// Adds the percentiles to a report; null where nothing was measured.
    pub fn report(&self, into: &mut Map<String, Value>) {
        let measured = !self.0.is_empty();
        let mut put = |name: &str, value: f64| {
            into.insert(name.to_string(), if measured { value.into() } else { Value::Null });
        };
        put("p50_ms", self.millis(0.5));
        put("p90_ms", self.millis(0.9));
        put("p99_ms", self.millis(0.99));
        put("p999_ms", self.millis(0.999));
        put("max_ms", round(self.0.max() as f64 / 1e3));
        put("mean_ms", round(self.0.mean() / 1e3));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percentiles_are_of_records_in_milliseconds() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::from_millis(2), 98);
        let mut others = Latencies::new().unwrap();
        others.record(Duration::from_millis(50), 2);
        latencies.merge(&others).unwrap();
        let near = |value: f64, expected: f64| (value - expected).abs() < expected * 0.01;
        assert!(near(latencies.millis(0.5), 2.0));
        assert!(near(latencies.millis(0.98), 2.0));
        assert!(near(latencies.millis(0.99), 50.0));
    }

    #[test]
    fn nothing_measured_is_null() {
        let mut report = Map::new();
        Latencies::new().unwrap().report(&mut report);
        assert!(report["p99_ms"].is_null());
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_largest() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(Duration::from_secs(100_000), 1);
        assert!(latencies.millis(0.5) > 3_000_000.0);
    }
}
