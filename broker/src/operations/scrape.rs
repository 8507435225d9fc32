//! What a broker measures of its cluster: its disk, for the others, and figures for `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use headwater_proto::types::GroupId;

use crate::cluster::DiskSpace;
use crate::metrics::Exposition;
use crate::node::Node;

/// Between two looks at the disk.
const LOOK_AT_DISK: Duration = Duration::from_secs(5);

/// Tells the others how full this broker's disk is, until it stops.
pub async fn watch_disk(node: Arc<Node>) {
    loop {
        if let Ok(space) = node.data_dir().space() {
            let disk = DiskSpace { total_bytes: space.total_bytes, free_bytes: space.free_bytes };
            node.cluster().set_disk(disk);
        }
        if tokio::time::timeout(LOOK_AT_DISK, node.stop().cancelled()).await.is_ok() {
            return;
        }
    }
}

impl Node {
    /// Figures of the cluster, as this broker knows it. What a partition lacks is told by its leader alone.
    pub fn scrape_cluster(&self, out: &mut Exposition) {
        let own = self.controller().broker_id();
        let led = self.cluster().led();
        let (mut leads, mut under_replicated, mut leaderless, mut live) = (0, 0, 0, 0);
        self.controller().with_state(|state| {
            for (group, assigned) in state.groups().filter(|(group, _)| *group != GroupId::METADATA) {
                // Who has a vote while a partition moves, its leader knows.
                let is_led = !assigned.leaving.is_empty() || self.has_majority(assigned.brokers());
                match led.get(&group).filter(|_| is_led) {
                    Some(leader) if leader.broker == own => {
                        leads += 1;
                        let has = |broker| leader.in_sync.contains(&broker) && self.cluster().alive(broker);
                        under_replicated += usize::from(!assigned.brokers().all(has));
                    }
                    Some(_) => {}
                    None => leaderless += 1,
                }
            }
            live = state.brokers().filter(|broker| self.cluster().alive(broker.id)).count();
        });
        let figures = [
            ("headwater_brokers_live", "Brokers heard from lately, this one included.", live),
            ("headwater_partitions_led", "Partitions that this broker leads.", leads),
            (
                "headwater_partitions_under_replicated",
                "Partitions that this broker leads and that lack a replica which is live and caught up.",
                under_replicated,
            ),
            (
                "headwater_partitions_leaderless",
                "Partitions of the cluster without a leader, as far as this broker knows.",
                leaderless,
            ),
            (
                "headwater_groups_quiet",
                "Raft groups on this broker whose timers rest.",
                self.cluster().quiet_count(),
            ),
        ];
        for (name, help, value) in figures {
            out.gauge(name, help);
            out.sample(name, &[], value);
        }
    }
}
