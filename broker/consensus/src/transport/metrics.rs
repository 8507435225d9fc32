//! Metrics of the peer transport.

use metrics::{Counter, counter};

use super::convert::lane_name;
use crate::peer::Lane;

/// Handles of one lane's metrics, for all brokers together.
#[derive(Clone)]
pub(super) struct LaneMetrics {
    lane: &'static str,
    pub(super) calls: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) received: Counter,
    pub(super) received_bytes: Counter,
    pub(super) connects: Counter,
}

impl LaneMetrics {
    pub(super) fn new(lane: Lane) -> Self {
        let lane = lane_name(lane);
        Self {
            lane,
            calls: counter!("headwater_peer_calls_total", "lane" => lane),
            sent_bytes: counter!("headwater_peer_sent_bytes_total", "lane" => lane),
            received: counter!("headwater_peer_requests_total", "lane" => lane),
            received_bytes: counter!("headwater_peer_received_bytes_total", "lane" => lane),
            connects: counter!("headwater_peer_connects_total", "lane" => lane),
        }
    }

    /// A call that brought no answer.
    pub(super) fn failed(&self, reason: &'static str) {
        counter!("headwater_peer_call_failures_total", "lane" => self.lane, "reason" => reason).increment(1);
    }

    /// A connection, or an attempt at one, that ended.
    pub(super) fn disconnected(&self, reason: &'static str) {
        counter!("headwater_peer_disconnects_total", "lane" => self.lane, "reason" => reason).increment(1);
    }
}
