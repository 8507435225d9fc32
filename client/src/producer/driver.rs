//! The producer's one task: takes batches from the accumulator, sends them to the leaders of their
//! partitions, and brings back what became of them.
//!
//! Everything that is sent and not answered is here, so that nothing needs a lock. What happens in
//! one partition is decided by its [`Lane`]; this file moves messages, timers and connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::accumulator::{Accumulator, Queue, QueueId};
use super::identity::init_producer_id;
use super::lane::{Lane, Step};
use super::link::LinkId;
use super::links::{Entry, Links, Packet};
use super::sealed::Identity;
use super::timers::{Timer, Timers};
use crate::backoff::Attempts;
use crate::metadata::Leader;
use crate::{Client, ClientError};

/// Events taken in one go.
const EVENTS_AT_ONCE: usize = 256;

/// What the driver is told.
#[derive(Debug)]
pub enum Event {
    Response { link: LinkId, response: v1::ProduceResponse },
    Sent { link: LinkId, correlation: u64 },
    LinkDown { link: LinkId, in_doubt: bool, reason: String },
    Metadata(Result<(), ClientError>),
    Identity { queue: QueueId, result: Result<Identity, ClientError> },
    Flush { done: oneshot::Sender<()> },
    Close { done: oneshot::Sender<()> },
}

/// A lane and what the driver needs to know of it.
pub(super) struct LaneEntry {
    pub lane: Lane,
    /// `None` until it is looked up.
    pub leader: Option<Leader>,
    /// Of the metadata that `leader` comes from.
    pub leader_version: u64,
    /// The leader answered that it leads in a newer epoch than this.
    pub fenced: i32,
    /// The broker that all in flight was sent to.
    pub sent_to: Option<i32>,
    pub attempts: Attempts,
    asking_identity: bool,
}

/// Somebody waits for all batches opened before a point.
struct FlushWait {
    /// Order of the first batch of each queue that is not waited for.
    below: BTreeMap<QueueId, u64>,
    done: oneshot::Sender<()>,
}

pub(super) struct Driver {
    pub client: Client,
    pub shared: Arc<Accumulator>,
    pub lanes: BTreeMap<QueueId, LaneEntry>,
    pub links: Links,
    pub timers: Timers,
    /// Lanes to look at.
    pub ready: BTreeSet<QueueId>,
    /// Lanes without a leader.
    pub homeless: BTreeSet<QueueId>,
    identity: Option<Identity>,
    pub events_in: mpsc::UnboundedSender<Event>,
    flushes: Vec<FlushWait>,
    pub refreshing: bool,
    closing: bool,
}

