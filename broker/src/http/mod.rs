//! HTTP for people and probes: `/metrics`, `/health/live`, `/health/ready`.
//!
//! Invariants: read-only; a request is bounded in headers and time, a body is never read; nothing here
//! waits for the log.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::config::Config;
use crate::env::BoxedStream;
use crate::listener::{Activity, ConnectionError, Ended, Graceful, Protocol, Stop, drive};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus' text format.
const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// What the endpoints show.
pub trait Subject: Send + Sync + 'static {
    /// Why requests should go elsewhere for now; `None` when the broker serves.
    fn unready(&self) -> Option<String>;

    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// Serves HTTP/1 on every connection.
pub struct HttpProtocol {
    subject: Arc<dyn Subject>,
    builder: http1::Builder,
    idle_timeout: Duration,
}

impl HttpProtocol {
    pub fn new(subject: Arc<dyn Subject>, config: &Config) -> Self {
        let connections = &config.connections;
        let mut builder = http1::Builder::new();
        builder
            .header_read_timeout(Duration::from_millis(connections.handshake_timeout_ms))
            .max_buf_size(config.http.header_bytes_max)
            .max_headers(config.http.headers_max)
            .auto_date_header(false)
            .timer(TokioTimer::new());
        Self { subject, builder, idle_timeout: Duration::from_millis(connections.idle_timeout_ms) }
    }
}

#[async_trait]
impl Protocol for HttpProtocol {
    async fn serve(
        &self,
        stream: BoxedStream,
        _peer: SocketAddr,
        stop: &Stop,
    ) -> Result<(), ConnectionError> {
        let activity = Activity::new();
        let service = HttpService { subject: self.subject.clone(), activity: activity.clone() };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        match drive(connection, &activity, self.idle_timeout, stop).await {
            Ok(Ended::Closed | Ended::Cut) => Ok(()),
            Err(error) if error.is_parse() => Err(ConnectionError::new("http", error.to_string())),
            Err(error) if error.is_timeout() => {
                Err(ConnectionError::new("handshake_timeout", "no complete HTTP request in time"))
            }
            Err(_) => Ok(()),
        }
    }
}

impl Graceful for http1::Connection<TokioIo<BoxedStream>, HttpService> {
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::Connection::graceful_shutdown(self);
    }
}

/// The endpoints as one connection sees them.
struct HttpService {
    subject: Arc<dyn Subject>,
    activity: Activity,
}

impl hyper::service::Service<Request<Incoming>> for HttpService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let _guard = self.activity.request();
        ready(Ok(answer(self.subject.as_ref(), request.method(), request.uri().path())))
    }
}

fn answer(subject: &dyn Subject, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/health/live" | "/health/ready") {
        let found = "not found; there are /metrics, /health/live and /health/ready\n";
        return respond(StatusCode::NOT_FOUND, TEXT, found.to_owned());
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => respond(StatusCode::OK, EXPOSITION, subject.metrics()),
        "/health/live" => respond(StatusCode::OK, TEXT, "live\n".to_owned()),
        _ => match subject.unready() {
            None => respond(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Some(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
    }
}

fn respond(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Option<&'static str>);

    impl Subject for Fixed {
        fn unready(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }

        fn metrics(&self) -> String {
            "x 1\n".to_owned()
        }
    }

    #[test]
    fn endpoints_by_method_path_and_state() {
        let cases = [
            (Method::GET, "/metrics", None, 200),
            (Method::HEAD, "/metrics", None, 200),
            (Method::POST, "/metrics", None, 405),
            (Method::GET, "/health/live", Some("draining"), 200),
            (Method::GET, "/health/ready", None, 200),
            (Method::GET, "/health/ready", Some("draining"), 503),
            (Method::GET, "/", None, 404),
            (Method::DELETE, "/health", None, 404),
        ];
        for (method, path, unready, status) in cases {
            assert_eq!(
                answer(&Fixed(unready), &method, path).status(),
                status,
                "{method} {path} {unready:?}"
            );
        }
    }
}
