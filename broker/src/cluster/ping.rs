//! Pings: sending, hearing, and the words of both on the wire.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_consensus::peer::Refusal;
use headwater_consensus::transport::{NodeRequest, NodeResponse, PeerIdentity, Transport};
use headwater_proto::types::{BrokerId, GroupId, LogIndex, PartitionId, ReplicaId, Term, TopicId};
use headwater_proto::v1::{self, Ping, Pong};
use headwater_storage::log::LogId;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::announce::{Announcement, Delta};
use super::view::{DiskSpace, Shift};
use super::{Cluster, Pinger};

/// News wait so long for more of it.
const NEWS_LINGER: Duration = Duration::from_millis(5);

#[async_trait]
impl Pinger for Transport {
    async fn ping(&self, broker: BrokerId, ping: Ping, within: Duration) -> Option<Pong> {
        match self.node_call(broker, NodeRequest::Ping(ping), within).await {
            Ok(NodeResponse::Ping(pong)) => Some(pong),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%broker, %error, "a ping was not answered");
                None
            }
        }
    }
}

impl Cluster {
    pub(super) async fn run_pings(self: Arc<Self>) {
        let mut tick = interval(self.settings.ping_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let shift = self.inner().view.fallen_silent(Instant::now());
                    self.follow(shift);
                    self.ping_all(false);
                }
                () = self.news.notified() => {
                    sleep(NEWS_LINGER).await;
                    self.ping_all(true);
                }
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn ping_all(self: &Arc<Self>, behind_only: bool) {
        let (outgoing, disk) = {
            let mut inner = self.inner();
            (inner.view.outgoing(behind_only), inner.disk)
        };
        for (broker, delta) in outgoing {
            let cluster = Arc::clone(self);
            self.tasks.spawn(async move {
                let call = cluster.pinger.ping(broker, encode(delta, disk), cluster.settings.ping_timeout);
                let pong = tokio::select! {
                    pong = call => pong,
                    () = cluster.stop.cancelled() => None,
                };
                cluster.inner().view.answered(broker, pong.map(|pong| pong.held_sequence));
            });
        }
    }

    /// Another broker pinged.
    ///
    /// # Errors
    /// The message cannot be read.
    pub fn hear(self: &Arc<Self>, from: &PeerIdentity, ping: Ping) -> Result<Pong, Refusal> {
        let disk = DiskSpace { total_bytes: ping.disk_total_bytes, free_bytes: ping.disk_free_bytes };
        let delta = decode(ping).map_err(Refusal::Malformed)?;
        Ok(self.note_ping(from.broker_id, from.boot_id, delta, disk))
    }

    fn note_ping(self: &Arc<Self>, from: BrokerId, boot: u64, delta: Delta, disk: DiskSpace) -> Pong {
        let (shift, held_sequence) = {
            let mut inner = self.inner();
            let shift = inner.view.hear(from, boot, delta, Instant::now());
            inner.view.set_disk(from, disk);
            (shift, inner.view.held_of(from))
        };
        self.follow(shift);
        Pong { held_sequence }
    }

    /// Does for the groups of this broker what follows from a change of the view.
    pub(super) fn follow(self: &Arc<Self>, shift: Shift) {
        if shift.is_empty() {
            return;
        }
        for broker in &shift.silent {
            tracing::warn!(%broker, "a broker has fallen silent");
        }
        for broker in &shift.back {
            tracing::info!(%broker, "a broker is there");
        }
        let wakes = {
            let mut inner = self.inner();
            self.rest_or_wake(&mut inner, &shift)
        };
        self.wake_later(wakes);
        self.changed.send_modify(|count| *count += 1);
    }
}

fn encode(delta: Delta, disk: DiskSpace) -> Ping {
    let announce = |(group, said): (GroupId, Announcement)| v1::Announcement {
        group: Some(name(group)),
        term: said.term.get(),
        replica_id: said.replica.get(),
        in_sync: said.in_sync.iter().map(|broker| broker.get()).collect(),
        quiet: said.quiet.is_some(),
        last_term: said.quiet.map_or(0, |last| last.term.get()),
        last_index: said.quiet.map_or(0, |last| last.index.get()),
    };
    Ping {
        sequence: delta.sequence,
        base_sequence: delta.base,
        announcements: delta.announced.into_iter().map(announce).collect(),
        withdrawn: delta.withdrawn.into_iter().map(name).collect(),
        disk_total_bytes: disk.total_bytes,
        disk_free_bytes: disk.free_bytes,
    }
}

fn decode(ping: Ping) -> Result<Delta, String> {
    if ping.sequence == 0 {
        return Err("a ping without a sequence number".to_owned());
    }
    let announced = ping.announcements.into_iter().map(|said| {
        let group = group(said.group.as_ref())?;
        let last = LogId { term: Term(said.last_term), index: LogIndex(said.last_index) };
        let announcement = Announcement {
            term: Term(said.term),
            replica: ReplicaId(said.replica_id),
            in_sync: said.in_sync.into_iter().map(BrokerId).collect(),
            quiet: said.quiet.then_some(last),
        };
        Ok((group, announcement))
    });
    let withdrawn = ping.withdrawn.iter().map(|name| group(Some(name)));
    Ok(Delta {
        sequence: ping.sequence,
        base: ping.base_sequence,
        announced: announced.collect::<Result<_, String>>()?,
        withdrawn: withdrawn.collect::<Result<_, String>>()?,
    })
}

/// A group as it is named on the wire.
pub fn name(group: GroupId) -> v1::GroupName {
    v1::GroupName { topic_id: Bytes::copy_from_slice(&group.topic_id.0), partition: group.partition.get() }
}

/// # Errors
/// Words for a name that is none.
pub fn group(name: Option<&v1::GroupName>) -> Result<GroupId, String> {
    let name = name.ok_or("a group without a name")?;
    let topic_id: [u8; 16] = name.topic_id.as_ref().try_into().map_err(|_| "a topic id is 16 bytes")?;
    Ok(GroupId { topic_id: TopicId(topic_id), partition: PartitionId(name.partition) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_survives_the_wire() {
        let quiet = Some(LogId { term: Term(3), index: LogIndex(9) });
        let said = |quiet| Announcement {
            term: Term(4),
            replica: ReplicaId(1_001),
            in_sync: vec![BrokerId(0), BrokerId(2)],
            quiet,
        };
        let other = GroupId { topic_id: TopicId([9; 16]), partition: PartitionId(7) };
        let delta = Delta {
            sequence: 12,
            base: 11,
            announced: vec![(GroupId::METADATA, said(None)), (other, said(quiet))],
            withdrawn: vec![other],
        };
        assert_eq!(decode(encode(delta.clone(), DiskSpace::default())), Ok(delta));
        assert!(decode(Ping::default()).is_err());
        let nameless = Ping { sequence: 1, withdrawn: vec![v1::GroupName::default()], ..Ping::default() };
        assert!(decode(nameless).is_err());
    }
}
