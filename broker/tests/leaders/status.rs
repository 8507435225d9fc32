//! The cluster as operators see it.

use headwater_broker::config::Config;
use headwater_proto::v1;

use crate::harness::{Trio, code, eventually};

#[tokio::test]
async fn a_dead_broker_and_what_it_lacks_are_shown() {
    let advertise = |config: &mut Config| {
        let http = format!("console-{}:80", config.broker.node_id);
        config.broker.http_advertised_addr = Some(http.parse().unwrap());
    };
    let mut trio = Trio::start(advertise).await;
    trio.create("t", 4).await;
    let status = trio.calls(2).await.status().await;
    assert_eq!((status.partitions, status.under_replicated, status.leaderless), (4, 0, 0), "{status:?}");
    assert_eq!(status.brokers.iter().map(|broker| broker.leaders).sum::<u32>(), 4);
    assert!(status.brokers.iter().all(|b| b.live && b.replicas == 4 && b.lag_entries == 0), "{status:?}");
    let consoles: Vec<_> = status.brokers.iter().map(|broker| broker.http_address.as_str()).collect();
    assert_eq!(consoles, ["console-1:80", "console-2:80", "console-3:80"], "asked of broker 2");
    assert_eq!(trio.calls(3).await.unhealthy().await, []);

    trio.kill(2);
    eventually("the loss is shown", || async {
        let status = trio.calls(1).await.status().await;
        status.under_replicated == 4 && status.leaderless == 0 && !status.brokers[1].live
    })
    .await;
    eventually("the dead broker is all that is wrong", || async {
        let unhealthy = trio.calls(3).await.unhealthy().await;
        unhealthy.len() == 4 && unhealthy.iter().all(|one| one.remarks == ["broker 2 is down"])
    })
    .await;
    trio.boot(2).await;
    eventually("all is well again", || async { trio.calls(1).await.unhealthy().await.is_empty() }).await;
}

#[tokio::test]
async fn without_a_majority_nothing_is_shown_as_led() {
    let mut trio = Trio::start(|config| config.cluster.quiesce_after_ms = 200).await;
    trio.create("t", 4).await;
    eventually("all rests", || async {
        let status = trio.calls(1).await.status().await;
        status.brokers.iter().all(|broker| broker.quiet >= 4)
    })
    .await;
    trio.kill(2);
    trio.kill(3);
    eventually("the majority is missed", || async {
        let status = trio.calls(1).await.status().await;
        status.leaderless == 4 && status.controller_id == -1 && status.brokers[0].leaders == 0
    })
    .await;
    let said = trio.calls(1).await.unhealthy().await;
    let no_majority = "no majority of its replicas is up: nothing can be written";
    assert!(said.iter().all(|one| one.remarks[0] == no_majority), "{said:?}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_words() {
    let trio = Trio::start(|_| {}).await;
    trio.create("t", 1).await;
    let mut calls = trio.calls(1).await;
    assert_eq!(code(&calls.transfer("t", 0, 9).await), "INVALID_REPLICA_ASSIGNMENT");
    assert_eq!(code(&calls.transfer("t", 7, 1).await), "UNKNOWN_TOPIC_OR_PARTITION");
    let wanted = v1::AlterTopicReplicas { topic: "t".to_owned(), replicas: 5 };
    let request = v1::AlterReplicasRequest { topics: vec![wanted], validate_only: false };
    let altered = calls.cluster.alter_replicas(request).await.unwrap().into_inner();
    assert_eq!(code(&altered.topics[0].error), "INVALID_REPLICATION_FACTOR");
    let request = v1::RemoveNodeRequest { broker_id: 3, validate_only: false };
    let removed = calls.cluster.remove_node(request).await.unwrap().into_inner();
    assert_eq!(code(&removed.error), "INVALID_REPLICATION_FACTOR", "three replicas need three brokers");
    let request = v1::RecoverPartitionRequest { topic: "t".to_owned(), ..Default::default() };
    let recovered = calls.cluster.recover_partition(request).await.unwrap().into_inner();
    assert_eq!(code(&recovered.error), "INVALID_REQUEST", "it has a leader");
}
