//! What goes right.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn three_brokers_reach_one_another_on_every_lane() {
    let net = Arc::<Net>::default();
    let hosts = [1, 2, 3].map(|id| host(&net, id));
    for from in &hosts {
        for to in hosts.iter().filter(|to| to.id != from.id) {
            for (lane, kind) in [
                (Lane::Control, RequestKind::Vote),
                (Lane::Append, RequestKind::Append),
                (Lane::Snapshot, RequestKind::Snapshot),
            ] {
                let body = format!("{} to {} {lane:?}", from.id, to.id);
                let call = from.transport.call(to.peer(), lane, request(3, kind, body.clone()), WITHIN);
                assert_eq!(call.await, Ok(Bytes::from(body)));
            }
            let answer = from.transport.node_call(to.id, submit("create"), WITHIN).await;
            let Ok(NodeResponse::Submit(v1::Submitted { outcome })) = answer else { panic!("{answer:?}") };
            let Some(v1::submitted::Outcome::Applied(applied)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(applied.effect, "create");
            let caller = to.handler.callers.lock().unwrap().last().cloned().unwrap();
            assert_eq!(
                (caller.broker_id, caller.incarnation, caller.protocol),
                (from.id, from.incarnation, 1)
            );
            assert_eq!(from.transport.peer(to.id).unwrap().boot_id, to.id.get() as u64);
        }
    }
    assert_eq!(net.dials(), 18, "one connection for each pair, direction and lane");
}

#[tokio::test(start_paused = true)]
async fn a_broker_is_probed_and_asked_before_it_is_in_a_cluster() {
    let net = Arc::<Net>::default();
    let (asker, asked) =
        (stranger(&net, 1, TransportSettings::default()), stranger(&net, 2, TransportSettings::default()));
    let probe = v1::ProbeRequest { incarnation: Bytes::from_static(b"x"), ..Default::default() };
    let answer = asker.transport.probe(&address(2), probe, WITHIN).await.unwrap();
    assert_eq!(answer.incarnation, "x");
    let refused = asker.transport.join(&address(2), v1::JoinRequest::default(), WITHIN).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::FailedPrecondition, "the cluster is full"));
    let nobody = asker.transport.probe(&address(9), v1::ProbeRequest::default(), WITHIN).await.unwrap_err();
    assert_eq!(nobody.code(), tonic::Code::Unavailable);
    let call = asker.transport.node_call(asked.id, submit("x"), WITHIN).await;
    assert!(matches!(call, Err(CallError::Unreachable(BrokerId(2), _))), "{call:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_group_arrive_in_order_and_answers_find_their_callers() {
    let (_net, a, b) = pair();
    let calls = (0..2_000_u32).map(|n| {
        // Bodies on both sides of what is copied into a shared frame.
        let mut body = n.to_be_bytes().to_vec();
        body.resize(4 + (n as usize * 37) % 3_000, 0);
        let request = request(n as i32 % 7, RequestKind::Append, body);
        a.transport.call(b.peer(), Lane::Append, request, WITHIN)
    });
    for (n, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap()[..4], (n as u32).to_be_bytes());
    }
    let began = b.replica.began.lock().unwrap();
    for partition in 0..7 {
        let order: Vec<_> =
            began.iter().filter(|(of, _)| *of == group(partition)).map(|(_, n)| &n[..4]).collect();
        assert!(order.len() > 200 && order.is_sorted());
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_travel_together_and_delay_nobody_else() {
    let (net, a, b) = pair();
    ping(&a, &b).await.unwrap();
    a.transport.node_call(b.id, submit("open the lane"), WITHIN).await.unwrap();
    let (start, before) = (Instant::now(), net.carried_bytes.load(Ordering::Relaxed));
    let beats = (0..100).map(|n| {
        let request = request(n, RequestKind::Heartbeat, "beat");
        a.transport.call(b.peer(), Lane::Control, request, WITHIN)
    });
    let alone = async {
        a.transport.node_call(b.id, submit("urgent"), WITHIN).await.unwrap();
        start.elapsed()
    };
    let beats_only = join_all(beats);
    assert!(beats_only.await.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), Duration::from_millis(5), "one wait there, and none for the last reply");
    // 20 bytes of identity, and some 25 of protobuf: no room for HTTP/2 frames of 9 bytes each way.
    let bytes = net.carried_bytes.load(Ordering::Relaxed) - before;
    assert!(bytes < 100 * 55, "{bytes} bytes for 100 heartbeats and their replies");
    let before = start.elapsed();
    assert_eq!(alone.await, before, "what is urgent does not wait");
}

#[tokio::test(start_paused = true)]
async fn refusals_come_back_as_they_were_given() {
    let (_net, a, b) = pair();
    let call = |target| {
        let request = GroupRequest { target: ReplicaId(target), ..request(0, RequestKind::Vote, "") };
        a.transport.call(b.peer(), Lane::Control, request, WITHIN)
    };
    assert_eq!(call(3).await, Err(CallError::Refused(Refusal::NoSuchReplica)));
    assert_eq!(call(2).await, Ok(Bytes::new()));
    let ping = NodeRequest::Ping(v1::Ping::default());
    let refused = a.transport.node_call(b.id, ping, WITHIN).await;
    assert_eq!(refused, Err(CallError::Refused(Refusal::Stopped("resting".to_owned()))));
    let oneself = a.transport.node_call(a.id, submit("x"), WITHIN).await;
    assert!(matches!(oneself, Err(CallError::Unreachable(..))));
}
