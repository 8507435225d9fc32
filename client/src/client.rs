//! The entry: one client, its connections and its view of the cluster.

mod ask;

use std::sync::Arc;
use std::time::Duration;

use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::cluster_client::ClusterClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_proto::{ErrorCode, v1};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::addresses::Addresses;
use crate::backoff::{Attempts, Entropy};
use crate::connection::Pool;
use crate::metadata::{Metadata, find_topic};
use crate::{Admin, ClientConfig, ClientError, Consumer, ConsumerConfig, Producer, ProducerConfig, ambient};

/// A connected client. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    pool: Pool,
    metadata: Metadata,
    entropy: Entropy,
    addresses: Addresses,
}

/// One request, as errors name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub operation: &'static str,
    pub target: &'a str,
    /// It changes something: it isn't sent again unless it is certain that nothing was done.
    pub changes: bool,
    pub timeout: Duration,
    /// What changes nothing is asked of another broker after this; twice as long in each round.
    pub patience: Duration,
}

impl Client {
    /// Finds the cluster through any of the configured brokers, and waits for one that is starting.
    ///
    /// # Errors
    /// The configuration is wrong, or no broker answered within the bootstrap time-out.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        config.check()?;
        let timeout = config.bootstrap_timeout;
        let client = Self {
            inner: Arc::new(Inner {
                pool: Pool::new(&config),
                metadata: Metadata::default(),
                entropy: Entropy::new(config.seed.unwrap_or_else(ambient::seed)),
                addresses: Addresses::default(),
                config,
            }),
        };
        let request = Request { timeout, ..client.request("connect to", "the cluster") };
        client.request_metadata(request, None, Vec::new()).await?;
        Ok(client)
    }

    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A producer with a buffer of its own.
    ///
    /// # Errors
    /// The configuration is wrong, or no broker gave a producer id.
    pub async fn producer(&self, config: ProducerConfig) -> Result<Producer, ClientError> {
        Producer::start(self.clone(), config).await
    }

    /// A consumer without an assignment.
    ///
    /// # Errors
    /// The configuration is wrong.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        Consumer::start(self.clone(), config)
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    pub(crate) fn entropy(&self) -> &Entropy {
        &self.inner.entropy
    }

    pub(crate) fn now_ms(&self) -> i64 {
        (self.inner.config.clock)()
    }

    /// A request with the configured time-out.
    pub(crate) fn request<'a>(&self, operation: &'static str, target: &'a str) -> Request<'a> {
        let ClientConfig { request_timeout, leader_check, .. } = self.inner.config;
        Request { operation, target, changes: false, timeout: request_timeout, patience: leader_check }
    }

    /// The data service of a broker, by its id.
    pub(crate) fn data(&self, broker: i32) -> Result<DataClient<Channel>, ClientError> {
        self.inner.pool.data(&self.address_of(broker)?)
    }

    fn address_of(&self, broker: i32) -> Result<String, ClientError> {
        self.inner.metadata.address(broker).ok_or_else(|| ClientError::Unreachable {
            operation: "connect to",
            target: "a broker".to_owned(),
            brokers: format!("broker {broker}"),
            reason: "its address is not known".to_owned(),
        })
    }

    /// Asks for the named topics (all, when none is named) and takes the answer over.
    pub(crate) async fn refresh(&self, topics: Vec<String>) -> Result<v1::MetadataResponse, ClientError> {
        self.request_metadata(self.request("describe", "the cluster"), None, topics).await
    }

    /// As [`Client::refresh`], of any broker but one: that one may not know yet that it was replaced.
    pub(crate) async fn refresh_elsewhere(
        &self,
        than: i32,
        topics: Vec<String>,
    ) -> Result<v1::MetadataResponse, ClientError> {
        self.request_metadata(self.request("describe", "the cluster"), Some(than), topics).await
    }

    async fn request_metadata(
        &self,
        request: Request<'_>,
        but: Option<i32>,
        topics: Vec<String>,
    ) -> Result<v1::MetadataResponse, ClientError> {
        let response = self
            .ask(request, but, |address| {
                let mut admin = self.inner.pool.admin(address)?;
                let topics = topics.clone();
                Ok(async move { admin.metadata(v1::MetadataRequest { topics }).await })
            })
            .await?;
        self.inner.metadata.update(&response);
        Ok(response)
    }

    /// Looks topics up. A broker may not have heard yet of one that was just created: the leader of
    /// the metadata has the last word.
    pub(crate) async fn look_up(&self, topics: Vec<String>) -> Result<v1::MetadataResponse, ClientError> {
        let response = self.refresh(topics.clone()).await?;
        let unknown = i32::from(ErrorCode::UnknownTopicOrPartition.number());
        let is_unknown = |topic: &v1::TopicMetadata| topic.error.as_ref().is_some_and(|e| e.code == unknown);
        let controller = self.inner.metadata.controller().filter(|_| response.brokers.len() > 1);
        let Some(controller) = controller.filter(|_| response.topics.iter().any(is_unknown)) else {
            return Ok(response);
        };
        let within = self.inner.config.leader_check;
        let asked = self.ask_broker(controller, within, |address| {
            let mut admin = self.inner.pool.admin(address)?;
            Ok(async move { admin.metadata(v1::MetadataRequest { topics }).await })
        });
        match asked.await {
            Ok(authoritative) => {
                self.inner.metadata.update(&authoritative);
                Ok(authoritative)
            }
            Err(_) => Ok(response),
        }
    }

    /// The number of partitions of a topic, from the cache or asked for.
    pub(crate) async fn partition_count(&self, topic: &str) -> Result<i32, ClientError> {
        if let Some(count) = self.inner.metadata.partition_count(topic) {
            return Ok(count);
        }
        let response = self.look_up(vec![topic.to_owned()]).await?;
        let found = find_topic(&response, "look up", topic)?;
        i32::try_from(found.partitions.len()).map_err(|_| ClientError::Protocol {
            operation: "look up",
            target: format!("topic {topic}"),
            reason: "it has more than 2^31 partitions".to_owned(),
        })
    }

    /// Asks any broker's admin service.
    pub(crate) async fn ask_admin<T, F>(
        &self,
        request: Request<'_>,
        call: impl Fn(AdminClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(request, None, |address| Ok(call(self.inner.pool.admin(address)?))).await
    }

    /// Asks any broker's cluster service.
    pub(crate) async fn ask_cluster<T, F>(
        &self,
        request: Request<'_>,
        call: impl Fn(ClusterClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(request, None, |address| Ok(call(self.inner.pool.cluster(address)?))).await
    }

    /// As [`Client::ask_cluster`], for what only reads: no broker that hangs hides another one.
    pub(crate) async fn read_cluster<T, F>(
        &self,
        request: Request<'_>,
        call: impl Fn(ClusterClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_beside(request, |address| Ok(call(self.inner.pool.cluster(address)?))).await
    }

    /// Asks any broker's data service.
    pub(crate) async fn ask_data<T, F>(
        &self,
        request: Request<'_>,
        call: impl Fn(DataClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(request, None, |address| Ok(call(self.inner.pool.data(address)?))).await
    }

    /// Repeats an attempt while brokers answer that the cluster has no leader for it at the moment:
    /// nothing was done then. An attempt is given the request with the time that is left.
    pub(crate) async fn until_led<'a, T, F>(
        &self,
        request: Request<'a>,
        attempt: impl Fn(Request<'a>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let deadline = Instant::now() + request.timeout;
        let mut attempts = Attempts::default();
        loop {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let result = attempt(Request { timeout, ..request }).await;
            let pause = attempts.searched(&self.inner.config.retry, &self.inner.entropy);
            match result {
                Err(error) if error.is_leaderless() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }

    /// Asks one broker's admin service, once.
    pub(crate) async fn ask_broker_admin<T, F>(
        &self,
        broker: i32,
        within: Duration,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_broker(broker, within, |address| Ok(call(self.inner.pool.admin(address)?))).await
    }

    /// Asks one broker's data service, once.
    pub(crate) async fn ask_broker_data<T, F>(
        &self,
        broker: i32,
        within: Duration,
        call: impl FnOnce(DataClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_broker(broker, within, |address| Ok(call(self.inner.pool.data(address)?))).await
    }
}
