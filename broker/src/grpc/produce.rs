//! The stream of produce requests.
//!
//! Invariants: a request is decided on before the next one of its stream is read, so that they reach a
//! partition in order; acknowledgements are awaited side by side. A message's memory stays charged until
//! it is answered, or its batches are settled, whichever is later.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt};
use headwater_proto::v1;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::convert::{check_partitions, explain, timeout_ms};
use crate::error::RequestError;
use crate::limits::MessageMemory;
use crate::node::Node;
use crate::partition::{Acknowledged, Submission};

type Answer = Pin<Box<dyn Future<Output = Option<v1::ProduceResponse>> + Send>>;

/// Answers of one stream, as they come.
pub type Answers = Pin<Box<dyn Stream<Item = Result<v1::ProduceResponse, Status>> + Send>>;

struct Session {
    node: Arc<Node>,
    requests: Streaming<v1::ProduceRequest>,
    memory: Option<Arc<MessageMemory>>,
    unanswered: FuturesUnordered<Answer>,
    /// Nothing more is read: the client is done, failed, or the broker drains.
    ended: Option<Result<(), Status>>,
}

/// Serves one stream.
pub fn answers(
    node: Arc<Node>,
    requests: Streaming<v1::ProduceRequest>,
    memory: Option<Arc<MessageMemory>>,
) -> Answers {
    let session = Session { node, requests, memory, unanswered: FuturesUnordered::new(), ended: None };
    Box::pin(stream::unfold(session, |mut session| async move {
        let answer = session.next().await?;
        Some((answer, session))
    }))
}

impl Session {
    async fn next(&mut self) -> Option<Result<v1::ProduceResponse, Status>> {
        loop {
            if let Some(ended) = &mut self.ended {
                match self.unanswered.next().await {
                    Some(Some(answer)) => return Some(Ok(answer)),
                    Some(None) => continue,
                    None => return std::mem::replace(ended, Ok(())).err().map(Err),
                }
            }
            tokio::select! {
                biased;
                Some(answer) = self.unanswered.next() => {
                    if let Some(answer) = answer {
                        return Some(Ok(answer));
                    }
                }
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.accept(request).await,
                    Ok(None) => self.ended = Some(Ok(())),
                    Err(status) => self.ended = Some(Err(status)),
                },
                () = self.node.drain().cancelled() => {
                    let stopping = "the broker is stopping: what was not answered was not read";
                    self.ended = Some(Err(Status::unavailable(stopping)));
                }
            }
        }
    }

    /// Proposes a request's batches; its answer comes later.
    async fn accept(&mut self, request: v1::ProduceRequest) {
        let permit = self.memory.as_ref().and_then(|memory| memory.take()).map(Arc::new);
        if let Err(status) = check_request(&self.node, &request) {
            self.ended = Some(Err(status));
            return;
        }
        let started = Instant::now();
        let timeout_ms = timeout_ms(&self.node, request.timeout_ms);
        let deadline = started + Duration::from_millis(timeout_ms);
        let mut submitted = Vec::with_capacity(request.partitions.len());
        for part in request.partitions {
            let bytes = part.records.len() as u64;
            let submission = self
                .node
                .submit(
                    &part.topic,
                    part.partition,
                    part.records,
                    request.acks,
                    part.leader_epoch,
                    permit.clone(),
                )
                .await;
            self.node.metrics().produced(bytes, submission.record_count);
            submitted.push((part.topic, part.partition, submission));
        }
        let (node, correlation, silent) = (Arc::clone(&self.node), request.correlation, request.acks == 0);
        self.unanswered.push(Box::pin(async move {
            let mut partitions = Vec::with_capacity(submitted.len());
            for (topic, partition, submission) in submitted {
                let acknowledged = until(deadline, timeout_ms, submission).await;
                partitions.push(result(&node, topic, partition, acknowledged));
            }
            node.metrics().produce_seconds.record(started.elapsed().as_secs_f64());
            drop(permit);
            (!silent).then_some(v1::ProduceResponse { correlation, partitions })
        }));
    }
}

fn check_request(node: &Node, request: &v1::ProduceRequest) -> Result<(), Status> {
    check_partitions(node, request.partitions.len())?;
    match request.acks {
        -1..=1 => Ok(()),
        other => Err(RequestError::InvalidAcks(other).to_status()),
    }
}

/// What is known of a submission at the deadline.
async fn until(deadline: Instant, timeout_ms: u64, submission: Submission) -> Acknowledged {
    let late = |_| Acknowledged {
        base_offset: None,
        batches_appended: 0,
        error: Some(RequestError::TimedOut { timeout_ms }),
    };
    tokio::time::timeout_at(deadline, submission.acknowledged()).await.unwrap_or_else(late)
}

fn result(node: &Node, topic: String, partition: i32, outcome: Acknowledged) -> v1::ProducePartitionResult {
    if let Some(error) = &outcome.error {
        node.metrics().refused("produce", error.code());
    }
    let log_start = node.partition(&topic, partition).map_or(-1, |p| p.now().log_start.get());
    v1::ProducePartitionResult {
        error: outcome.error.as_ref().map(|error| explain(node, &topic, partition, error)),
        topic,
        partition,
        base_offset: outcome.base_offset.map_or(-1, |offset| offset.get()),
        log_start_offset: log_start,
        batches_appended: outcome.batches_appended,
    }
}
