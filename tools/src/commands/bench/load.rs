//! One producer under load: closed loop (as fast as the broker answers) or open loop (at a rate).
//!
//! In the open loop each batch is due at a time that the rate fixes beforehand, and its latency counts
//! from then: a broker that stalls is charged for the batches that had to wait (coordinated omission,
//! Gil Tene). The pace is kept by a thread that sleeps in the kernel, since tokio's timer has ticks of 1 ms.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use headwater_client::{Delivered, Delivery, DeliveryError, Producer};
use tokio::sync::mpsc;

use super::latency::Latencies;
use super::payload::{Payload, stamp};
use crate::exit::Failure;

/// What all producers of a run share.
#[derive(Debug)]
pub struct Run {
    /// Marks the values of this run.
    pub id: u64,
    pub started: Instant,
    /// Latencies of batches due from here on count.
    pub measure_from: Instant,
    /// Ends the closed loop, and the open one before its time.
    pub stop: AtomicBool,
    /// Records that producers may still begin; `u64::MAX` where time is what ends the run.
    pub budget: AtomicU64,
    pub acknowledged: AtomicU64,
}

impl Run {
    /// Records of the next batch: none when the budget is spent.
    fn claim(&self, records: u64) -> u64 {
        let took = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| match left {
            0 => None,
            u64::MAX => Some(u64::MAX),
            left => Some(left.saturating_sub(records)),
        });
        took.map_or(0, |left| left.min(records))
    }
}

/// One producer and what it has measured.
pub struct Load {
    pub producer: Producer,
    pub topic: String,
    pub partitions: i32,
    /// Partition of the first batch; the following ones go round.
    pub first_partition: i32,
    pub batch_records: u64,
    pub in_flight: usize,
    pub payload: Payload,
    pub stamped: bool,
    pub run: Arc<Run>,
}

/// A batch's fate, when it was due and how many records it has.
type Outcome = (Result<Delivered, DeliveryError>, Instant, Instant, u64);

impl Load {
    /// Sends until the run is over, then waits for every answer. `due` paces the open loop.
    pub async fn drive(
        mut self,
        mut due: Option<mpsc::UnboundedReceiver<Instant>>,
    ) -> Result<Latencies, Failure> {
        let mut latencies = Latencies::new()?;
        let mut answers = FuturesUnordered::new();
        let mut value = Vec::new();
        let mut partition = self.first_partition;
        loop {
            while answers.len() >= self.in_flight && due.is_none() {
                let Some(outcome) = answers.next().await else { break };
                self.count(outcome, &mut latencies)?;
            }
            let due_at = match &mut due {
                None if self.run.stop.load(Ordering::Relaxed) => break,
                None => Instant::now(),
                Some(due) => tokio::select! {
                    biased;
                    Some(outcome) = answers.next(), if !answers.is_empty() => {
                        self.count(outcome, &mut latencies)?;
                        continue;
                    }
                    at = due.recv() => match at {
                        Some(at) => at,
                        None => break,
                    },
                },
            };
            let records = self.run.claim(self.batch_records);
            if records == 0 {
                break;
            }
            if let Some(delivery) = self.send_batch(partition, records, due_at, &mut value).await? {
                answers.push(answer(delivery, due_at, records));
            }
            partition = (partition + 1) % self.partitions;
        }
        self.producer.flush().await;
        while let Some(outcome) = answers.next().await {
            self.count(outcome, &mut latencies)?;
        }
        Ok(latencies)
    }

    /// Hands over one batch; the last record's delivery stands for all of it.
    async fn send_batch(
        &mut self,
        partition: i32,
        records: u64,
        due: Instant,
        value: &mut Vec<u8>,
    ) -> Result<Option<Delivery>, Failure> {
        let mut last = None;
        for n in 0..records {
            let mut bytes = self.payload.next_value();
            if self.stamped && n == 0 {
                value.clear();
                value.extend_from_slice(bytes);
                stamp(value, self.run.id, due.saturating_duration_since(self.run.started));
                bytes = value;
            }
            last = Some(
                self.producer.send_parts(&self.topic, Some(partition), None, Some(bytes), &[], None).await?,
            );
        }
        Ok(last)
    }

