//! The data service of the fake broker.

use std::pin::Pin;
use std::time::Duration;

use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::v1::data_server::Data;
use headwater_proto::{ErrorCode, v1};
use rand::RngExt;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::log::{Place, place};
use super::{FakeNode, State};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub fn error(code: ErrorCode) -> Option<v1::Error> {
    let message = format!("fake: {}", code.name());
    Some(v1::Error { code: code.number().into(), message, retriable: code.is_retriable(), leader: None })
}

/// How it goes on after a batch.
enum Then {
    Answer,
    Cut,
    /// It is never answered.
    Silence,
}

/// Why a broker refuses by leadership and epoch; `None` within where it takes the request.
fn epoch_error(state: &mut State, node: i32, topic: &str, partition: i32, epoch: i32) -> Option<v1::Error> {
    let (leader, current) = state.log(topic, partition)?.belief(node);
    if leader != node {
        return state.not_leader(node, topic, partition);
    }
    match epoch {
        ..0 => None,
        _ if epoch < current => error(ErrorCode::FencedLeaderEpoch),
        _ if epoch > current => error(ErrorCode::UnknownLeaderEpoch),
        _ => None,
    }
}

/// What becomes of one batch.
fn produce_one(
    state: &mut State,
    node: i32,
    entry: &v1::ProducePartition,
) -> (v1::ProducePartitionResult, Then) {
    let mut result = v1::ProducePartitionResult {
        topic: entry.topic.clone(),
        partition: entry.partition,
        base_offset: -1,
        ..Default::default()
    };
    state.batches += 1;
    let faults = state.faults.clone();
    if state.chance(faults.cut_before) {
        return (result, Then::Cut);
    }
    if state.chance(faults.refuse) {
        let codes = [ErrorCode::NotLeaderOrFollower, ErrorCode::ThrottlingQuotaExceeded];
        let code = codes[state.rng.random_range(0..codes.len())];
        result.error = error(code);
        return (result, Then::Answer);
    }
    result.error = epoch_error(state, node, &entry.topic, entry.partition, entry.leader_epoch);
    if result.error.is_some() {
        return (result, Then::Answer);
    }
    if state.log(&entry.topic, entry.partition).is_some_and(|log| log.leader != node) {
        // It believes that it leads, and waits for followers that follow another one.
        return (result, Then::Silence);
    }
    match store(state, entry) {
        Ok(base_offset) => result.base_offset = base_offset,
        Err(code) => {
            result.error = error(code);
            return (result, Then::Answer);
        }
    }
    let cut = state.chance(faults.cut_after);
    if state.chance(faults.time_out) {
        result.error = error(ErrorCode::RequestTimedOut);
    }
    (result, if cut { Then::Cut } else { Then::Answer })
}

