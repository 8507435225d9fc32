//! The entry: one client, its connections and its view of the cluster.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::cluster_client::ClusterClient;
use headwater_proto::v1::data_client::DataClient;
use headwater_proto::{ErrorCode, v1};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::addresses::Addresses;
use crate::backoff::{Attempts, Entropy};
use crate::connection::{Fault, Pool};
use crate::faults::Faults;
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

    /// Asks any broker (`but` one) until there is an answer, the time is over, or asking again could do
    /// it twice. A broker that can't be reached is passed over at once, all of them only after a pause.
    async fn ask<T, F>(
        &self,
        request: Request<'_>,
        but: Option<i32>,
        call: impl Fn(&str) -> Result<F, ClientError>,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + request.timeout;
        let mut attempts = Attempts::default();
        let mut patience = request.patience;
        let mut asked = 0;
        let mut faults = Faults::default();
        loop {
            let all = self.known_addresses(but);
            let address = self.inner.addresses.choose(&all);
            let patient = request.changes || all.len() < 2;
            let until = if patient { deadline } else { deadline.min(Instant::now() + patience) };
            let fault = match self.attempt(&address, until, &call).await? {
                Ok(response) => return Ok(response),
                Err(fault) => fault,
            };
            asked += 1;
            let round_is_over = asked % all.len().max(1) == 0;
            let mut pause = Duration::ZERO;
            if round_is_over {
                pause = attempts.failed(&self.inner.config.retry, &self.inner.entropy);
                patience = patience.saturating_mul(2);
            }
            match fault {
                Fault::Refused(status) => return Err(refused(request, &status)),
                Fault::Lost(reason) if request.changes => {
                    let (operation, target) = (request.operation, request.target.to_owned());
                    let reason = format!("{address}: {reason}");
                    return Err(ClientError::OutcomeUnknown { operation, target, reason });
                }
                fault if Instant::now() >= deadline => faults.add_last(&address, fault),
                fault => faults.add(&address, fault),
            }
            if Instant::now() + pause >= deadline {
                return Err(faults.into_error(request));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// As [`Client::ask`], for what only reads and may take long: a broker that has not answered for a while
    /// is waited for on, beside the next one. Those that the configuration names come first.
    async fn ask_beside<T, F>(
        &self,
        request: Request<'_>,
        call: impl Fn(&str) -> Result<F, ClientError>,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + request.timeout;
        let call = &call;
        let begin = |address: String| {
            Box::pin(async move {
                let result = self.attempt(&address, deadline, call).await;
                (address, result)
            })
        };
        let mut attempts = Attempts::default();
        let mut faults = Faults::default();
        loop {
            let mut left = VecDeque::from(self.named_first());
            let turn = request.patience.min(request.timeout / (2 * left.len().max(1) as u32));
            let mut under_way = Vec::new();
            while !(left.is_empty() && under_way.is_empty()) {
                if let Some(address) = left.pop_front() {
                    under_way.push((address.clone(), begin(address)));
                }
                let Ok((address, result)) = tokio::time::timeout(turn, first_of(&mut under_way)).await else {
                    under_way.iter().for_each(|(address, _)| self.inner.addresses.failed(address));
                    continue;
                };
                match result? {
                    Ok(response) => return Ok(response),
                    Err(Fault::Refused(status)) => return Err(refused(request, &status)),
                    Err(fault) => faults.add(&address, fault),
                }
            }
            let pause = attempts.failed(&self.inner.config.retry, &self.inner.entropy);
            if Instant::now() + pause >= deadline {
                return Err(faults.into_error(request));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks one broker, once.
    pub(crate) async fn ask_broker<T, F>(
        &self,
        broker: i32,
        within: Duration,
        call: impl FnOnce(&str) -> Result<F, ClientError>,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let address = self.address_of(broker)?;
        let target = format!("broker {broker} at {address}");
        let fault = match self.attempt(&address, Instant::now() + within, call).await? {
            Ok(response) => return Ok(response),
            Err(fault) => fault,
        };
        Err(match fault {
            Fault::Refused(status) => {
                refused(Request { target: &target, ..self.request("ask", "") }, &status)
            }
            Fault::Lost(reason) => ClientError::TimedOut { operation: "ask", target, after: within, reason },
            Fault::NeverSent(reason) => {
                ClientError::Unreachable { operation: "ask", target, brokers: address, reason }
            }
        })
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

    async fn attempt<T, F>(
        &self,
        address: &str,
        until: Instant,
        call: impl FnOnce(&str) -> Result<F, ClientError>,
    ) -> Result<Result<T, Fault>, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let started = Instant::now();
        // Boxed: a tonic call is a large future, and this one sits inside many others.
        let fault = match tokio::time::timeout_at(until, Box::pin(call(address)?)).await {
            Ok(Ok(response)) => {
                self.inner.addresses.answered(address);
                return Ok(Ok(response.into_inner()));
            }
            Ok(Err(status)) => Fault::of(status),
            Err(_) => Fault::Lost(format!("no answer within {} ms", started.elapsed().as_millis())),
        };
        if !matches!(fault, Fault::Refused(_)) {
            self.inner.addresses.failed(address);
        }
        Ok(Err(fault))
    }

    /// Addresses to ask, those of known brokers first; the configured ones help when all have moved.
    fn known_addresses(&self, but: Option<i32>) -> Vec<String> {
        let avoided = but.and_then(|broker| self.inner.metadata.address(broker));
        let known = self.inner.metadata.addresses();
        let all = distinct(known.into_iter().chain(self.inner.config.brokers.iter().cloned()));
        let others: Vec<String> = all.iter().filter(|a| Some(*a) != avoided.as_ref()).cloned().collect();
        if others.is_empty() { all } else { others }
    }

    /// Addresses to ask, those of the configuration first, and of all those last that failed a moment ago.
    fn named_first(&self) -> Vec<String> {
        let named = self.inner.config.brokers.iter().cloned();
        let mut all = distinct(named.chain(self.inner.metadata.addresses()));
        self.inner.addresses.put_failed_last(&mut all);
        all
    }
}

fn distinct(addresses: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    addresses.filter(|address| seen.insert(address.clone())).collect()
}

/// Waits for the first of several futures to end, and takes it out; for ever where there are none.
async fn first_of<F: Future>(under_way: &mut Vec<(String, Pin<Box<F>>)>) -> F::Output {
    poll_fn(|cx| {
        for at in 0..under_way.len() {
            if let Some((_, future)) = under_way.get_mut(at)
                && let Poll::Ready(output) = future.as_mut().poll(cx)
            {
                drop(under_way.swap_remove(at));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
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
    let (code, message) = named_code(status.message()).unwrap_or((code, status.message()));
    let message = message.to_owned();
    ClientError::Refused { operation, target, code, message, retriable: code.is_retriable() }
}

/// A broker that refuses a call as a whole puts the name of the code in front of the message.
fn named_code(message: &str) -> Option<(ErrorCode, &str)> {
    let (name, message) = message.split_once(": ")?;
    let code = ErrorCode::ALL.iter().find(|code| code.name() == name)?;
    Some((*code, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_that_a_refusal_names_is_not_said_twice() {
        let said = "UNKNOWN_TOPIC_OR_PARTITION: there is no topic 'x'";
        assert_eq!(named_code(said), Some((ErrorCode::UnknownTopicOrPartition, "there is no topic 'x'")));
        assert_eq!(named_code("it failed: no reason"), None);
        assert_eq!(named_code(""), None);
    }
}
