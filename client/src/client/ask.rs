//! Asking brokers: any of them until one answers, several beside one another, or one of them once.
//!
//! Invariant: what changes something is never sent again once it may have been received.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use headwater_proto::ErrorCode;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::{Client, Request};
use crate::ClientError;
use crate::backoff::Attempts;
use crate::connection::Fault;
use crate::faults::Faults;

impl Client {
    /// Asks any broker (`but` one) until there is an answer, the time is over, or asking again could do
    /// it twice. A broker that can't be reached is passed over at once, all of them only after a pause.
    pub(super) async fn ask<T, F>(
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
    pub(super) async fn ask_beside<T, F>(
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
