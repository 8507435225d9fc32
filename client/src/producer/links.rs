//! The driver's connections: what each broker owes an answer to, and what happens when it gives one
//! or is gone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use headwater_proto::{ErrorCode, v1};
use tokio::time::{Duration, Instant};

use super::accumulator::QueueId;
use super::config::REQUEST_BYTES;
use super::driver::Driver;
use super::lane::{Reaction, Refusal};
use super::link::{Link, LinkId};
use super::sealed::Key;
use super::timers::Timer;
use crate::TopicPartition;
use crate::backoff::Attempts;

/// Bytes of a batch's fields in a request besides its records, roughly.
const ENTRY_BYTES: usize = 32;

/// A batch in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub queue: QueueId,
    pub key: Key,
    /// Of the leader that it was sent to, as far as was known.
    pub epoch: i32,
}

/// A request that is being filled.
#[derive(Debug, Default)]
pub struct Packet {
    entries: Vec<Entry>,
    partitions: Vec<v1::ProducePartition>,
    bytes: usize,
}

impl Packet {
    /// A batch that is large by itself goes alone.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.entries.is_empty() || self.bytes + bytes + ENTRY_BYTES <= REQUEST_BYTES
    }

    /// `leader_epoch` keeps a batch that was held up on its way from being appended under a later
    /// leadership, when it was long given up or stored elsewhere.
    pub fn push(&mut self, entry: Entry, partition: &TopicPartition, records: Bytes, leader_epoch: i32) {
        self.bytes += records.len() + ENTRY_BYTES;
        self.entries.push(entry);
        self.partitions.push(v1::ProducePartition {
            topic: partition.topic.to_string(),
            partition: partition.partition,
            records,
            leader_epoch,
        });
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Outstanding {
    entries: Vec<Entry>,
    sent: Instant,
}

/// One broker.
#[derive(Debug, Default)]
struct Peer {
    link: Option<Link>,
    generation: u64,
    outstanding: BTreeMap<u64, Outstanding>,
    attempts: Attempts,
    /// No new link before then.
    not_before: Option<Instant>,
    /// Lanes that wait for a link.
    waiting: BTreeSet<QueueId>,
}

/// All brokers that this producer talks to.
#[derive(Debug, Default)]
pub struct Links {
    peers: BTreeMap<i32, Peer>,
    next_correlation: u64,
}

impl Links {
    pub fn wait(&mut self, broker: i32, lane: QueueId) {
        self.peers.entry(broker).or_default().waiting.insert(lane);
    }

    /// Expects no answers about a lane's batches any more.
    pub fn forget(&mut self, broker: i32, lane: QueueId) {
        let Some(peer) = self.peers.get_mut(&broker) else { return };
        for request in peer.outstanding.values_mut() {
            request.entries.retain(|entry| entry.queue != lane);
        }
    }

    /// The peer behind a link, unless that link was given up.
    fn current(&mut self, id: LinkId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&id.broker)?;
        peer.link.as_ref().is_some_and(|link| link.id == id).then_some(peer)
    }
}

impl Driver {
    /// Opens a stream to the broker unless there is one; false while it must rest.
    pub(super) fn open_link(&mut self, broker: i32) -> bool {
        let peer = self.links.peers.entry(broker).or_default();
        if peer.link.is_some() {
            return true;
        }
        let now = Instant::now();
        if let Some(at) = peer.not_before.filter(|at| now < *at) {
            self.timers.set(Timer::Link(broker), at);
            return false;
        }
        match self.client.data(broker) {
            Ok(data) => {
                peer.generation += 1;
                let id = LinkId { broker, generation: peer.generation };
                peer.link = Some(Link::open(id, data, self.events_in.clone()));
                true
            }
            Err(error) => {
                tracing::debug!(%error, broker, "no connection");
                let pause = peer.attempts.searched(&self.client.config().retry, self.client.entropy());
                peer.not_before = Some(now + pause);
                self.timers.set(Timer::Link(broker), now + pause);
                self.refresh_metadata(Some(broker));
                false
            }
        }
    }

    pub(super) fn send(&mut self, broker: i32, packet: Packet) {
        self.links.next_correlation += 1;
        let correlation = self.links.next_correlation;
        let Some(peer) = self.links.peers.get_mut(&broker) else { return };
        let now = Instant::now();
        let timeout_ms = self.client.config().request_timeout.as_millis();
        peer.outstanding.insert(correlation, Outstanding { entries: packet.entries, sent: now });
        if let Some(link) = &peer.link {
            link.send(v1::ProduceRequest {
                correlation,
                acks: self.shared.config.acks.number(),
                timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
                partitions: packet.partitions,
            });
        }
        self.timers.set(Timer::Link(broker), now + self.client.config().leader_check);
    }

    /// A broker that answers a request later than it promised to is taken for gone.
    fn silence_bound(&self) -> Duration {
        let config = self.client.config();
        config.request_timeout + config.connect_timeout
    }

