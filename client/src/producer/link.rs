//! One bidirectional `Produce` stream to one broker.
//!
//! A task of its own feeds the stream and reads the answers; it decides nothing, and tells the
//! driver what happened. The channel to it is unbounded: what is in it is bounded by the producer's
//! buffer and by the batches that each partition may have in flight.

use headwater_proto::v1;
use headwater_proto::v1::data_client::DataClient;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

use super::driver::Event;
use crate::connection::Fault;

/// Names one opening of a stream: what an earlier one of the same broker still says is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkId {
    pub broker: i32,
    pub generation: u64,
}

/// The open stream; dropping it ends its task.
#[derive(Debug)]
pub struct Link {
    pub id: LinkId,
    requests: mpsc::UnboundedSender<v1::ProduceRequest>,
    task: AbortHandle,
}

impl Link {
    pub fn open(id: LinkId, client: DataClient<Channel>, events: mpsc::UnboundedSender<Event>) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(run(id, client, receiver, events)).abort_handle();
        Self { id, requests, task }
    }

    /// Queues a request. One that can't be sent any more is answered by [`Event::LinkDown`].
    pub fn send(&self, request: v1::ProduceRequest) {
        // The receiver lives until the task ends, which says so by an event.
        let _ = self.requests.send(request);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    id: LinkId,
    mut client: DataClient<Channel>,
    receiver: mpsc::UnboundedReceiver<v1::ProduceRequest>,
    events: mpsc::UnboundedSender<Event>,
) {
    let sent = events.clone();
    let outbound = UnboundedReceiverStream::new(receiver).map(move |request| {
        // Nobody answers a request with acks 0: it is done when the connection takes it.
        if request.acks == 0 {
            let _ = sent.send(Event::Sent { link: id, correlation: request.correlation });
        }
        request
    });
    let fault = match Box::pin(client.produce(outbound)).await {
        Err(status) => Fault::of(status),
        Ok(response) => {
            let mut answers = response.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(response)) => {
                        if events.send(Event::Response { link: id, response }).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break Fault::Lost("the broker closed the stream".to_owned()),
                    Err(status) => break Fault::of(status),
                }
            }
        }
    };
    let in_doubt = !matches!(fault, Fault::NeverSent(_));
    let _ = events.send(Event::LinkDown { link: id, in_doubt, reason: fault.reason() });
}
