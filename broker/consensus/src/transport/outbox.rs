//! What waits to be written to a stream, and the body that writes it.
//!
//! Invariants: items leave in the order in which they came, those that are ready together in one message; an
//! item that may wait for company leaves with the next that may not, or when its time is up; nothing is written
//! to a stream but by the body that was made for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::frames::{self, Item};

/// A message is closed once it is that long.
pub(super) const MESSAGE_BYTES: usize = 256 << 10;

/// What comes with an item and is settled when the item is written, or dropped with it.
pub(super) trait Ticket: Send + 'static {
    /// The item is about to be written; `false` when nobody wants it any more.
    fn admit(self) -> bool;
}

/// The queue of one lane, across its connections.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    state: Mutex<State<T>>,
    gather: Duration,
}

#[derive(Debug)]
struct State<T> {
    /// Counts connections: a body of an earlier one writes nothing more.
    epoch: u64,
    queue: VecDeque<Queued<T>>,
    /// Items in the queue that do not wait for company.
    urgent: usize,
    /// When the oldest of those that do has waited long enough.
    flush_at: Option<Instant>,
    sending: bool,
    /// Why nothing is taken.
    refusal: Option<String>,
    /// Ends the stream once everything is written.
    finish: Option<Status>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Queued<T> {
    item: Item,
    ticket: T,
    urgent: bool,
}

/// What the body does next.
enum Next {
    Write(Vec<Item>),
    Wait(Option<Instant>),
    End(Option<Status>),
}

impl<T: Ticket> Outbox<T> {
    pub(super) fn new(gather: Duration) -> Self {
        let state = State {
            epoch: 0,
            queue: VecDeque::new(),
            urgent: 0,
            flush_at: None,
            sending: false,
            refusal: None,
            finish: None,
            waker: None,
        };
        Self { state: Mutex::new(state), gather }
    }

    /// Why nothing is taken at the moment.
    pub(super) fn refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }

