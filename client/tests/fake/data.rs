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
use super::{Fake, State};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub fn error(code: ErrorCode) -> Option<v1::Error> {
    let message = format!("fake: {}", code.name());
    Some(v1::Error { code: code.number().into(), message, retriable: code.is_retriable(), leader: None })
}

/// What becomes of one batch: a result, and whether the connection is to be cut.
fn produce_one(state: &mut State, entry: &v1::ProducePartition) -> (v1::ProducePartitionResult, bool) {
    let mut result = v1::ProducePartitionResult {
        topic: entry.topic.clone(),
        partition: entry.partition,
        base_offset: -1,
        ..Default::default()
    };
    state.batches += 1;
    let faults = state.faults.clone();
    if state.chance(faults.cut_before) {
        return (result, true);
    }
    if state.chance(faults.refuse) {
        let codes = [ErrorCode::NotLeaderOrFollower, ErrorCode::ThrottlingQuotaExceeded];
        let code = codes[state.rng.random_range(0..codes.len())];
        result.error = error(code);
        return (result, false);
    }
    match store(state, entry) {
        Ok(base_offset) => result.base_offset = base_offset,
        Err(code) => {
            result.error = error(code);
            return (result, false);
        }
    }
    let cut = state.chance(faults.cut_after);
    if state.chance(faults.time_out) {
        result.error = error(ErrorCode::RequestTimedOut);
    }
    (result, cut)
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

impl Fake {
    fn produce_message(&self, request: &v1::ProduceRequest) -> Option<(v1::ProduceResponse, Duration)> {
        let mut state = self.lock();
        state.produce_messages += 1;
        state.largest_message_batches = state.largest_message_batches.max(request.partitions.len());
        let mut partitions = Vec::new();
        for entry in &request.partitions {
            let (result, cut) = produce_one(&mut state, entry);
            if cut {
                state.cut();
                return None;
            }
            partitions.push(result);
        }
        let delay_ms = state.faults.delay_ms;
        let delay = Duration::from_millis(state.rng.random_range(0..=delay_ms));
        let answered = request.acks != 0 && !state.silent;
        drop(state);
        self.appended.notify_waiters();
        let response = v1::ProduceResponse { correlation: request.correlation, partitions };
        answered.then_some((response, delay))
    }

    /// The next message for any of the partitions, or how long there is none.
    fn consume_message(
        &self,
        wanted: &mut [v1::FetchPartition],
        max_bytes: usize,
    ) -> Option<v1::PartitionRecords> {
        let mut state = self.lock();
        for entry in wanted {
            let Some(log) = state.log(&entry.topic, entry.partition) else { continue };
            let mut records = v1::PartitionRecords {
                topic: entry.topic.clone(),
                partition: entry.partition,
                high_watermark: log.next_offset,
                log_start_offset: log.log_start,
                ..Default::default()
            };
            if entry.offset < log.log_start || entry.offset > log.next_offset {
                records.error = error(ErrorCode::OffsetOutOfRange);
                // Said once: the partition is out of this stream.
                entry.partition = -1;
                return Some(records);
            }
            let (bytes, next_offset) = log.read(entry.offset, max_bytes);
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
impl Data for Fake {
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
        let v1::ConsumeRequest { mut partitions, max_message_bytes, .. } = request.into_inner();
        self.lock().consume_offsets.extend(partitions.iter().map(|p| p.offset));
        let (replies, stream) = mpsc::channel(1);
        let fake = self.clone();
        tokio::spawn(async move {
            loop {
                let appended = fake.appended.notified();
                match fake.consume_message(&mut partitions, max_message_bytes as usize) {
                    Some(records) => {
                        let message = v1::ConsumeResponse { records: Some(records) };
                        if replies.send(Ok(message)).await.is_err() {
                            return;
                        }
                        let mut state = fake.lock();
                        let percent = state.faults.cut_consume;
                        if state.chance(percent) {
                            state.cut();
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
        let mut state = self.lock();
        let mut partitions = Vec::new();
        for asked in request.into_inner().partitions {
            let mut result = v1::ListOffsetsResult {
                topic: asked.topic.clone(),
                partition: asked.partition,
                offset: -1,
                timestamp: -1,
                ..Default::default()
            };
            match state.log(&asked.topic, asked.partition) {
                None => result.error = error(ErrorCode::UnknownTopicOrPartition),
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
        let mut state = self.lock();
        state.next_producer_id += 1;
        let producer_id = state.next_producer_id;
        Ok(Response::new(v1::InitProducerIdResponse { error: None, producer_id, producer_epoch: 0 }))
    }
}
