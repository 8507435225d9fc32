//! Groups of several replicas: elections, replication, and what is left after failures.

use headwater_proto::types::Offset;
use headwater_storage::log::LogOptions;

use super::cluster::Cluster;

#[tokio::test(start_paused = true)]
async fn one_of_three_is_elected_and_the_others_follow() {
    for seed in 0..5 {
        let mut cluster = Cluster::new(3, seed, LogOptions::default()).await;
        cluster.wait_leader().await;
        cluster.append_all(0..20).await;
        assert_eq!(cluster.converged().await, Offset(20));
        let values = cluster.values(1);
        assert_eq!(values.len(), 20);
        assert!((2..=3).all(|node| cluster.values(node) == values));
    }
}
