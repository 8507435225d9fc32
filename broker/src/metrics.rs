//! Every metric of the broker crate, and how all crates' metrics are shown.
//!
//! One recorder per process, installed by the first broker that starts: storage and consensus record
//! through the `metrics` macros, which know only a global one. Several brokers in one process (tests)
//! therefore share counters and histograms; what [`Exposition`] adds at a scrape is of one broker alone.

use std::fmt::{Display, Write};
use std::sync::OnceLock;
use std::time::Duration;

use headwater_proto::ErrorCode;
use metrics::{Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram};
use metrics::{gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How often histograms are folded, which bounds their memory while nobody scrapes.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// From 50 us (a request over loopback) to 30 s (the longest wait for an acknowledgement).
const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
const BYTES_BUCKETS: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// Whatever is counted in ones: batches of a round, records of a batch.
const COUNT_BUCKETS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0, 4_096.0, 16_384.0];

/// The recorder of this process, installed at the first call.
pub fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed: /metrics stays empty");
        }
        describe();
        handle
    })
}

fn builder() -> PrometheusBuilder {
    let buckets = [
        (Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS),
        (Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS),
    ];
    buckets.into_iter().fold(
        PrometheusBuilder::new().set_buckets(COUNT_BUCKETS).unwrap_or_default(),
        // The one error is an empty list of buckets.
        |builder, (matcher, buckets)| builder.set_buckets_for_metric(matcher, buckets).unwrap_or_default(),
    )
}

fn describe() {
    describe_gauge!("headwater_connections", "Open connections, by listener");
    describe_counter!("headwater_connections_accepted_total", "Connections accepted, by listener");
    describe_counter!(
        "headwater_connections_refused_total",
        "Connections closed before they were served, by listener and reason"
    );
    describe_counter!(
        "headwater_connections_failed_total",
        "Connections ended by what the peer sent or failed to send, by listener and reason"
    );
    describe_counter!("headwater_accept_errors_total", "Failures to accept a connection, by listener");
    describe_counter!(
        "headwater_produced_bytes_total",
        "Record bytes received from producers, refused ones included"
    );
    describe_counter!("headwater_produced_records_total", "Records in valid batches received from producers");
    describe_histogram!("headwater_produce_seconds", "From a produce request to its last acknowledgement");
    describe_counter!("headwater_elections_won_total", "Times that this broker became the leader of a group");
    describe_counter!("headwater_fetched_bytes_total", "Record bytes sent to consumers");
    describe_counter!("headwater_peer_calls_total", "Calls to other brokers, by lane");
    describe_counter!(
        "headwater_peer_call_failures_total",
        "Calls to other brokers that brought no answer, by lane and reason"
    );
    describe_counter!("headwater_peer_requests_total", "Requests of other brokers, by lane");
    describe_counter!("headwater_peer_sent_bytes_total", "Bytes of calls to other brokers, by lane");
    describe_counter!("headwater_peer_received_bytes_total", "Bytes of requests of other brokers, by lane");
    describe_counter!("headwater_peer_connects_total", "Connections opened to other brokers, by lane");
    describe_counter!(
        "headwater_peer_disconnects_total",
        "Connections to other brokers, and attempts at one, that ended, by lane and reason"
    );
    describe_counter!(
        "headwater_request_errors_total",
        "Partitions of requests answered with an error, by code"
    );
}

/// Handles of one listener's metrics.
#[derive(Clone)]
pub struct ListenerMetrics {
    listener: &'static str,
    pub open: Gauge,
    pub accepted: Counter,
    pub accept_errors: Counter,
}

impl ListenerMetrics {
    pub fn new(listener: &'static str) -> Self {
        Self {
            listener,
            open: gauge!("headwater_connections", "listener" => listener),
            accepted: counter!("headwater_connections_accepted_total", "listener" => listener),
            accept_errors: counter!("headwater_accept_errors_total", "listener" => listener),
        }
    }

    /// A connection closed before it was served.
    pub fn refused(&self, reason: &'static str) {
        counter!("headwater_connections_refused_total", "listener" => self.listener, "reason" => reason)
            .increment(1);
    }

    /// A connection ended by its peer's doing.
    pub fn failed(&self, reason: &'static str) {
        counter!("headwater_connections_failed_total", "listener" => self.listener, "reason" => reason)
            .increment(1);
    }
}

/// Handles of the metrics of produce and fetch requests.
pub struct RequestMetrics {
    produced_bytes: Counter,
    produced_records: Counter,
    /// From the request to its last acknowledgement.
    pub produce_seconds: Histogram,
    pub fetched_bytes: Counter,
}

impl RequestMetrics {
    pub fn new() -> Self {
        Self {
            produced_bytes: counter!("headwater_produced_bytes_total"),
            produced_records: counter!("headwater_produced_records_total"),
            produce_seconds: histogram!("headwater_produce_seconds"),
            fetched_bytes: counter!("headwater_fetched_bytes_total"),
        }
    }

    /// Batches were received for one partition.
    pub fn produced(&self, bytes: u64, records: u64) {
        self.produced_bytes.increment(bytes);
        self.produced_records.increment(records);
    }

    /// Part of a request was answered with an error.
    pub fn refused(&self, request: &'static str, code: ErrorCode) {
        counter!("headwater_request_errors_total", "request" => request, "code" => code.name()).increment(1);
    }
}

/// Samples that a broker computes while it is scraped, in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Opens a family of gauges; its samples must follow at once.
    pub fn gauge(&mut self, name: &str, help: &str) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    /// One sample of the family opened last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.text.push_str(name);
        for (i, (label, label_value)) in labels.iter().enumerate() {
            let escaped =
                label_value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{escaped}\"", if i == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// The samples so far.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped_and_shaped_as_prometheus_wants_them() {
        let mut out = Exposition::default();
        out.gauge("headwater_x", "What x is.");
        out.sample("headwater_x", &[], 1);
        out.sample("headwater_x", &[("topic", &"a\"b\\c\nd"), ("partition", &3)], 2.5);
        assert_eq!(
            out.into_text(),
            "# HELP headwater_x What x is.\n# TYPE headwater_x gauge\nheadwater_x 1\n\
             headwater_x{topic=\"a\\\"b\\\\c\\nd\",partition=\"3\"} 2.5\n"
        );
    }
}
