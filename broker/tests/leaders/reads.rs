//! Who answers whom.

use headwater_proto::v1;

use crate::harness::{Trio, code, eventually, position};

#[tokio::test]
async fn whoever_does_not_lead_says_who_does() {
    let trio = Trio::start(|_| {}).await;
    trio.create("t", 1).await;
    let leader = trio.leader(1, "t", 0, -1).await;
    let follower = trio.another(&[leader]);
    let (mut led, mut follows) = (trio.calls(leader).await, trio.calls(follower).await);
    assert_eq!(led.produce("t", 0, "a").await.error, None);

    let hint = |error: &Option<v1::Error>| error.as_ref().unwrap().leader.clone().unwrap();
    let refused = follows.produce("t", 0, "b").await.error;
    assert_eq!(code(&refused), "NOT_LEADER_OR_FOLLOWER");
    assert!(refused.as_ref().unwrap().retriable);
    assert_eq!(hint(&refused).leader_id, leader);
    assert_eq!(hint(&refused).leader_address, trio.members[&leader].grpc_address);
    assert!(hint(&refused).leader_epoch > 0);
    for error in [follows.fetch("t", 0, false).await.error, follows.latest("t", 0).await.error] {
        assert_eq!(code(&error), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(hint(&error).leader_id, leader);
    }
    let latest = led.latest("t", 0).await;
    assert_eq!((latest.error, latest.offset), (None, 1));
}

#[tokio::test]
async fn a_follower_serves_what_it_knows_to_be_committed_if_asked_to() {
    let trio = Trio::start(|_| {}).await;
    trio.create("t", 1).await;
    let leader = trio.leader(1, "t", 0, -1).await;
    let mut led = trio.calls(leader).await;
    assert_eq!(led.produce("t", 0, "a").await.error, None);
    let mut follows = trio.calls(trio.another(&[leader])).await;
    eventually("the follower hears of the commit", || {
        let mut follows = follows.clone();
        async move { !follows.fetch("t", 0, true).await.records.is_empty() }
    })
    .await;
    let found = follows.fetch("t", 0, true).await;
    assert_eq!((found.error, found.next_offset, found.high_watermark), (None, 1, 1));
    assert_eq!(found.leader_epoch, led.fetch("t", 0, false).await.leader_epoch);
    let beyond = follows.fetch("t", 5, true).await;
    assert_eq!(code(&beyond.error), "OFFSET_NOT_AVAILABLE");
    assert_eq!(beyond.error.unwrap().leader.unwrap().leader_id, leader);
    let beyond = led.fetch("t", 5, false).await;
    assert_eq!(code(&beyond.error), "OFFSET_OUT_OF_RANGE");
    assert_eq!((beyond.log_start_offset, beyond.high_watermark), (0, 1));
}

#[tokio::test]
async fn a_tail_ends_when_its_broker_leads_no_more() {
    let trio = Trio::start(|_| {}).await;
    trio.create("t", 1).await;
    let leader = trio.leader(1, "t", 0, -1).await;
    let mut led = trio.calls(leader).await;
    assert_eq!(led.produce("t", 0, "a").await.error, None);
    let request = v1::ConsumeRequest { partitions: vec![position("t", 0)], ..Default::default() };
    let mut tail = led.data.consume(request).await.unwrap().into_inner();
    let first = tail.message().await.unwrap().unwrap().records.unwrap();
    assert_eq!((first.error, first.next_offset), (None, 1));

    let next = trio.another(&[leader]);
    let third = trio.another(&[leader, next]);
    assert_eq!(
        trio.calls(third).await.transfer("t", 0, next).await,
        None,
        "asked of a broker that does not lead"
    );
    let ended = tail.message().await.unwrap().unwrap().records.unwrap();
    assert_eq!(code(&ended.error), "NOT_LEADER_OR_FOLLOWER");
    assert!(tail.message().await.is_err(), "no partition is left");
    assert_eq!(trio.leader(third, "t", 0, leader).await, next);
    assert_eq!(trio.calls(next).await.produce("t", 0, "b").await.base_offset, 1);
}

#[tokio::test]
async fn a_dead_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut trio = Trio::start(|_| {}).await;
    trio.create("t", 1).await;
    let leader = trio.leader(1, "t", 0, -1).await;
    for n in 0..20 {
        assert_eq!(trio.calls(leader).await.produce("t", 0, &format!("{n}")).await.error, None);
    }
    trio.kill(leader);
    let other = trio.another(&[leader]);
    let next = trio.leader(other, "t", 0, leader).await;
    let mut led = trio.calls(next).await;
    let latest = led.latest("t", 0).await;
    assert_eq!((latest.error, latest.offset), (None, 20));
    assert_eq!(led.produce("t", 0, "20").await.base_offset, 20);
    trio.boot(leader).await;
    eventually("the broker that came back is in sync", || async {
        trio.calls(other).await.partitions("t").await[0].in_sync.len() == 3
    })
    .await;
}