    pub(super) fn check_link(&mut self, broker: i32, now: Instant) {
        let silence = self.silence_bound();
        let Some(peer) = self.links.peers.get_mut(&broker) else { return };
        let Some(link) = &peer.link else {
            self.ready.append(&mut peer.waiting);
            return;
        };
        let Some(oldest) = peer.outstanding.values().map(|request| request.sent).min() else { return };
        let leader_check = self.client.config().leader_check;
        if now >= oldest + silence {
            let id = link.id;
            let reason = format!("broker {broker} did not answer within {} ms", silence.as_millis());
            self.on_link_down(id, true, &reason);
        } else if now >= oldest + leader_check {
            // It may hang, or not know yet that another broker was elected.
            self.timers.set(Timer::Link(broker), (now + leader_check).min(oldest + silence));
            self.refresh_metadata(Some(broker));
        } else {
            self.timers.set(Timer::Link(broker), oldest + leader_check);
        }
    }

    /// Takes back what the broker owes an answer to, and lets it rest.
    pub(super) fn on_link_down(&mut self, id: LinkId, in_doubt: bool, reason: &str) {
        let Some(peer) = self.links.current(id) else { return };
        tracing::debug!(broker = id.broker, in_doubt, reason, "produce stream lost");
        peer.link = None;
        let at = Instant::now() + peer.attempts.searched(&self.client.config().retry, self.client.entropy());
        peer.not_before = Some(at);
        let mut lost: BTreeMap<QueueId, Vec<Key>> = BTreeMap::new();
        for request in std::mem::take(&mut peer.outstanding).into_values() {
            for entry in request.entries {
                lost.entry(entry.queue).or_default().push(entry.key);
            }
        }
        for (queue, keys) in lost {
            if let Some(entry) = self.lanes.get_mut(&queue) {
                entry.lane.lost(&keys, in_doubt, reason);
                self.ready.insert(queue);
            }
        }
        self.timers.set(Timer::Link(id.broker), at);
        self.refresh_metadata(Some(id.broker));
    }

    /// A request that nobody answers was handed to the connection.
    pub(super) fn on_sent(&mut self, id: LinkId, correlation: u64) {
        let Some(peer) = self.links.current(id) else { return };
        let Some(request) = peer.outstanding.remove(&correlation) else { return };
        peer.attempts.succeeded();
        for entry in request.entries {
            self.on_delivered(entry, -1);
        }
    }

    pub(super) fn on_response(&mut self, id: LinkId, response: v1::ProduceResponse) {
        let Some(peer) = self.links.current(id) else { return };
        let Some(mut request) = peer.outstanding.remove(&response.correlation) else { return };
        peer.attempts.succeeded();
        for result in response.partitions {
            // Answers come in the order of the batches; one of a partition answers its first batch
            // that has none yet.
            let about = |entry: &Entry| {
                self.lanes.get(&entry.queue).is_some_and(|lane| {
                    let partition = &lane.lane.queue.partition;
                    partition.partition == result.partition && *partition.topic == *result.topic
                })
            };
            if let Some(at) = request.entries.iter().position(about) {
                let entry = request.entries.remove(at);
                self.on_result(id.broker, entry, result);
            }
        }
        for entry in request.entries {
            self.on_silence(entry);
        }
    }

    fn on_result(&mut self, broker: i32, entry: Entry, result: v1::ProducePartitionResult) {
        let Some(error) = result.error else { return self.on_delivered(entry, result.base_offset) };
        let code = ErrorCode::from_number(error.code).unwrap_or(ErrorCode::UnknownServerError);
        if code == ErrorCode::DuplicateSequenceNumber {
            return self.on_delivered(entry, result.base_offset.max(-1));
        }
        let metadata = self.client.metadata();
        if let Some(hint) = &error.leader
            && metadata.learn(&result.topic, result.partition, hint)
        {
            self.find_moved();
        }
        let known = self.client.metadata().leader(&result.topic, result.partition);
        let moved = known.is_some_and(|leader| leader.epoch > entry.epoch);
        let refusal = Refusal { code, message: error.message, retriable: error.retriable };
        let Some(lane) = self.lanes.get_mut(&entry.queue) else { return };
        let reaction = lane.lane.refused(&self.shared, entry.key, refusal);
        self.ready.insert(entry.queue);
        match reaction {
            Reaction::GoOn => {}
            Reaction::ForgetEpoch => lane.fenced = lane.fenced.max(entry.epoch),
            // The broker that leads now was not asked yet.
            Reaction::FindLeader if moved => {}
            Reaction::FindLeader => {
                self.refresh_metadata(Some(broker));
                self.pause(entry.queue, true);
            }
            Reaction::Pause => self.pause(entry.queue, false),
        }
    }

    fn on_delivered(&mut self, entry: Entry, base_offset: i64) {
        if let Some(lane) = self.lanes.get_mut(&entry.queue) {
            lane.attempts.succeeded();
            lane.lane.delivered(&self.shared, entry.key, base_offset);
            self.ready.insert(entry.queue);
        }
    }

    /// The answer to a request left a batch out: its outcome is not known.
    fn on_silence(&mut self, entry: Entry) {
        if let Some(lane) = self.lanes.get_mut(&entry.queue) {
            lane.lane.lost(&[entry.key], true, "the broker's answer does not mention the batch");
            self.pause(entry.queue, false);
        }
    }
}
