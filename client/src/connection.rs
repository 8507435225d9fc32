//! One tuned HTTP/2 connection per broker address, shared by all that a client does there.
//!
//! A connection is opened when it is first used, and again after it was lost, on the next request;
//! the pause between attempts is the caller's, who knows what waits. Memory is bounded by the receive
//! windows here, and by what producers and consumers buffer.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use headwater_proto::v1::admin_client::AdminClient;
use headwater_proto::v1::cluster_client::ClusterClient;
use headwater_proto::v1::data_client::DataClient;
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::config::{BoxedConnection, ConnectFuture};
use crate::{ClientConfig, ClientError, Connector, ambient};

/// Bytes of one message, either way.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Large frames cost less per byte; the default of 16 KiB halves the throughput.
const FRAME_BYTES: u32 = 1 << 20;

/// A peer that is gone without a word is noticed after an interval and a time-out, while anything is
/// asked of it: a consumer whose broker fell silent has no other way to tell.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// The connections of one client.
pub struct Pool {
    connector: Connector,
    connect_timeout: Duration,
    window_bytes: u32,
    user_agent: String,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Pool {
    pub fn new(config: &ClientConfig) -> Self {
        Self {
            connector: config.connector.clone().unwrap_or_else(|| Arc::new(ambient::connect_tcp)),
            connect_timeout: config.connect_timeout,
            window_bytes: config.receive_window_bytes,
            user_agent: config.client_id.clone(),
            channels: Mutex::default(),
        }
    }

    pub fn admin(&self, address: &str) -> Result<AdminClient<Channel>, ClientError> {
        Ok(AdminClient::new(self.channel(address)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub fn cluster(&self, address: &str) -> Result<ClusterClient<Channel>, ClientError> {
        Ok(ClusterClient::new(self.channel(address)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub fn data(&self, address: &str) -> Result<DataClient<Channel>, ClientError> {
        Ok(DataClient::new(self.channel(address)?)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn channel(&self, address: &str) -> Result<Channel, ClientError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let unusable = |error| ClientError::Config {
            what: format!("broker address {address:?} or client id {:?}: {error}", self.user_agent),
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| endpoint.user_agent(self.user_agent.clone()))
            .map_err(unusable)?
            .initial_stream_window_size(self.window_bytes)
            .initial_connection_window_size(self.window_bytes.saturating_mul(2).min(i32::MAX as u32))
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let connect =
            ConnectService { connector: Arc::clone(&self.connector), timeout: self.connect_timeout };
        let channel = endpoint.connect_with_connector_lazy(connect);
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// The injected connector as the `tower` service that tonic wants.
struct ConnectService {
    connector: Connector,
    timeout: Duration,
}

impl tower::Service<Uri> for ConnectService {
    type Response = TokioIo<Box<dyn BoxedConnection>>;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let address = uri.authority().map_or_else(String::new, ToString::to_string);
        let connection: ConnectFuture = self.connector.connect(address);
        let timeout = self.timeout;
        Box::pin(async move {
            match tokio::time::timeout(timeout, connection).await {
                Ok(connection) => Ok(TokioIo::new(connection?)),
                Err(_) => Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no connection within {} ms", timeout.as_millis()),
                )),
            }
        })
    }
}

/// What a failed call says about whether the broker saw it.
#[derive(Debug, Clone)]
pub enum Fault {
    /// No connection could be opened: the broker saw nothing.
    NeverSent(String),
    /// It was sent, or may have been, and no answer came.
    Lost(String),
    /// The broker refused it.
    Refused(Status),
}

impl Fault {
    pub fn of(status: Status) -> Self {
        let mut source = status.source();
        let from_transport = source.is_some();
        let mut innermost = None;
        while let Some(error) = source {
            if error.is::<tonic::ConnectError>() {
                return Self::NeverSent(root_cause(error));
            }
            innermost = Some(error.to_string());
            source = error.source();
        }
        match status.code() {
            Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
            | Code::DataLoss
            | Code::DeadlineExceeded => {
                let said = if status.message().is_empty() { "no reason given" } else { status.message() };
                Self::Lost(innermost.unwrap_or_else(|| said.to_owned()))
            }
            _ if from_transport => Self::Lost(status.message().to_owned()),
            _ => Self::Refused(status),
        }
    }

    pub fn reason(&self) -> String {
        match self {
            Self::NeverSent(reason) | Self::Lost(reason) => reason.clone(),
            Self::Refused(status) => status.message().to_owned(),
        }
    }
}

/// The deepest cause: "Connection refused" rather than "transport error".
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
