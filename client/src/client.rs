//! The entry: one client, its connections and its view of the cluster.

use crate::{Admin, ClientConfig, ClientError, Consumer, ConsumerConfig, Producer, ProducerConfig};

/// A connected client. Cheap to clone.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Finds the cluster through any of the configured brokers.
    pub async fn connect(_config: ClientConfig) -> Result<Self, ClientError> {
        unimplemented!()
    }

    #[must_use]
    pub fn admin(&self) -> Admin {
        unimplemented!()
    }

    /// A producer of its own buffer and connections' streams.
    pub async fn producer(&self, config: ProducerConfig) -> Result<Producer, ClientError> {
        Producer::start(self.clone(), config).await
    }

    /// A consumer without an assignment.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        Consumer::start(self.clone(), config)
    }
}
