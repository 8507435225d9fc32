//! Charges every gRPC message of a request for memory before a decoder sees it.
//!
//! The body is passed on as it comes, but no byte of a message's header leaves here before the message
//! is charged: the decoder takes memory for the whole message as soon as it knows its length. While a
//! message waits for memory nothing more is read, so that HTTP/2's flow control stops the peer.
//! Framing: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Length-Prefixed-Message".

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tokio::time::Sleep;
use tonic::Status;

use crate::limits::{ConnectionMemory, MessageMemory, Pending};

/// Compressed flag, then the length as a big-endian `u32`.
const HEADER_BYTES: usize = 5;

/// A request body whose messages are charged.
pub struct MeteredBody<B> {
    inner: B,
    memory: ConnectionMemory,
    messages: Arc<MessageMemory>,
    message_bytes_max: usize,
    message_timeout: Duration,
    /// Read from `inner`, not yet passed on.
    pending: Bytes,
    scan: Scan,
    /// The message that waits for memory.
    waiting: Option<Pending>,
    /// Armed at the first wait for the rest of a message, and not moved by what trickles in.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Where in the stream of messages the next byte lies.
#[derive(Debug, Default)]
struct Scan {
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// Bytes of the current message still to come.
    remaining: usize,
}

/// What the scan found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// That many bytes may pass; the buffer ends there.
    Pass(usize),
    /// A header ends `header_end` bytes on; it and its message must wait from `pass` on.
    Message { pass: usize, header_end: usize, message_bytes: usize },
}

impl Scan {
    /// Looks at `bytes` up to the end or to the next header.
    fn next(&mut self, bytes: &[u8]) -> Found {
        let body = self.remaining.min(bytes.len());
        self.remaining -= body;
        let header = (HEADER_BYTES - self.header_len).min(bytes.len() - body);
        self.header[self.header_len..self.header_len + header].copy_from_slice(&bytes[body..body + header]);
        self.header_len += header;
        if self.header_len < HEADER_BYTES {
            return Found::Pass(bytes.len());
        }
        self.header_len = 0;
        let [_, a, b, c, d] = self.header;
        let message_bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        Found::Message { pass: body, header_end: body + header, message_bytes }
    }

    fn is_inside_message(&self) -> bool {
        self.remaining > 0 || self.header_len > 0
    }
}

impl<B> MeteredBody<B> {
    pub fn new(
        inner: B,
        memory: ConnectionMemory,
        messages: Arc<MessageMemory>,
        message_bytes_max: usize,
        message_timeout: Duration,
    ) -> Self {
        Self {
            inner,
            memory,
            messages,
            message_bytes_max,
            message_timeout,
            pending: Bytes::new(),
            scan: Scan::default(),
            waiting: None,
            deadline: None,
        }
    }

    /// As much of `pending` as may pass, charging the messages that begin in it.
    fn charge(&mut self) -> Result<Bytes, Status> {
        let mut passed = 0;
        while passed < self.pending.len() {
            match self.scan.next(&self.pending[passed..]) {
                Found::Pass(bytes) => passed += bytes,
                Found::Message { pass, header_end, message_bytes } => {
                    if message_bytes > self.message_bytes_max {
                        return Err(Status::resource_exhausted(format!(
                            "a message of {message_bytes} bytes exceeds requests.message_bytes_max ({})",
                            self.message_bytes_max
                        )));
                    }
                    // What is left of the header passes with its message.
                    self.scan.remaining = header_end - pass + message_bytes;
                    passed += pass;
                    self.deadline = None;
                    if let Some(permit) = self.memory.try_acquire(message_bytes) {
                        self.messages.push(permit);
                    } else {
                        self.waiting = Some(self.memory.acquire(message_bytes));
                        break;
                    }
                }
            }
        }
        Ok(self.pending.split_to(passed))
    }

    /// Fails once the rest of a message has been awaited for too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if !self.scan.is_inside_message() {
            return Poll::Pending;
        }
        let timeout = self.message_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Status::deadline_exceeded("the rest of a message did not arrive in time"))
    }
}

