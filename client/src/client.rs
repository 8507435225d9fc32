//! The entry: one client, its connections and its view of the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_proto::{ErrorCode, v1};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::backoff::{Attempts, Entropy};
use crate::connection::{Fault, Pool};
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
    /// Which of the known addresses is asked next.
    turn: AtomicUsize,
}

/// One request, as errors name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub operation: &'static str,
    pub target: &'a str,
    /// It changes something: it isn't sent again unless it is certain that nothing was done.
    pub changes: bool,
    pub timeout: Duration,
}

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Any,
    Broker(i32),
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
                turn: AtomicUsize::new(0),
                config,
            }),
        };
        let request = Request { operation: "connect to", target: "the cluster", changes: false, timeout };
        client.request_metadata(request, Vec::new()).await?;
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
        Request { operation, target, changes: false, timeout: self.inner.config.request_timeout }
    }

    /// The data service of a broker, by its id.
    pub(crate) fn data(&self, broker: i32) -> Result<DataClient<Channel>, ClientError> {
        let address = self.inner.metadata.address(broker).ok_or_else(|| ClientError::Unreachable {
            operation: "connect to",
            brokers: format!("broker {broker}"),
            reason: "its address is not known".to_owned(),
        })?;
        self.inner.pool.data(&address)
    }

    /// Asks for the named topics (all, when none is named) and takes the answer over.
    pub(crate) async fn refresh(&self, topics: Vec<String>) -> Result<v1::MetadataResponse, ClientError> {
        self.request_metadata(self.request("describe", "the cluster"), topics).await
    }

    async fn request_metadata(
        &self,
        request: Request<'_>,
        topics: Vec<String>,
    ) -> Result<v1::MetadataResponse, ClientError> {
        let response = self
            .ask_admin(request, Whom::Any, |mut admin| {
                let topics = topics.clone();
                async move { admin.metadata(v1::MetadataRequest { topics }).await }
            })
            .await?;
        self.inner.metadata.update(&response);
        Ok(response)
    }

    /// The number of partitions of a topic, from the cache or asked for.
    pub(crate) async fn partition_count(&self, topic: &str) -> Result<i32, ClientError> {
        if let Some(count) = self.inner.metadata.partition_count(topic) {
            return Ok(count);
        }
        let response = self.refresh(vec![topic.to_owned()]).await?;
        let found = find_topic(&response, "look up", topic)?;
        i32::try_from(found.partitions.len()).map_err(|_| ClientError::Protocol {
            operation: "look up",
            target: format!("topic {topic}"),
            reason: "it has more than 2^31 partitions".to_owned(),
        })
    }

    pub(crate) async fn ask_admin<T, F>(
        &self,
        request: Request<'_>,
        whom: Whom,
        call: impl Fn(AdminClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(request, whom, |address| Ok(call(self.inner.pool.admin(address)?))).await
    }

    pub(crate) async fn ask_data<T, F>(
        &self,
        request: Request<'_>,
        whom: Whom,
        call: impl Fn(DataClient<Channel>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask(request, whom, |address| Ok(call(self.inner.pool.data(address)?))).await
    }

    /// Asks until there is an answer, the time is over, or asking again could do it twice.
    async fn ask<T, F>(
        &self,
        request: Request<'_>,
        whom: Whom,
        call: impl Fn(&str) -> Result<F, ClientError>,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + request.timeout;
        let mut attempts = Attempts::default();
        loop {
            let address = self.address(whom);
            // Boxed: a tonic call is a large future, and this one sits inside many others.
            let answer = tokio::time::timeout_at(deadline, Box::pin(call(&address)?)).await;
            let fault = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Fault::of(status),
                Err(_) => Fault::Lost(format!("no answer within {} ms", request.timeout.as_millis())),
            };
            let pause = attempts.failed(&self.inner.config.retry, &self.inner.entropy);
            let out_of_time = Instant::now() + pause >= deadline;
            match fault {
                Fault::Refused(status) => return Err(refused(request, &status)),
                Fault::Lost(reason) if request.changes => {
                    return Err(ClientError::OutcomeUnknown {
                        operation: request.operation,
                        target: request.target.to_owned(),
                        reason: format!("{address}: {reason}"),
                    });
                }
                Fault::Lost(reason) if out_of_time => {
                    return Err(ClientError::TimedOut {
                        operation: request.operation,
                        target: request.target.to_owned(),
                        after: request.timeout,
                        reason: format!("{address}: {reason}"),
                    });
                }
                Fault::NeverSent(reason) if out_of_time => {
                    return Err(ClientError::Unreachable {
                        operation: request.operation,
                        brokers: self.addresses(whom).join(", "),
                        reason,
                    });
                }
                Fault::Lost(_) | Fault::NeverSent(_) => tokio::time::sleep(pause).await,
            }
        }
    }

    fn address(&self, whom: Whom) -> String {
        let addresses = self.addresses(whom);
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        addresses.get(turn % addresses.len().max(1)).cloned().unwrap_or_default()
    }

    /// Addresses to ask, those of known brokers first; the configured ones help when all have moved.
    fn addresses(&self, whom: Whom) -> Vec<String> {
        if let Whom::Broker(id) = whom
            && let Some(address) = self.inner.metadata.address(id)
        {
            return vec![address];
        }
        let mut seen = BTreeSet::new();
        let known = self.inner.metadata.addresses();
        let all = known.into_iter().chain(self.inner.config.brokers.iter().cloned());
        all.filter(|address| seen.insert(address.clone())).collect()
    }
}

fn refused(request: Request<'_>, status: &Status) -> ClientError {
    let (operation, target) = (request.operation, request.target.to_owned());
    let code = match status.code() {
        Code::Unimplemented => {
            let reason = format!("it does not know this request: {}", status.message());
            return ClientError::Protocol { operation, target, reason };
        }
        Code::InvalidArgument => ErrorCode::InvalidRequest,
        Code::NotFound => ErrorCode::UnknownTopicOrPartition,
        Code::AlreadyExists => ErrorCode::TopicAlreadyExists,
        Code::OutOfRange => ErrorCode::OffsetOutOfRange,
        Code::ResourceExhausted => ErrorCode::ThrottlingQuotaExceeded,
        _ => ErrorCode::UnknownServerError,
    };
    let message = status.message().to_owned();
    ClientError::Refused { operation, target, code, message, retriable: code.is_retriable() }
}
