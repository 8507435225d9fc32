//! The consumer's task that keeps one stream per broker, over the partitions that it leads and the
//! consumer wants.
//!
//! A stream's partitions are fixed when it is opened; each change ends the broker's stream and opens
//! another at the offsets reached. That loses what was on its way, and never a record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_proto::v1;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::config::ConsumerConfig;
use super::reader::{Ending, Reader};
use super::state::{Shared, StreamId};
use crate::backoff::Attempts;
use crate::{Client, TopicPartition};

/// When nothing else is to be done.
const IDLE: std::time::Duration = std::time::Duration::from_secs(300);

/// Pause between two looks at who leads what.
const REFRESH_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What the planner's own tasks tell it.
enum Event {
    Ended { broker: i32, id: StreamId, ending: Ending },
    Refreshed,
}

/// A broker and the stream from it.
#[derive(Default)]
struct Source {
    stream: Option<Stream>,
    attempts: Attempts,
    not_before: Option<Instant>,
}

struct Stream {
    id: StreamId,
    partitions: BTreeSet<TopicPartition>,
    task: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Planner {
    client: Client,
    config: Arc<ConsumerConfig>,
    shared: Arc<Shared>,
    sources: BTreeMap<i32, Source>,
    next_stream: StreamId,
    refreshing: bool,
    next_refresh: Option<Instant>,
    events: mpsc::UnboundedSender<Event>,
    receiver: mpsc::UnboundedReceiver<Event>,
}

impl Planner {
    pub fn new(client: Client, config: Arc<ConsumerConfig>, shared: Arc<Shared>) -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        Self {
            client,
            config,
            shared,
            sources: BTreeMap::new(),
            next_stream: 0,
            refreshing: false,
            next_refresh: None,
            events,
            receiver,
        }
    }

    /// Runs until it is aborted.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let again = self.plan().unwrap_or_else(|| Instant::now() + IDLE);
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
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Refreshed => self.refreshing = false,
            Event::Ended { broker, id, ending } => {
                let Some(source) = self.sources.get_mut(&broker) else { return };
                if source.stream.as_ref().is_none_or(|stream| stream.id != id) {
                    return;
                }
                tracing::debug!(broker, ending, "consume stream lost");
                let mut state = self.shared.lock();
                // A stream that brought something was a success: begin again with short pauses.
                if state.parts.values().any(|part| part.stream == Some(id) && part.fetch_from > part.position)
                {
                    source.attempts.succeeded();
                }
                for part in state.parts.values_mut().filter(|part| part.stream == Some(id)) {
                    part.stream = None;
                }
                drop(state);
                source.stream = None;
                let pause = source.attempts.failed(&self.client.config().retry, self.client.entropy());
                source.not_before = Some(Instant::now() + pause);
                self.refresh();
            }
        }
    }

    /// Opens and ends streams, so that each wanted partition has one. Gives when to look again.
    fn plan(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut again: Option<Instant> = None;
        let mut later = |at: Instant| again = Some(again.map_or(at, |before| before.min(at)));
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        let mut wanted: BTreeMap<i32, BTreeSet<TopicPartition>> = BTreeMap::new();
        let mut lost = false;
        for (partition, part) in state.parts.iter().filter(|(_, part)| part.is_wanted()) {
            if let Some(at) = part.not_before.filter(|at| now < *at) {
                later(at);
                // It may have to rest because its leader has moved.
                lost = true;
                continue;
            }
            match self.client.metadata().leader(&partition.topic, partition.partition) {
                Some(broker) => {
                    wanted.entry(broker).or_default().insert(partition.clone());
                }
                None => {
                    lost = true;
                    later(now + REFRESH_PAUSE);
                }
            }
        }
        self.sources.iter_mut().filter(|(broker, _)| !wanted.contains_key(broker)).for_each(|(_, source)| {
            source.stream = None;
        });
        for (broker, partitions) in wanted {
            let source = self.sources.entry(broker).or_default();
            let bound = |stream: &Stream| {
                let is_bound = |p| state.parts.get(p).is_some_and(|part| part.stream == Some(stream.id));
                stream.partitions == partitions && partitions.iter().all(is_bound)
            };
            if source.stream.as_ref().is_some_and(bound) {
                continue;
            }
            source.stream = None;
            if let Some(at) = source.not_before.filter(|at| now < *at) {
                later(at);
                continue;
            }
            self.next_stream += 1;
            let id = self.next_stream;
            let mut request = Vec::with_capacity(partitions.len());
            for partition in &partitions {
                let Some(part) = state.parts.get_mut(partition) else { continue };
                part.stream = Some(id);
                part.not_before = None;
                request.push(v1::FetchPartition {
                    topic: partition.topic.to_string(),
                    partition: partition.partition,
                    offset: part.fetch_from,
                    leader_epoch: -1,
                });
            }
            let reader = Reader {
                client: self.client.clone(),
                config: Arc::clone(&self.config),
                shared: Arc::clone(&self.shared),
                id,
                broker,
            };
            let events = self.events.clone();
            let task = tokio::spawn(Box::pin(async move {
                let ending = reader.run(request).await;
                // Refused once the consumer is gone.
                let _ = events.send(Event::Ended { broker, id, ending });
            }));
            source.stream = Some(Stream { id, partitions, task: task.abort_handle() });
        }
        drop(state);
        if lost {
            self.refresh();
        }
        again
    }

    /// Looks up the assigned topics; one look at a time.
    fn refresh(&mut self) {
        let now = Instant::now();
        if self.refreshing || self.next_refresh.is_some_and(|at| now < at) {
            return;
        }
        self.refreshing = true;
        self.next_refresh = Some(now + REFRESH_PAUSE);
        let mut topics: Vec<String> =
            self.shared.lock().parts.keys().map(|partition| partition.topic.to_string()).collect();
        topics.dedup();
        let (client, events) = (self.client.clone(), self.events.clone());
        tokio::spawn(async move {
            if let Err(error) = client.refresh(topics).await {
                tracing::debug!(%error, "metadata not refreshed");
            }
            let _ = events.send(Event::Refreshed);
        });
    }
}
