//! The consumer's task that keeps streams from brokers, over the partitions that each of them leads (or
//! holds nearby) and the consumer wants.
//!
//! A stream's partitions are fixed when it is opened. One that moves to another broker is moved alone:
//! the broker that it leaves takes it off its stream, and it gets a stream of its own where it goes. One
//! that the caller seeks, pauses or unassigns ends its stream, and the others on it get a new one at the
//! offsets reached. That loses what was on its way, and never a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_proto::v1;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::config::ConsumerConfig;
use super::reader::{Ending, Reader};
use super::state::{Part, Served, Shared, State, StreamId};
use crate::backoff::Attempts;
use crate::metadata::Server;
use crate::{Client, TopicPartition};

/// Pause between two looks at who leads what.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// Streams from one broker that are let be; more are merged into one.
const STREAMS_MAX: usize = 4;

/// What the planner's own tasks tell it.
enum Event {
    Ended { place: Place, id: StreamId, ending: Ending },
    Refreshed,
}

/// A broker, as a leader or as one nearby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    broker: i32,
    is_leader: bool,
}

impl From<Server> for Place {
    fn from(server: Server) -> Self {
        Self { broker: server.broker, is_leader: server.is_leader }
    }
}

/// A place and the streams from it.
#[derive(Default)]
struct Source {
    streams: BTreeMap<StreamId, Stream>,
    attempts: Attempts,
    not_before: Option<Instant>,
}