fn store(state: &mut State, entry: &v1::ProducePartition) -> Result<i64, ErrorCode> {
    if state.discard {
        return Ok(0);
    }
    if entry.records.len() > state.batch_bytes_max {
        return Err(ErrorCode::MessageTooLarge);
    }
    let batch = RecordBatch::validate(entry.records.clone(), &Limits::default()).map_err(|e| e.code())?;
    let header = *batch.header();
    let key = (header.producer_id, header.producer_epoch, entry.topic.clone(), entry.partition);
    if state.log(&entry.topic, entry.partition).is_none() {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    if header.producer_id >= 0 {
        let window = state.producers.entry(key.clone()).or_default();
        match place(window, header.base_sequence, header.record_count) {
            Place::Next => {}
            Place::Duplicate(base_offset) => return Ok(base_offset),
            Place::Refused(code) => return Err(code),
        }
    }
    let log = state.log(&entry.topic, entry.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let base_offset = log.append(&batch);
    if header.producer_id >= 0 {
        let window = state.producers.entry(key).or_default();
        window.push_back((header.base_sequence, header.record_count, base_offset));
        if window.len() > 5 {
            window.pop_front();
        }
    }
    Ok(base_offset)
}

impl FakeNode {
    fn produce_message(&self, request: &v1::ProduceRequest) -> Option<(v1::ProduceResponse, Duration)> {
        let mut state = self.lock();
        state.produce_messages += 1;
        state.largest_message_batches = state.largest_message_batches.max(request.partitions.len());
        state.node(self.id).produced += 1;
        let mut partitions = Vec::new();
        let mut answered = request.acks != 0 && !state.silent;
        for entry in &request.partitions {
            let (result, then) = produce_one(&mut state, self.id, entry);
            match then {
                Then::Cut => {
                    state.cut_node(self.id);
                    return None;
                }
                Then::Silence => answered = false,
                Then::Answer => {}
            }
            partitions.push(result);
        }
        let delay_ms = state.faults.delay_ms;
        let delay = Duration::from_millis(state.rng.random_range(0..=delay_ms));
        drop(state);
        self.appended.notify_waiters();
        let response = v1::ProduceResponse { correlation: request.correlation, partitions };
        answered.then_some((response, delay))
    }

    /// The next message for any of the partitions, or how long there is none.
    fn consume_message(
        &self,
        wanted: &mut Vec<v1::FetchPartition>,
        max_bytes: usize,
        allow_follower: bool,
    ) -> Option<v1::PartitionRecords> {
        let mut state = self.lock();
        for at in 0..wanted.len() {
            let entry = &mut wanted[at];
            let refusal = match allow_follower {
                true => None,
                false => epoch_error(&mut state, self.id, &entry.topic, entry.partition, entry.leader_epoch),
            };
            let Some(log) = state.log(&entry.topic, entry.partition) else { continue };
            let end = log.end(self.id);
            let mut records = v1::PartitionRecords {
                topic: entry.topic.clone(),
                partition: entry.partition,
                high_watermark: log.next_offset,
                log_start_offset: log.log_start,
                ..Default::default()
            };
            if refusal.is_some() {
                records.error = refusal;
            } else if allow_follower && entry.offset > end && entry.offset <= log.next_offset {
                records.error = error(ErrorCode::OffsetNotAvailable);
            } else if entry.offset < log.log_start || entry.offset > log.next_offset {
                records.error = error(ErrorCode::OffsetOutOfRange);
            }
            if records.error.is_some() {
                // Said once: the partition is out of this stream.
                wanted.remove(at);
                return Some(records);
            }
            if log.leader != self.id && !allow_follower {
                // It hears nothing from the one that leads, and does not know.
                continue;
            }
            let (bytes, next_offset) = log.read(entry.offset, end, max_bytes);
            if !bytes.is_empty() {
                entry.offset = next_offset;
                records.records = bytes;
                records.next_offset = next_offset;
                return Some(records);
            }
        }
        None
    }
}

#[tonic::async_trait]
impl Data for FakeNode {
    type ProduceStream = Replies<v1::ProduceResponse>;
    type ConsumeStream = Replies<v1::ConsumeResponse>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let mut requests = request.into_inner();
        let (replies, stream) = mpsc::channel(64);
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                fake.awake().await;
                let Some((response, delay)) = fake.produce_message(&request) else { continue };
                let replies = replies.clone();
                if delay.is_zero() {
                    let _ = replies.send(Ok(response)).await;
                    continue;
                }
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = replies.send(Ok(response)).await;
                });
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("the client does not fetch"))
    }

    async fn consume(
        &self,
        request: Request<v1::ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let v1::ConsumeRequest { mut partitions, max_message_bytes, allow_follower } = request.into_inner();
        let offsets: Vec<_> = partitions.iter().map(|p| (p.partition, p.offset, allow_follower)).collect();
        self.lock().consume_offsets.extend(offsets.iter().map(|(_, offset, _)| *offset));
        self.lock().node(self.id).consumed.extend(offsets);
        let (replies, stream) = mpsc::channel(1);
        let fake = self.clone();
        tokio::spawn(async move {
            loop {
                let appended = fake.appended.notified();
                fake.awake().await;
                if partitions.is_empty() {
                    let _ = replies.send(Err(Status::unavailable("no partition is left"))).await;
                    return;
                }
                match fake.consume_message(&mut partitions, max_message_bytes as usize, allow_follower) {
                    Some(records) => {
                        let message = v1::ConsumeResponse { records: Some(records) };
                        if replies.send(Ok(message)).await.is_err() {
                            return;
                        }
                        let mut state = fake.lock();
                        let percent = state.faults.cut_consume;
                        if state.chance(percent) {
                            state.cut_node(fake.id);
                        }
                    }
                    None => tokio::select! {
                        () = appended => {}
                        () = replies.closed() => return,
                    },
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        self.awake().await;
        let mut state = self.lock();
        let mut partitions = Vec::new();
        for asked in request.into_inner().partitions {
            let refusal = epoch_error(&mut state, self.id, &asked.topic, asked.partition, -1);
            let mut result = v1::ListOffsetsResult {
                topic: asked.topic.clone(),
                partition: asked.partition,
                offset: -1,
                timestamp: -1,
                ..Default::default()
            };
            match state.log(&asked.topic, asked.partition) {
                None => result.error = error(ErrorCode::UnknownTopicOrPartition),
                Some(_) if refusal.is_some() => result.error = refusal,
                Some(log) => match asked.timestamp {
                    -1 => result.offset = log.next_offset,
                    -2 => result.offset = log.log_start,
                    timestamp => {
                        if let Some(found) = log.records().iter().find(|r| r.timestamp >= timestamp) {
                            result.offset = found.offset;
                            result.timestamp = found.timestamp;
                        }
                    }
                },
            }
            partitions.push(result);
        }
        Ok(Response::new(v1::ListOffsetsResponse { partitions }))
    }

    async fn init_producer_id(
        &self,
        _: Request<v1::InitProducerIdRequest>,
    ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
        self.awake().await;
        let mut state = self.lock();
        if state.no_controller {
            let error = error(ErrorCode::NotController);
            return Ok(Response::new(v1::InitProducerIdResponse { error, ..Default::default() }));
        }
        state.next_producer_id += 1;
        let producer_id = state.next_producer_id;
        Ok(Response::new(v1::InitProducerIdResponse { error: None, producer_id, producer_epoch: 0 }))
    }
}
