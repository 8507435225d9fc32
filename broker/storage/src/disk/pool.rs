//! Threads for system calls that wait for a device: the only threads of the broker besides its runtime.
//!
//! Threads start when work finds none idle, up to a limit, and end with the pool. Jobs start in the order in
//! which they were spawned.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded, lazily grown set of threads.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// At most `limit` threads, each named `name`.
    pub fn new(name: &'static str, limit: usize) -> Self {
        let shared = Shared { name, limit, state: Mutex::default(), work: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Runs a job; nobody waits for it. Where no thread can be started it runs here.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.queue.push_back(Box::new(job));
        if state.idle >= state.queue.len() {
            self.shared.work.notify_one();
            return;
        }
        if state.threads < self.shared.limit {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new().name(shared.name.into()).spawn(move || shared.run());
            state.threads += usize::from(started.is_ok());
        }
        if state.threads == 0 {
            let orphan = state.queue.pop_back();
            drop(state);
            orphan.into_iter().for_each(|job| job());
        }
    }

    /// Runs a job and waits for its result.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(move || {
            // A receiver that is gone has lost interest.
            let _ = sender.send(job());
        });
        receiver.await.map_err(|_| io::Error::other("a disk thread panicked"))?
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No job runs under the lock, so that the state is whole even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // Counts the thread out even when a job panics.
        struct Leave<'a>(&'a Shared);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.lock().threads -= 1;
            }
        }
        let _leave = Leave(self);
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.shared.name).field("limit", &self.shared.limit).finish()
    }
}
