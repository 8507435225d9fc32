//! The rate of recovery: what goes to replicas that are being built takes its turn at a token bucket, and one request
//! at a time is under way to each broker. Many large requests at once would take the processor in slices that a small
//! one of a client has to wait for, whatever their rate.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_proto::types::{BrokerId, GroupId, ReplicaId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::peer::{GroupRequest, Lane, RequestKind};

/// What an idle bucket holds, in time at its rate.
const BURST: Duration = Duration::from_millis(100);

/// One token bucket for all that this broker sends to replicas that are catching up.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Option<NonZeroU64>,
    /// When the bucket is empty no more. Held while waiting, which makes the queue fair.
    ready_at: tokio::sync::Mutex<Instant>,
    catching_up: Mutex<BTreeSet<(GroupId, ReplicaId)>>,
    /// Of each broker, whether a request of recovery is under way to it.
    turns: Mutex<BTreeMap<BrokerId, Arc<Semaphore>>>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            rate: bytes_per_second,
            ready_at: tokio::sync::Mutex::new(Instant::now()),
            catching_up: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    pub(super) fn mark(&self, group: GroupId, replica: ReplicaId, catching_up: bool) {
        let mut marked = self.catching_up.lock().unwrap_or_else(PoisonError::into_inner);
        if catching_up {
            marked.insert((group, replica));
        } else {
            marked.remove(&(group, replica));
        }
    }

    /// Waits for the turn of a request, if it is recovery; the turn ends when what is returned is dropped. What is
    /// larger than the bucket goes as one, and the next waits for longer.
    pub(super) async fn wait(
        &self,
        to: BrokerId,
        lane: Lane,
        request: &GroupRequest,
    ) -> Option<OwnedSemaphorePermit> {
        let recovery = match lane {
            Lane::Control => false,
            Lane::Append => request.kind == RequestKind::Append && self.is_marked(request),
            Lane::Snapshot => true,
        };
        let (true, Some(rate)) = (recovery, self.rate) else { return None };
        // Never closed.
        let turn = self.turn(to).acquire_owned().await.ok();
        let mut ready_at = self.ready_at.lock().await;
        tokio::time::sleep_until(*ready_at).await;
        let earned_since = Instant::now().checked_sub(BURST).unwrap_or(*ready_at);
        let takes = Duration::from_secs_f64(request.body.len() as f64 / rate.get() as f64);
        *ready_at = (*ready_at).max(earned_since) + takes;
        turn
    }

    fn turn(&self, to: BrokerId) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(to).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }

    fn is_marked(&self, request: &GroupRequest) -> bool {
        let marked = self.catching_up.lock().unwrap_or_else(PoisonError::into_inner);
        marked.contains(&(request.group, request.target))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::peer::Body;

    const TO: BrokerId = BrokerId(7);

    fn append(target: u64, len: usize) -> GroupRequest {
        let body = Body::from(Bytes::from(vec![0; len]));
        let (group, from) = (GroupId::METADATA, ReplicaId(1));
        GroupRequest { group, from, target: ReplicaId(target), kind: RequestKind::Append, body }
    }

    #[tokio::test(start_paused = true)]
    async fn only_recovery_waits_and_keeps_to_its_rate() {
        let throttle = Throttle::new(NonZeroU64::new(1_000_000));
        throttle.mark(GroupId::METADATA, ReplicaId(2), true);
        let start = Instant::now();
        throttle.wait(TO, Lane::Append, &append(3, 50_000_000)).await;
        throttle.wait(TO, Lane::Control, &append(2, 50_000_000)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            throttle.wait(TO, Lane::Append, &append(2, 500_000)).await;
            throttle.wait(TO, Lane::Snapshot, &append(3, 500_000)).await;
        }
        let took = start.elapsed().as_millis();
        assert!((19_000..=20_000).contains(&took), "20 MB at 1 MB/s took {took} ms");
        throttle.mark(GroupId::METADATA, ReplicaId(2), false);
        let caught_up = Instant::now();
        throttle.wait(TO, Lane::Append, &append(2, 500_000)).await;
        assert_eq!(caught_up.elapsed(), Duration::ZERO);
        let unlimited = Throttle::new(None);
        for _ in 0..2 {
            unlimited.wait(TO, Lane::Snapshot, &append(2, 50_000_000)).await;
        }
        assert_eq!(caught_up.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_goes_to_a_broker() {
        let throttle = Throttle::new(NonZeroU64::new(1_000_000_000));
        let request = append(2, 1_000);
        let first = throttle.wait(TO, Lane::Snapshot, &request).await;
        assert!(first.is_some());
        let second = throttle.wait(TO, Lane::Snapshot, &request);
        assert!(tokio::time::timeout(Duration::from_secs(60), second).await.is_err());
        assert!(
            throttle.wait(BrokerId(8), Lane::Snapshot, &request).await.is_some(),
            "another broker's turn"
        );
        drop(first);
        assert!(throttle.wait(TO, Lane::Snapshot, &request).await.is_some());
    }
}
