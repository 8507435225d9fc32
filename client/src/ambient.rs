//! The defaults of everything that a [`ClientConfig`](crate::ClientConfig) can inject: wall clock,
//! entropy, TCP. Nothing else in this crate may touch the world outside.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;

use crate::config::{BoxedConnection, ConnectFuture};

/// Milliseconds since the Unix epoch; 0 before it.
pub fn wall_clock_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// A seed that differs from call to call and from process to process; not for secrets.
pub fn seed() -> u64 {
    RandomState::new().hash_one(wall_clock_ms())
}

/// Connects to `HOST:PORT` by TCP, with Nagle's algorithm off.
pub fn connect_tcp(address: String) -> ConnectFuture {
    Box::pin(async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        io::Result::Ok(Box::new(stream) as Box<dyn BoxedConnection>)
    })
}
