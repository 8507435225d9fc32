//! The life of one HTTP connection: requests, silence, drain.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Stop;

/// How long a peer has to take note that its idle connection is being closed.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// A connection that can be told to finish its requests and end.
pub trait Graceful: Future<Output = hyper::Result<()>> {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

/// Requests under way on a connection, and when the last one ended. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    open: usize,
    idle_since: Instant,
}

impl Activity {
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { open: 0, idle_since: Instant::now() })))
    }

    /// Counts a request until the guard is dropped.
    #[must_use]
    pub fn request(&self) -> RequestGuard {
        self.state().open += 1;
        RequestGuard(self.clone())
    }

    /// When the connection will have been idle for `timeout`, if nothing happens; `None` while it is busy.
    fn idle_deadline(&self, timeout: Duration) -> Option<Instant> {
        let state = self.state();
        (state.open == 0).then(|| state.idle_since + timeout)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

/// One request under way.
#[derive(Debug)]
pub struct RequestGuard(Activity);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.idle_since = Instant::now();
    }
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the peer, or by us after a drain or a silence.
    Closed,
    /// Cut off with requests under way or a peer that did not take note.
    Cut,
}

/// Drives a connection to its end.
///
/// # Errors
/// What the peer violated.
pub async fn drive<C: Graceful>(
    connection: C,
    activity: &Activity,
    idle_timeout: Duration,
    stop: &Stop,
) -> hyper::Result<Ended> {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        () = stop.cut.cancelled() => return Ok(Ended::Cut),
        ended = connection.as_mut() => return ended.map(|()| Ended::Closed),
        () = stop.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            return tokio::select! {
                ended = connection => ended.map(|()| Ended::Closed),
                () = stop.cut.cancelled() => Ok(Ended::Cut),
            };
        }
        () = idle(activity, idle_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended.map(|()| Ended::Closed),
        () = tokio::time::sleep(CLOSE_GRACE) => Ok(Ended::Cut),
        () = stop.cut.cancelled() => Ok(Ended::Cut),
    }
}

/// Returns once nothing has been asked for as long as `timeout`.
async fn idle(activity: &Activity, timeout: Duration) {
    loop {
        match activity.idle_deadline(timeout) {
            Some(deadline) if deadline <= Instant::now() => return,
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            // The soonest that a busy connection can have been idle for that long.
            None => tokio::time::sleep(timeout).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_after_a_whole_timeout_without_requests() {
        let timeout = Duration::from_secs(10);
        let activity = Activity::new();
        let start = Instant::now();
        let request = activity.request();
        let other = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(25)).await;
            drop(request);
        });
        idle(&activity, timeout).await;
        assert_eq!(start.elapsed().as_secs(), 35);
        assert!(other.await.is_ok());
    }
}
