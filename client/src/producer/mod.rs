//! The producer: `send` copies a record into its partition's open batch and returns a promise; one
//! task per producer sends batches and keeps the promises.

mod accumulator;
mod config;
mod delivery;
mod driver;
mod identity;
mod lane;
mod link;
mod links;
mod partitioner;
mod routes;
mod sealed;
mod stats;
mod timers;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use config::{Acks, ProducerConfig, ProducerRecord};
pub use delivery::{Delivered, Delivery};
pub use partitioner::partition_for_key;
pub use stats::ProducerStats;

use self::accumulator::{Accumulator, Queue, RecordRef, Topic};
use self::driver::{Driver, Event};
use self::identity::init_producer_id;
use crate::{Client, ClientError, SendError};

/// Sends records. Cheap to clone: all clones share one buffer. When the last is dropped, what was
/// accepted is still sent, for as long as the runtime lives; [`Producer::close`] waits for it.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    shared: Arc<Accumulator>,
    events: mpsc::UnboundedSender<Event>,
}

impl Producer {
    pub(crate) async fn start(client: Client, config: ProducerConfig) -> Result<Self, ClientError> {
        config.check()?;
        let identity = match config.idempotent {
            true => Some(init_producer_id(&client, config.delivery_timeout).await?),
            false => None,
        };
        let shared = Arc::new(Accumulator::new(config));
        let (events, receiver) = mpsc::unbounded_channel();
        let driver = Driver::new(client.clone(), Arc::clone(&shared), identity, events.clone());
        // Boxed: the task is large, and lives as long as the producer.
        tokio::spawn(Box::pin(driver.run(receiver)));
        Ok(Self { inner: Arc::new(Inner { client, shared, events }) })
    }

    /// Accepts a record; waits for room in the buffer. Dropped before it is ready, the record is not
    /// sent.
    ///
    /// # Errors
    /// The record was not accepted, and won't be sent.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, SendError> {
        let headers: Vec<_> =
            record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.send_parts(&record.topic, record.partition, key, value, &headers, record.timestamp_ms).await
    }

    /// As [`Producer::send`], from borrowed parts: the value is copied once, into its batch.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_parts(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
        timestamp_ms: Option<i64>,
    ) -> Result<Delivery, SendError> {
        let shared = &self.inner.shared;
        let queues = match shared.topic(topic) {
            Some(queues) => queues,
            None => Box::pin(self.look_up(topic)).await?,
        };
        let queue = match self.choose(topic, &queues, partition, key) {
            Ok(queue) => Arc::clone(queue),
            // It may have been added since the topic was looked up.
            Err(_) => {
                let queues = Box::pin(self.look_up_again(topic)).await?;
                Arc::clone(self.choose(topic, &queues, partition, key)?)
            }
        };
        let timestamp_ms = timestamp_ms.unwrap_or_else(|| self.inner.client.now_ms());
        shared.append(&queue, RecordRef { timestamp_ms, key, value, headers }).await
    }

    fn choose<'a>(
        &self,
        topic: &str,
        queues: &'a Topic,
        partition: Option<i32>,
        key: Option<&[u8]>,
    ) -> Result<&'a Arc<Queue>, SendError> {
        let partitions = queues.partition_count();
        let (queue, partition) = match (partition, key) {
            (Some(partition), _) => (queues.queue(partition), partition),
            (None, Some(key)) => {
                let partition = partition_for_key(key, partitions);
                (queues.queue(partition), partition)
            }
            (None, None) => (queues.sticky_queue(self.inner.client.entropy()), 0),
        };
        queue.ok_or_else(|| SendError::NoSuchPartition { topic: topic.to_owned(), partition, partitions })
    }

    async fn look_up(&self, topic: &str) -> Result<Arc<Topic>, SendError> {
        let partitions = self.inner.client.partition_count(topic).await?;
        Ok(self.inner.shared.ensure_topic(topic, partitions))
    }

    async fn look_up_again(&self, topic: &str) -> Result<Arc<Topic>, SendError> {
        self.inner.client.refresh(vec![topic.to_owned()]).await?;
        self.look_up(topic).await
    }

    /// Sends what is buffered without waiting for linger, and returns when every record accepted
    /// before the call is resolved.
    pub async fn flush(&self) {
        let (done, resolved) = oneshot::channel();
        self.tell_and_wait(Event::Flush { done }, resolved).await;
    }

    /// Refuses further records, flushes, and ends the producer's task.
    pub async fn close(&self) {
        self.inner.shared.close();
        let (done, resolved) = oneshot::channel();
        self.tell_and_wait(Event::Close { done }, resolved).await;
    }

    async fn tell_and_wait(&self, event: Event, resolved: oneshot::Receiver<()>) {
        // An error means that the driver is gone, and it resolves everything before it goes.
        if self.inner.events.send(event).is_ok() {
            let _ = resolved.await;
        }
    }

    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        let shared = &self.inner.shared;
        shared.counters.snapshot(shared.buffered_bytes())
    }

    /// The number of partitions of a topic, from the metadata cache or asked for.
    ///
    /// # Errors
    /// The topic doesn't exist, or no broker could be asked.
    pub async fn partitions(&self, topic: &str) -> Result<i32, ClientError> {
        self.inner.client.partition_count(topic).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        let (done, _) = oneshot::channel();
        let _ = self.events.send(Event::Close { done });
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("config", &self.inner.shared.config).finish_non_exhaustive()
    }
}