    fn count(
        &self,
        (result, due, answered, records): Outcome,
        latencies: &mut Latencies,
    ) -> Result<(), Failure> {
        result?;
        self.run.acknowledged.fetch_add(records, Ordering::Relaxed);
        if due >= self.run.measure_from {
            latencies.record(answered.saturating_duration_since(due), records);
        }
        Ok(())
    }
}

async fn answer(delivery: Delivery, due: Instant, records: u64) -> Outcome {
    let result = delivery.await;
    (result, due, Instant::now(), records)
}

/// When batches are due: `rate` of them a second over all producers, from `start` to `end`.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub batches_per_s: f64,
    pub start: Instant,
    /// `None` goes on until nobody listens any more.
    pub end: Option<Instant>,
}

impl Pace {
    fn due(&self, batch: u64) -> Instant {
        self.start + Duration::from_secs_f64(batch as f64 / self.batches_per_s)
    }

    /// Tells each producer in turn that a batch is due, at that time, until `stop`. Blocks: run it on a thread.
    pub fn keep(self, producers: &[mpsc::UnboundedSender<Instant>], stop: &AtomicBool) {
        for batch in 0.. {
            let due = self.due(batch);
            if stop.load(Ordering::Relaxed) || self.end.is_some_and(|end| due >= end) {
                return;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let turn = (batch % producers.len() as u64) as usize;
            if producers[turn].send(due).is_err() && producers.iter().all(mpsc::UnboundedSender::is_closed) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(budget: u64) -> Run {
        let now = Instant::now();
        Run {
            id: 1,
            started: now,
            measure_from: now,
            stop: AtomicBool::new(false),
            budget: AtomicU64::new(budget),
            acknowledged: AtomicU64::new(0),
        }
    }

    #[test]
    fn a_budget_is_spent_to_the_record_and_time_has_none() {
        let limited = run(25);
        assert_eq!(
            [limited.claim(10), limited.claim(10), limited.claim(10), limited.claim(10)],
            [10, 10, 5, 0]
        );
        let unlimited = run(u64::MAX);
        assert_eq!([unlimited.claim(10), unlimited.claim(10)], [10, 10]);
        assert_eq!(unlimited.budget.load(Ordering::Relaxed), u64::MAX);
    }

    #[test]
    fn the_pace_is_fixed_beforehand_and_taken_in_turns() {
        let start = Instant::now();
        let pace = Pace { batches_per_s: 1_000.0, start, end: Some(start + Duration::from_millis(10)) };
        let (a, mut from_a) = mpsc::unbounded_channel();
        let (b, mut from_b) = mpsc::unbounded_channel();
        pace.keep(&[a, b], &AtomicBool::new(false));
        let millis = |due: Instant| due.duration_since(start).as_micros() / 1_000;
        let taken = |receiver: &mut mpsc::UnboundedReceiver<Instant>| -> Vec<u128> {
            std::iter::from_fn(|| receiver.try_recv().ok()).map(millis).collect()
        };
        assert_eq!(taken(&mut from_a), [0, 2, 4, 6, 8]);
        assert_eq!(taken(&mut from_b), [1, 3, 5, 7, 9]);
        assert!(start.elapsed() >= Duration::from_millis(9));
    }

    #[test]
    fn the_pace_ends_when_nobody_listens_or_it_is_stopped() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let pace = Pace { batches_per_s: 1e6, start: Instant::now(), end: None };
        pace.keep(std::slice::from_ref(&sender), &AtomicBool::new(true));
        assert_eq!(receiver.len(), 0);
        drop(receiver);
        pace.keep(&[sender], &AtomicBool::new(false));
    }
}
