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
use super::lane::{Identity, Lane, Step};
use super::link::LinkId;
use super::links::{Entry, Links, Packet};
use super::timers::{Timer, Timers};
use crate::backoff::Attempts;
use crate::{Client, ClientError};

/// Events taken in one go.
const EVENTS_AT_ONCE: usize = 256;

/// How often partitions are looked up, so that new ones are found.
const METADATA_INTERVAL: std::time::Duration = std::time::Duration::from_secs(300);

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
    /// Broker id; `None` until it is looked up.
    pub leader: Option<i32>,
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
    homeless: BTreeSet<QueueId>,
    identity: Option<Identity>,
    pub events_in: mpsc::UnboundedSender<Event>,
    flushes: Vec<FlushWait>,
    refreshing: bool,
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
        self.timers.set(Timer::Refresh, Instant::now() + METADATA_INTERVAL);
        let mut sleep = std::pin::pin!(sleep_until(Instant::now() + METADATA_INTERVAL));
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

    fn lane(&mut self, queue: &Arc<Queue>) -> &mut LaneEntry {
        let identity = self.identity;
        self.lanes.entry(queue.id).or_insert_with(|| LaneEntry {
            lane: Lane::new(Arc::clone(queue), identity),
            leader: None,
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
            if let Some(broker) = self.route(id) {
                self.fill(id, broker, now, at_once, &mut packets);
            }
            if let Some(at) = self.lanes.get(&id).and_then(|entry| entry.lane.expires(&self.shared)) {
                self.timers.set(Timer::Lane(id), at);
            }
        }
        for (broker, packet) in packets {
            self.send(broker, packet);
        }
    }

    /// The broker that takes the lane's batches now; without one, the lane is kept where its broker
    /// or its leader will find it.
    fn route(&mut self, id: QueueId) -> Option<i32> {
        let entry = self.lanes.get_mut(&id)?;
        if entry.leader.is_none() {
            let partition = &entry.lane.queue.partition;
            entry.leader = self.client.metadata().leader(&partition.topic, partition.partition);
        }
        let Some(broker) = entry.leader else {
            self.homeless.insert(id);
            self.refresh_metadata();
            return None;
        };
        if self.open_link(broker) {
            return Some(broker);
        }
        self.links.wait(broker, id);
        None
    }

    /// Moves a lane's batches into the packet of its broker, and on when that is full.
    fn fill(
        &mut self,
        id: QueueId,
        broker: i32,
        now: Instant,
        at_once: bool,
        packets: &mut BTreeMap<i32, Packet>,
    ) {
        loop {
            let Some(entry) = self.lanes.get_mut(&id) else { return };
            match entry.lane.next(&self.shared, now, at_once) {
                Step::Send { order, bytes } => {
                    let full = packets.get(&broker).is_some_and(|packet| !packet.has_room(bytes.len()));
                    if full && let Some(packet) = packets.remove(&broker) {
                        self.send(broker, packet);
                    }
                    let Some(entry) = self.lanes.get(&id) else { return };
                    let packet = packets.entry(broker).or_default();
                    packet.push(Entry { queue: id, order }, &entry.lane.queue.partition, bytes);
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
                    self.timers.set(Timer::Refresh, now + METADATA_INTERVAL);
                    self.refresh_metadata();
                }
            }
        }
    }

    /// Lets a lane rest before its next attempt.
    pub fn pause(&mut self, id: QueueId) {
        let Some(entry) = self.lanes.get_mut(&id) else { return };
        let pause = entry.attempts.failed(&self.client.config().retry, self.client.entropy());
        let at = Instant::now() + pause;
        entry.lane.pause_until(at);
        self.timers.set(Timer::Lane(id), at);
    }

    /// Looks up all topics; one look at a time.
    pub fn refresh_metadata(&mut self) {
        if self.refreshing {
            return;
        }
        self.refreshing = true;
        let (client, events) = (self.client.clone(), self.events_in.clone());
        let topics = self.shared.topic_names();
        tokio::spawn(async move {
            let result = client.refresh(topics).await.map(|_| ());
            // Refused once the producer is gone; nobody waits for it then.
            let _ = events.send(Event::Metadata(result));
        });
    }

    fn on_metadata(&mut self, result: Result<(), ClientError>) {
        self.refreshing = false;
        if let Err(error) = result {
            tracing::debug!(%error, "metadata not refreshed");
        }
        let metadata = self.client.metadata();
        for topic in self.shared.topic_names() {
            if let Some(count) = metadata.partition_count(&topic) {
                self.shared.ensure_topic(&topic, count);
            }
        }
        for entry in self.lanes.values_mut() {
            let partition = &entry.lane.queue.partition;
            entry.leader = metadata.leader(&partition.topic, partition.partition);
        }
        for id in std::mem::take(&mut self.homeless) {
            if self.lanes.get(&id).is_some_and(|entry| entry.leader.is_none()) {
                self.pause(id);
            } else {
                self.ready.insert(id);
            }
        }
    }

    fn ask_identity(&mut self, id: QueueId) {
        let Some(entry) = self.lanes.get_mut(&id) else { return };
        if std::mem::replace(&mut entry.asking_identity, true) {
            return;
        }
        let (client, events) = (self.client.clone(), self.events_in.clone());
        tokio::spawn(async move {
            let result = init_producer_id(&client).await;
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
                self.pause(id);
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

/// A producer id of this client's own.
pub(super) async fn init_producer_id(client: &Client) -> Result<Identity, ClientError> {
    let request = client.request("get", "a producer id");
    let response = client
        .ask_data(request, crate::client::Whom::Any, |mut data| async move {
            data.init_producer_id(v1::InitProducerIdRequest {}).await
        })
        .await?;
    if let Some(error) = &response.error {
        return Err(ClientError::refused(request.operation, request.target, error));
    }
    let unusable = |_| ClientError::Protocol {
        operation: request.operation,
        target: request.target.to_owned(),
        reason: format!("producer epoch {} is not a 16-bit number", response.producer_epoch),
    };
    let epoch = i16::try_from(response.producer_epoch).map_err(unusable)?;
    Ok(Identity { id: response.producer_id, epoch })
}