impl Driver {
    pub fn new(
        client: Client,
        shared: Arc<Accumulator>,
        identity: Option<Identity>,
        events_in: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            client,
            shared,
            lanes: BTreeMap::new(),
            links: Links::default(),
            timers: Timers::default(),
            ready: BTreeSet::new(),
            homeless: BTreeSet::new(),
            identity,
            events_in,
            flushes: Vec::new(),
            refreshing: false,
            closing: false,
        }
    }

    /// Runs until the producer is closed and everything is resolved.
    pub async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        let shared = Arc::clone(&self.shared);
        let mut batch = Vec::with_capacity(EVENTS_AT_ONCE);
        let max_age = self.client.config().metadata_max_age;
        self.timers.set(Timer::Refresh, Instant::now() + max_age);
        let mut sleep = std::pin::pin!(sleep_until(Instant::now() + max_age));
        loop {
            if let Some(at) = self.timers.first()
                && at != sleep.deadline()
            {
                sleep.as_mut().reset(at);
            }
            tokio::select! {
                biased;
                _ = events.recv_many(&mut batch, EVENTS_AT_ONCE) => {}
                () = shared.wake.notified() => {}
                () = &mut sleep => {}
            }
            for event in batch.drain(..) {
                self.handle(event);
            }
            for queue in shared.take_changed() {
                self.ready.insert(queue.id);
                self.lane(&queue);
            }
            if shared.has_blocked_senders() {
                self.ready.extend(self.lanes.keys());
            }
            self.fire_timers();
            self.pump();
            self.finish_flushes();
            if self.closing && self.flushes.is_empty() {
                return;
            }
        }
    }

    pub(super) fn lane(&mut self, queue: &Arc<Queue>) -> &mut LaneEntry {
        let identity = self.identity;
        self.lanes.entry(queue.id).or_insert_with(|| LaneEntry {
            lane: Lane::new(Arc::clone(queue), identity),
            leader: None,
            leader_version: 0,
            fenced: -1,
            sent_to: None,
            attempts: Attempts::default(),
            asking_identity: false,
        })
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Response { link, response } => self.on_response(link, response),
            Event::Sent { link, correlation } => self.on_sent(link, correlation),
            Event::LinkDown { link, in_doubt, reason } => self.on_link_down(link, in_doubt, &reason),
            Event::Metadata(result) => self.on_metadata(result),
            Event::Identity { queue, result } => self.on_identity(queue, result),
            Event::Flush { done } => self.begin_flush(done),
            Event::Close { done } => {
                self.closing = true;
                self.begin_flush(done);
            }
        }
    }

    /// Sends what may be sent of all lanes that are ready.
    fn pump(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let now = Instant::now();
        let at_once = self.closing || self.shared.has_blocked_senders();
        let mut packets: BTreeMap<i32, Packet> = BTreeMap::new();
        for id in std::mem::take(&mut self.ready) {
            if let Some(leader) = self.route(id) {
                self.fill(id, leader, now, at_once, &mut packets);
            }
            if let Some(at) = self.lanes.get(&id).and_then(|entry| entry.lane.expires(&self.shared)) {
                self.timers.set(Timer::Lane(id), at);
            }
        }
        for (broker, packet) in packets {
            self.send(broker, packet);
        }
    }

    /// Moves a lane's batches into the packet of its broker, and on when that is full.
    fn fill(
        &mut self,
        id: QueueId,
        leader: Leader,
        now: Instant,
        at_once: bool,
        packets: &mut BTreeMap<i32, Packet>,
    ) {
        let broker = leader.broker;
        loop {
            let Some(entry) = self.lanes.get_mut(&id) else { return };
            match entry.lane.next(&self.shared, now, at_once) {
                Step::Send { key, bytes } => {
                    entry.sent_to = Some(broker);
                    let full = packets.get(&broker).is_some_and(|packet| !packet.has_room(bytes.len()));
                    if full && let Some(packet) = packets.remove(&broker) {
                        self.send(broker, packet);
                    }
                    let Some(entry) = self.lanes.get(&id) else { return };
                    let packet = packets.entry(broker).or_default();
                    let wire_epoch = if leader.epoch > entry.fenced { leader.epoch } else { -1 };
                    let sent = Entry { queue: id, key, epoch: leader.epoch };
                    packet.push(sent, &entry.lane.queue.partition, bytes, wire_epoch);
                }
                Step::NeedsIdentity => return self.ask_identity(id),
                Step::Wait(None) => return,
                Step::Wait(Some(at)) => return self.timers.set(Timer::Lane(id), at),
            }
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Lane(id) => {
                    if let Some(entry) = self.lanes.get_mut(&id) {
                        entry.lane.expire(&self.shared, now);
                        self.ready.insert(id);
                    }
                }
                Timer::Link(broker) => self.check_link(broker, now),
                Timer::Refresh => {
                    self.timers.set(Timer::Refresh, now + self.client.config().metadata_max_age);
                    self.refresh_metadata(None);
                }
            }
        }
    }

    fn ask_identity(&mut self, id: QueueId) {
        let Some(entry) = self.lanes.get_mut(&id) else { return };
        if std::mem::replace(&mut entry.asking_identity, true) {
            return;
        }
        let (client, events) = (self.client.clone(), self.events_in.clone());
        let within = self.shared.config.delivery_timeout;
        tokio::spawn(async move {
            let result = init_producer_id(&client, within).await;
            let _ = events.send(Event::Identity { queue: id, result });
        });
    }

    fn on_identity(&mut self, id: QueueId, result: Result<Identity, ClientError>) {
        let Some(entry) = self.lanes.get_mut(&id) else { return };
        entry.asking_identity = false;
        match result {
            Ok(identity) => {
                entry.lane.set_identity(identity);
                self.ready.insert(id);
            }
            Err(error) => {
                tracing::debug!(%error, "no producer id");
                self.pause(id, false);
            }
        }
    }

    fn begin_flush(&mut self, done: oneshot::Sender<()>) {
        let mut below = BTreeMap::new();
        for queue in self.shared.queues() {
            let next_order = queue.close_open();
            if next_order > 0 {
                self.ready.insert(queue.id);
                self.lane(&queue);
                below.insert(queue.id, next_order);
            }
        }
        self.flushes.push(FlushWait { below, done });
    }

    fn finish_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let lanes = &self.lanes;
        let unresolved = |id: &QueueId, below: u64| {
            let oldest = lanes.get(id).and_then(|entry| entry.lane.oldest_order());
            oldest.is_some_and(|order| order < below)
        };
        for mut flush in std::mem::take(&mut self.flushes) {
            flush.below.retain(|id, below| unresolved(id, *below));
            if flush.below.is_empty() {
                // Whoever flushed may have stopped waiting.
                let _ = flush.done.send(());
            } else {
                self.flushes.push(flush);
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.close();
        for queue in self.shared.queues() {
            self.lane(&queue);
        }
        for entry in self.lanes.values_mut() {
            entry.lane.abandon(&self.shared);
        }
    }
}