    /// Queues an item. One that is not urgent waits up to `gather` for others.
    pub(super) fn push(&self, item: Item, ticket: T, urgent: bool) -> Result<(), String> {
        let mut state = self.state();
        if let Some(reason) = &state.refusal {
            return Err(reason.clone());
        }
        if urgent {
            state.urgent += 1;
        } else if state.flush_at.is_none() {
            state.flush_at = Some(Instant::now() + self.gather);
        }
        state.queue.push_back(Queued { item, ticket, urgent });
        // A body that waits for company must learn of its deadline, and of the first who does not wait.
        let wake = state.queue.len() == 1 || (urgent && state.urgent == 1);
        let waker = if wake { state.waker.take() } else { None };
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// A body for a new connection; earlier ones end. `first` is written before anything else, the rest once
    /// [`Outbox::start`] was called.
    pub(super) fn body(self: &Arc<Self>, first: Bytes) -> MessageBody<T> {
        let mut state = self.state();
        state.epoch += 1;
        state.sending = false;
        state.finish = None;
        state.wake();
        let epoch = state.epoch;
        drop(state);
        MessageBody {
            frames: VecDeque::from([first]),
            trailers: None,
            source: Some((Arc::clone(self), epoch)),
            timer: None,
        }
    }

    /// The other side is who it should be: items are taken and written.
    pub(super) fn start(&self) {
        let mut state = self.state();
        (state.sending, state.refusal) = (true, None);
        state.wake();
    }

    /// Drops everything; with a reason, takes nothing until the next start.
    pub(super) fn reset(&self, refusal: Option<String>) {
        let mut state = self.state();
        state.epoch += 1;
        (state.sending, state.urgent, state.flush_at) = (false, 0, None);
        state.refusal = refusal;
        let dropped = std::mem::take(&mut state.queue);
        state.wake();
        drop(state);
        drop(dropped);
    }

    /// Ends the stream with that status once everything is written.
    pub(super) fn finish(&self, status: Status) {
        let mut state = self.state();
        state.finish.get_or_insert(status);
        state.wake();
    }

    fn next(&self, epoch: u64, cx: &Context<'_>) -> Next {
        let mut state = self.state();
        if state.epoch != epoch {
            return Next::End(None);
        }
        let mut items = Vec::new();
        let mut bytes = 0;
        let due = state.urgent > 0 || state.flush_at.is_some_and(|at| at <= Instant::now());
        if state.sending && (due || state.finish.is_some()) {
            while bytes < MESSAGE_BYTES
                && let Some(Queued { item, ticket, urgent }) = state.queue.pop_front()
            {
                state.urgent -= usize::from(urgent);
                if ticket.admit() {
                    bytes += item.len();
                    items.push(item);
                }
            }
            if state.queue.is_empty() {
                state.flush_at = None;
            }
        }
        if !items.is_empty() {
            return Next::Write(items);
        }
        if let Some(status) = state.finish.take() {
            return Next::End(Some(status));
        }
        state.waker = Some(cx.waker().clone());
        Next::Wait(state.flush_at.filter(|_| state.sending))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// The body of a request or a response.
#[derive(Debug)]
pub(super) struct MessageBody<T> {
    frames: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    source: Option<(Arc<Outbox<T>>, u64)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> MessageBody<T> {
    /// One message, then the end; of a response with trailers.
    pub(super) fn once(message: Option<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self { frames: message.into_iter().collect(), trailers, source: None, timer: None }
    }
}

impl<T: Ticket> http_body::Body for MessageBody<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            let Some((outbox, epoch)) = &self.source else {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            };
            match outbox.next(*epoch, cx) {
                Next::Write(items) => self.frames = frames::message(items),
                Next::End(status) => {
                    self.source = None;
                    self.trailers = status.and_then(|status| trailers(&status));
                }
                Next::Wait(None) => return Poll::Pending,
                Next::Wait(Some(at)) => {
                    let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                    if timer.deadline() != at {
                        timer.as_mut().reset(at);
                    }
                    std::task::ready!(timer.as_mut().poll(cx));
                }
            }
        }
    }
}

/// The end of a response, as gRPC has it.
pub(super) fn trailers(status: &Status) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).ok()?;
    Some(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use headwater_proto::v1;
    use http_body::Body;

    use super::*;

    struct Always(bool);

    impl Ticket for Always {
        fn admit(self) -> bool {
            self.0
        }
    }

    fn item(correlation: u64) -> Item {
        Item::small(&v1::Call { correlation, request: None })
    }

    async fn next(body: &mut MessageBody<Always>) -> Option<Frame<Bytes>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.map(|frame| frame.unwrap())
    }

    async fn correlations(body: &mut MessageBody<Always>) -> Vec<u64> {
        let frame = next(body).await.unwrap().into_data().unwrap();
        let message: v1::LaneRequest = prost::Message::decode(frame.slice(5..)).unwrap();
        message.calls.iter().map(|call| call.correlation).collect()
    }

    fn started(gather_ms: u64) -> (Arc<Outbox<Always>>, MessageBody<Always>) {
        let outbox = Arc::new(Outbox::new(Duration::from_millis(gather_ms)));
        let body = outbox.body(Bytes::from_static(b"hello"));
        outbox.start();
        (outbox, body)
    }

    #[tokio::test(start_paused = true)]
    async fn patient_items_share_a_message_and_leave_when_their_time_is_up() {
        let (outbox, mut body) = started(5);
        assert_eq!(next(&mut body).await.unwrap().into_data().unwrap(), "hello");
        let start = Instant::now();
        for n in 1..=3 {
            outbox.push(item(n), Always(true), false).unwrap();
        }
        assert_eq!(correlations(&mut body).await, [1, 2, 3]);
        assert_eq!(start.elapsed().as_millis(), 5);
        outbox.push(item(4), Always(true), false).unwrap();
        outbox.push(item(5), Always(true), true).unwrap();
        assert_eq!(correlations(&mut body).await, [4, 5], "in order, at once");
        assert_eq!(start.elapsed().as_millis(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_is_not_written() {
        let (outbox, mut body) = started(5);
        next(&mut body).await;
        outbox.push(item(1), Always(false), true).unwrap();
        outbox.push(item(2), Always(true), true).unwrap();
        assert_eq!(correlations(&mut body).await, [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_body_ends_and_a_reset_outbox_refuses() {
        let (outbox, mut first) = started(5);
        next(&mut first).await;
        outbox.push(item(1), Always(true), true).unwrap();
        outbox.reset(Some("gone".to_owned()));
        assert!(next(&mut first).await.is_none());
        assert_eq!(outbox.push(item(2), Always(true), true), Err("gone".to_owned()));
        let mut second = outbox.body(Bytes::from_static(b"hello"));
        outbox.start();
        next(&mut second).await;
        outbox.push(item(3), Always(true), true).unwrap();
        assert_eq!(correlations(&mut second).await, [3]);
        outbox.push(item(4), Always(true), false).unwrap();
        outbox.finish(Status::ok(""));
        assert_eq!(correlations(&mut second).await, [4], "what is queued goes first");
        assert!(next(&mut second).await.unwrap().is_trailers());
        assert!(next(&mut second).await.is_none());
    }
}