/// The task that reads a stream.
struct Stream(AbortHandle);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct Planner {
    client: Client,
    config: Arc<ConsumerConfig>,
    shared: Arc<Shared>,
    sources: BTreeMap<Place, Source>,
    next_stream: StreamId,
    refreshing: bool,
    next_refresh: Instant,
    /// When it is looked whether anything is silent for want of a leader.
    next_check: Instant,
    /// When leaders are looked up whatever happens.
    too_old: Instant,
    events: mpsc::UnboundedSender<Event>,
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl Planner {
    pub fn new(client: Client, config: Arc<ConsumerConfig>, shared: Arc<Shared>) -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            next_check: now + check_interval(&client),
            too_old: now + client.config().metadata_max_age,
            client,
            config,
            shared,
            sources: BTreeMap::new(),
            next_stream: 0,
            refreshing: false,
            next_refresh: now,
            events,
            receiver,
        }
    }

    /// Runs until it is aborted.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let again = self.plan().min(self.next_check);
            tokio::select! {
                biased;
                event = self.receiver.recv() => {
                    if let Some(event) = event {
                        self.handle(event);
                    }
                }
                () = shared.plan.notified() => {}
                () = sleep_until(again) => {}
            }
            self.check();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Refreshed => self.refreshing = false,
            Event::Ended { place, id, ending } => {
                let Some(source) = self.sources.get_mut(&place) else { return };
                if source.streams.remove(&id).is_none() {
                    return;
                }
                let mut state = self.shared.lock();
                let served = state.unbind(id);
                // All have moved elsewhere: nothing is wrong with the broker.
                if served.partitions.is_empty() {
                    return;
                }
                tracing::debug!(broker = place.broker, ending, "consume stream lost");
                // A stream that brought something was a success: begin again with short pauses.
                if served.brought {
                    source.attempts.succeeded();
                }
                let now = Instant::now();
                if !place.is_leader {
                    let parts = state.parts.iter_mut();
                    let lost = parts.filter(|(partition, _)| served.partitions.contains(partition));
                    lost.for_each(|(_, part)| part.leave_follower(now));
                }
                drop(state);
                let pause = source.attempts.searched(&self.client.config().retry, self.client.entropy());
                source.not_before = Some(now + pause);
                self.refresh(Some(place.broker));
            }
        }
    }

    /// Opens and ends streams, so that each wanted partition has one. Gives when to look again.
    fn plan(&mut self) -> Instant {
        let now = Instant::now();
        let mut again = self.too_old;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let (unserved, lost) = self.find_unserved(&mut state, now, &mut again);
        self.end_streams(&mut state);
        let mut wanted = unserved;
        // Ending a stream leaves those without one that were on it.
        wanted.extend(self.bound_nowhere(&state, now));
        let mut by_place: BTreeMap<Place, BTreeMap<TopicPartition, Server>> = BTreeMap::new();
        for (partition, server) in wanted {
            by_place.entry(server.into()).or_default().insert(partition, server);
        }
        for (place, partitions) in by_place {
            let source = self.sources.entry(place).or_default();
            if let Some(at) = source.not_before.filter(|at| now < *at) {
                again = again.min(at);
                continue;
            }
            let merged = self.merge(&mut state, place, partitions);
            self.open(&mut state, place, merged);
        }
        drop(state);
        if lost {
            again = again.min(self.next_refresh.max(now + Duration::from_millis(1)));
            self.refresh(None);
        }
        again
    }

    /// Partitions that wait for a stream, with who serves them; takes those off their streams that are
    /// served elsewhere now. Also whether any has nobody that is known.
    fn find_unserved(
        &self,
        state: &mut State,
        now: Instant,
        again: &mut Instant,
    ) -> (BTreeMap<TopicPartition, Server>, bool) {
        let mut unserved = BTreeMap::new();
        let mut lost = false;
        let mut moved = Vec::new();
        for (partition, part) in state.parts.iter_mut().filter(|(_, part)| part.is_wanted()) {
            let server = self.server(partition, part, now);
            if let Some(at) = part.with_leader_until.filter(|at| now < *at) {
                *again = (*again).min(at);
            }
            let Some(server) = server else {
                lost = true;
                *again = (*again).min(now + REFRESH_PAUSE);
                continue;
            };
            let before = part.server;
            let is_news = before.is_none_or(|before| Place::from(before) != server.into());
            if let Some(stream) = part.stream {
                if is_news {
                    part.stream = None;
                    moved.push((stream, partition.clone(), before));
                } else {
                    continue;
                }
            }
            if let Some(at) = part.not_before.filter(|at| now < *at && !is_news) {
                *again = (*again).min(at);
                // It may have to rest because its leader has moved.
                lost = true;
                continue;
            }
            unserved.insert(partition.clone(), server);
        }
        for (stream, partition, before) in moved {
            // A leader that is replaced takes it off by itself; a follower would go on for ever.
            if before.is_some_and(|before| before.is_leader) {
                state.ended(stream, &partition);
            }
        }
        (unserved, lost)
    }

    fn server(&self, partition: &TopicPartition, part: &Part, now: Instant) -> Option<Server> {
        let metadata = self.client.metadata();
        let (topic, number) = (&partition.topic, partition.partition);
        let with_leader = part.with_leader_until.is_some_and(|at| now < at);
        match &self.client.config().rack {
            Some(rack) if !with_leader => metadata.nearest(topic, number, rack),
            _ => metadata.leader(topic, number).map(|leader| Server {
                broker: leader.broker,
                is_leader: true,
                epoch: leader.epoch,
            }),
        }
    }

    /// Partitions that were taken off a stream that had to end.
    fn bound_nowhere(&self, state: &State, now: Instant) -> BTreeMap<TopicPartition, Server> {
        let free = |part: &Part| {
            part.is_wanted() && part.stream.is_none() && part.not_before.is_none_or(|at| at <= now)
        };
        let parts = state.parts.iter().filter(|(_, part)| free(part));
        parts.filter_map(|(p, part)| Some((p.clone(), self.server(p, part, now)?))).collect()
    }

    /// Ends the streams that bring what is not wanted of them, or nothing any more.
    fn end_streams(&mut self, state: &mut State) {
        for source in self.sources.values_mut() {
            source.streams.retain(|id, _| {
                let stays = state.is_of_use(*id);
                if !stays {
                    state.unbind(*id);
                }
                stays
            });
        }
    }

    /// Adds the partitions of a broker's other streams when there are too many of those.
    fn merge(
        &mut self,
        state: &mut State,
        place: Place,
        mut partitions: BTreeMap<TopicPartition, Server>,
    ) -> BTreeMap<TopicPartition, Server> {
        let Some(source) = self.sources.get_mut(&place) else { return partitions };
        if source.streams.len() < STREAMS_MAX {
            return partitions;
        }
        for id in std::mem::take(&mut source.streams).into_keys() {
            for partition in state.unbind(id).partitions {
                if let Some(server) = state.parts.get(&partition).and_then(|part| part.server) {
                    partitions.insert(partition, server);
                }
            }
        }
        partitions
    }

    fn open(&mut self, state: &mut State, place: Place, partitions: BTreeMap<TopicPartition, Server>) {
        self.next_stream += 1;
        let id = self.next_stream;
        let mut request = Vec::with_capacity(partitions.len());
        let mut served = Served { news: true, ..Served::default() };
        for (partition, server) in partitions {
            let Some(part) = state.parts.get_mut(&partition) else { continue };
            part.stream = Some(id);
            part.server = Some(server);
            part.not_before = None;
            request.push(v1::FetchPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                offset: part.fetch_from,
                leader_epoch: part.known_epoch(server),
            });
            served.partitions.insert(partition);
        }
        state.served.insert(id, served);
        let reader = Reader {
            client: self.client.clone(),
            config: Arc::clone(&self.config),
            shared: Arc::clone(&self.shared),
            id,
            broker: place.broker,
            from_leader: place.is_leader,
        };
        let events = self.events.clone();
        let task = tokio::spawn(Box::pin(async move {
            let ending = reader.run(request).await;
            // Refused once the consumer is gone.
            let _ = events.send(Event::Ended { place, id, ending });
        }));
        self.sources.entry(place).or_default().streams.insert(id, Stream(task.abort_handle()));
    }

    /// Looks up leaders when they were not for long, or when a stream is silent: its broker may not know
    /// that another one was elected, and nobody else would say so.
    fn check(&mut self) {
        let now = Instant::now();
        if now >= self.next_check {
            self.next_check = now + check_interval(&self.client);
            let mut silent = None;
            let mut state = self.shared.lock();
            for (place, source) in &self.sources {
                for id in source.streams.keys() {
                    let served = state.served.get_mut(id);
                    if served.is_some_and(|served| !std::mem::take(&mut served.news)) {
                        silent = Some(place.broker);
                    }
                }
            }
            drop(state);
            if silent.is_some() && self.client.metadata().addresses().len() > 1 {
                self.refresh(silent);
            }
        }
        if now >= self.too_old {
            self.too_old = now + self.client.config().metadata_max_age;
            self.refresh(None);
        }
    }

    /// Looks up the assigned topics, of any broker or any but one; one look at a time.
    fn refresh(&mut self, but: Option<i32>) {
        let now = Instant::now();
        if self.refreshing || now < self.next_refresh {
            return;
        }
        self.refreshing = true;
        self.next_refresh = now + REFRESH_PAUSE;
        let mut topics: Vec<String> =
            self.shared.lock().parts.keys().map(|partition| partition.topic.to_string()).collect();
        topics.dedup();
        let (client, events) = (self.client.clone(), self.events.clone());
        tokio::spawn(async move {
            let answer = match but {
                Some(broker) => client.refresh_elsewhere(broker, topics).await,
                None => client.refresh(topics).await,
            };
            if let Err(error) = answer {
                tracing::debug!(%error, "metadata not refreshed");
            }
            let _ = events.send(Event::Refreshed);
        });
    }
}

fn check_interval(client: &Client) -> Duration {
    client.config().leader_check.saturating_mul(4)
}
