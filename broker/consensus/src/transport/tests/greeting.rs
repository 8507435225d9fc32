//! Who may talk to whom.

use super::*;

async fn refusal(a: &Host, b: &Host) -> String {
    match ping(a, b).await {
        Err(CallError::Unreachable(_, why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_no_peer() {
    let net = Arc::<Net>::default();
    let (a, b) = (host(&net, 1), stranger(&net, 2, TransportSettings::default()));
    b.transport.identify(b.incarnation);
    b.transport.enter(ClusterId([2; 16]));
    let why = refusal(&a, &b).await;
    assert!(why.contains("of cluster 0202") && why.contains("0101"), "{why}");
    assert_eq!(b.replica.began(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_data_directory_that_is_meant_is_reached() {
    let (_net, a, b) = pair();
    let other = Peer { incarnation: Incarnation([9; 16]), ..b.peer() };
    let call = a.transport.call(other, Lane::Append, request(0, RequestKind::Append, "x"), WITHIN);
    assert!(
        matches!(call.await, Err(CallError::Unreachable(_, why)) if why.contains("another data directory"))
    );
    assert_eq!(b.replica.began(), 0);
    assert!(ping(&a, &b).await.is_ok(), "the lane itself is fine");
    // As metadata has it, the broker got another data directory: this one is not greeted any more.
    let (_net, a, b) = pair();
    a.transport.addresses().register(b.id, other.incarnation, &address(2));
    let why = refusal(&a, &b).await;
    assert!(why.contains("this is data directory 0202"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_at_another_ones_address_is_not_taken_for_it() {
    let (_net, a, b) = pair();
    a.transport.addresses().register(BrokerId(3), b.incarnation, &address(2));
    let call = a.transport.node_call(BrokerId(3), submit("x"), WITHIN).await;
    assert!(
        matches!(&call, Err(CallError::Unreachable(_, why)) if why.contains("this is broker 2")),
        "{call:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_old_data_directory_is_refused_even_on_a_connection_that_is_open() {
    let (_net, a, b) = pair();
    assert!(ping(&a, &b).await.is_ok());
    b.handler.refused.lock().unwrap().insert((a.id, a.incarnation));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let why = refusal(&a, &b).await;
    assert!(why.contains("of broker 1 was replaced"), "{why}");
    assert_eq!(b.replica.began(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_highest_common_version_is_spoken_and_none_is_refused_by_name() {
    let with = |min, max| TransportSettings { protocol: ProtocolRange { min, max }, ..Default::default() };
    let net = Arc::<Net>::default();
    let (old, new, newest) =
        (host_with(&net, 1, with(1, 2)), host_with(&net, 2, with(1, 7)), host_with(&net, 3, with(3, 9)));
    old.transport.node_call(new.id, submit("x"), WITHIN).await.unwrap();
    assert_eq!(old.transport.peer(new.id).unwrap().protocol, 2);
    assert_eq!(new.handler.callers.lock().unwrap()[0].protocol, 2);
    new.transport.node_call(newest.id, submit("x"), WITHIN).await.unwrap();
    assert_eq!(newest.handler.callers.lock().unwrap()[0].protocol, 7);
    let why = refusal(&old, &newest).await;
    assert!(why.contains("versions 3 to 9") && why.contains("1 to 2"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn callers_are_told_to_come_again_until_the_broker_is_up() {
    let net = Arc::<Net>::default();
    let (a, b) = (host(&net, 1), stranger(&net, 2, TransportSettings::default()));
    assert!(refusal(&a, &b).await.contains("in no cluster yet"));
    b.transport.identify(b.incarnation);
    b.transport.enter(CLUSTER);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ping(&a, &b).await.is_ok());
}