impl<B> Body for MeteredBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                match ready!(waiting.poll(cx)) {
                    Some(permit) => this.messages.push(permit),
                    None => return Poll::Ready(Some(Err(Status::unavailable("stopping").into()))),
                }
                this.waiting = None;
            }
            if this.pending.has_remaining() {
                let passed = match this.charge() {
                    Ok(passed) => passed,
                    Err(refused) => return Poll::Ready(Some(Err(refused.into()))),
                };
                if passed.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(passed))));
            }
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Pending => return this.poll_deadline(cx).map(|status| Some(Err(status.into()))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use http_body_util::BodyExt;

    use super::*;
    use crate::limits::{MESSAGE_OVERHEAD_BYTES, MemoryBudget};

    /// A body of the given chunks, which then ends or says nothing more.
    struct Chunks {
        chunks: VecDeque<Bytes>,
        stalls: bool,
    }

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.chunks.pop_front() {
                Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
                None if self.stalls => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn message(len: usize) -> Vec<u8> {
        let header = [&[0], u32::try_from(len).unwrap().to_be_bytes().as_slice()].concat();
        [header, (0..len).map(|i| i as u8).collect()].concat()
    }

    fn metered(
        sent: &[u8],
        chunk_bytes: usize,
        stalls: bool,
        budget: &MemoryBudget,
    ) -> (MeteredBody<Chunks>, Arc<MessageMemory>) {
        let messages = Arc::new(MessageMemory::default());
        let chunks = sent.chunks(chunk_bytes).map(Bytes::copy_from_slice).collect();
        let body = MeteredBody::new(
            Chunks { chunks, stalls },
            budget.connection(),
            messages.clone(),
            1_000,
            Duration::from_secs(30),
        );
        (body, messages)
    }

    fn status(error: tonic::codegen::StdError) -> tonic::Code {
        error.downcast_ref::<Status>().unwrap().code()
    }

    #[tokio::test]
    async fn every_message_is_charged_once_however_the_stream_is_cut() {
        let lengths = [0, 1, 300, 0, 7, 1_000];
        let sent = lengths.map(message).concat();
        for chunk_bytes in (1..40).chain([100, 333, sent.len()]) {
            let budget = MemoryBudget::new(1 << 20, 1 << 20);
            let (body, messages) = metered(&sent, chunk_bytes, false, &budget);
            assert_eq!(body.collect().await.unwrap().to_bytes(), sent, "chunks of {chunk_bytes}");
            for length in lengths {
                let before = budget.used_bytes();
                drop(messages.take().unwrap());
                assert_eq!(before - budget.used_bytes(), length + MESSAGE_OVERHEAD_BYTES);
            }
            assert!(messages.take().is_none());
            assert_eq!(budget.used_bytes(), 0);
        }
    }

    #[tokio::test]
    async fn a_message_beyond_the_budget_waits_without_showing_its_header() {
        let sent = [message(600), message(600)].concat();
        for chunk_bytes in [1, 7, 400, sent.len()] {
            let budget = MemoryBudget::new(1_000, 1_000);
            let (mut body, messages) = metered(&sent, chunk_bytes, false, &budget);
            let mut passed = Vec::new();
            let waiting = async {
                while let Some(frame) = body.frame().await {
                    passed.extend_from_slice(&frame.unwrap().into_data().unwrap());
                }
            };
            let blocked = tokio::time::timeout(Duration::from_millis(1), waiting).await.is_err();
            assert!(blocked, "chunks of {chunk_bytes}");
            let first = message(600).len();
            assert!((first..first + HEADER_BYTES).contains(&passed.len()), "{}", passed.len());
            drop(messages.take().unwrap());
            passed.extend(body.collect().await.unwrap().to_bytes());
            assert_eq!(passed, sent);
        }
    }

    #[tokio::test]
    async fn a_message_too_long_is_refused_by_its_header() {
        let budget = MemoryBudget::new(1 << 20, 1 << 20);
        let (body, _messages) = metered(&message(1_001)[..HEADER_BYTES], 3, true, &budget);
        assert_eq!(status(body.collect().await.unwrap_err()), tonic::Code::ResourceExhausted);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_end_is_given_up_and_silence_between_messages_is_not() {
        let budget = MemoryBudget::new(1 << 20, 1 << 20);
        let sent = message(100);
        let (body, _messages) = metered(&sent[..50], 50, true, &budget);
        assert_eq!(status(body.collect().await.unwrap_err()), tonic::Code::DeadlineExceeded);
        let (mut body, _messages) = metered(&sent, 50, true, &budget);
        let all = async { while body.frame().await.is_some() {} };
        assert!(tokio::time::timeout(Duration::from_secs(3_600), all).await.is_err());
    }
}
