//! The driver's knowledge of who leads: where a lane's batches go, and when that changes.

use tokio::time::Instant;

use super::accumulator::QueueId;
use super::driver::{Driver, Event};
use super::timers::Timer;
use crate::ClientError;
use crate::metadata::Leader;

impl Driver {
    /// The leader that takes the lane's batches now; without one, the lane is kept where its broker or
    /// its leader will find it.
    pub(super) fn route(&mut self, id: QueueId) -> Option<Leader> {
        let leader = self.look_at_leader(id);
        let entry = self.lanes.get_mut(&id)?;
        let Some(leader) = leader else {
            self.homeless.insert(id);
            self.refresh_metadata(None);
            return None;
        };
        if entry.sent_to.is_some_and(|broker| broker != leader.broker) && entry.lane.has_in_flight() {
            // Sent twice, batches without a sequence would be stored twice: they wait for the answers, or
            // for the end of the connection.
            if !entry.lane.is_idempotent() {
                return None;
            }
            self.take_back(id);
        }
        if self.open_link(leader.broker) {
            return Some(leader);
        }
        self.links.wait(leader.broker, id);
        None
    }

    /// The lane's leader by the metadata of this moment.
    fn look_at_leader(&mut self, id: QueueId) -> Option<Leader> {
        let metadata = self.client.metadata();
        let version = metadata.version();
        let entry = self.lanes.get_mut(&id)?;
        if entry.leader.is_none() || entry.leader_version != version {
            let partition = &entry.lane.queue.partition;
            entry.leader = metadata.leader(&partition.topic, partition.partition);
            entry.leader_version = version;
        }
        entry.leader
    }

    fn take_back(&mut self, id: QueueId) {
        let Some(entry) = self.lanes.get_mut(&id) else { return };
        entry.lane.take_back();
        if let Some(broker) = entry.sent_to.take() {
            self.links.forget(broker, id);
        }
    }

    /// Lets a lane rest before its next attempt; a short rest while its leader is looked for.
    pub(super) fn pause(&mut self, id: QueueId, searching: bool) {
        let Some(entry) = self.lanes.get_mut(&id) else { return };
        let (retry, entropy) = (&self.client.config().retry, self.client.entropy());
        let pause = match searching {
            true => entry.attempts.searched(retry, entropy),
            false => entry.attempts.failed(retry, entropy),
        };
        let at = Instant::now() + pause;
        entry.lane.pause_until(at);
        self.timers.set(Timer::Lane(id), at);
    }

    /// Looks up all topics, of any broker or any but one; one look at a time.
    pub(super) fn refresh_metadata(&mut self, but: Option<i32>) {
        if self.refreshing {
            return;
        }
        self.refreshing = true;
        let (client, events) = (self.client.clone(), self.events_in.clone());
        let topics = self.shared.topic_names();
        tokio::spawn(async move {
            let result = match but {
                Some(broker) => client.refresh_elsewhere(broker, topics).await,
                None => client.refresh(topics).await,
            };
            // Refused once the producer is gone; nobody waits for it then.
            let _ = events.send(Event::Metadata(result.map(|_| ())));
        });
    }

    pub(super) fn on_metadata(&mut self, result: Result<(), ClientError>) {
        self.refreshing = false;
        if let Err(error) = result {
            tracing::debug!(%error, "metadata not refreshed");
        }
        for topic in self.shared.topic_names() {
            if let Some(count) = self.client.metadata().partition_count(&topic) {
                self.shared.ensure_topic(&topic, count);
            }
        }
        for id in std::mem::take(&mut self.homeless) {
            if self.look_at_leader(id).is_none() {
                self.pause(id, true);
            } else {
                self.ready.insert(id);
            }
        }
        self.find_moved();
    }

    /// Takes up all lanes whose leader is another one, or leads anew, since they were looked at.
    pub(super) fn find_moved(&mut self) {
        let version = self.client.metadata().version();
        let stale: Vec<QueueId> = self
            .lanes
            .iter()
            .filter(|(_, entry)| entry.leader_version != version)
            .map(|(id, _)| *id)
            .collect();
        for id in stale {
            let before = self.lanes.get(&id).and_then(|entry| entry.leader);
            if self.look_at_leader(id) == before {
                continue;
            }
            if let Some(entry) = self.lanes.get_mut(&id) {
                entry.lane.resume();
                self.ready.insert(id);
            }
        }
    }
}
