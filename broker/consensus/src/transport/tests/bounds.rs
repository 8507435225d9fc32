//! How much may be under way, and what does not wait for it.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::*;

const MIB: usize = 1 << 20;

fn small() -> TransportSettings {
    let mut settings = TransportSettings::default();
    settings.append.queue_bytes = 4 * MIB;
    settings.append.receive_bytes = 3 * MIB;
    settings.append.window_bytes = 1 << 20;
    settings
}

#[tokio::test(start_paused = true)]
async fn a_stuck_receiver_bounds_what_is_sent_and_read_and_delays_no_other_lane() {
    let net = Arc::<Net>::default();
    let (a, b) = (host_with(&net, 1, small()), host_with(&net, 2, small()));
    a.transport.node_call(b.id, submit("open the lane"), WITHIN).await.unwrap();
    (0..20).for_each(|n| b.replica.stick(group(n)));
    let body = Bytes::from(vec![7; MIB]);
    let calls = (0..40).map(|n| {
        let request = request(n % 20, RequestKind::Append, body.clone());
        a.transport.call(b.peer(), Lane::Append, request, WITHIN)
    });
    let look = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(b.replica.began(), 2, "the third would go beyond 3 MiB");
        // Receiver's window and what lies in pipes and send buffers comes on top.
        let carried = net.carried_bytes.load(Ordering::Relaxed) as usize;
        assert!(carried < 6 * MIB, "{carried} bytes on the wire");
        let start = Instant::now();
        let vote = request(0, RequestKind::Vote, "other lane");
        b.replica.stuck.lock().unwrap().remove(&group(0));
        a.transport.call(b.peer(), Lane::Control, vote, WITHIN).await.unwrap();
        a.transport.node_call(b.id, submit("other lane"), WITHIN).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        b.replica.let_go();
    };
    let (answers, ()) = tokio::join!(join_all(calls), look);
    assert!(answers.iter().all(Result::is_ok), "all pass once there is room");
}

#[tokio::test(start_paused = true)]
async fn callers_beyond_the_queue_wait_and_give_up_by_their_deadline() {
    let net = Arc::<Net>::default();
    let (a, b) = (host_with(&net, 1, small()), host_with(&net, 2, small()));
    b.replica.stick(group(0));
    let body = Bytes::from(vec![7; MIB]);
    let within = Duration::from_millis(700);
    let calls = (0..40).map(|_| {
        a.transport.call(b.peer(), Lane::Append, request(0, RequestKind::Append, body.clone()), within)
    });
    let start = Instant::now();
    let answers = join_all(calls).await;
    assert_eq!(start.elapsed(), within);
    assert!(answers.iter().all(|answer| *answer == Err(CallError::TimedOut(within))));
    b.replica.let_go();
    assert!(ping(&a, &b).await.is_ok());
    let carried = net.carried_bytes.load(Ordering::Relaxed) as usize;
    assert!(carried < 10 * MIB, "what nobody waits for is not sent: {carried} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_stuck_group_delays_no_other_on_its_lane() {
    let (_net, a, b) = pair();
    b.replica.stick(group(1));
    let stuck = (0..50)
        .map(|_| a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, "stuck"), WITHIN));
    let others = async {
        let start = Instant::now();
        for _ in 0..100 {
            ping(&a, &b).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        b.replica.let_go();
    };
    let (answers, ()) = tokio::join!(join_all(stuck), others);
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_never_answers_gives_its_memory_back() {
    let (_net, a, b) = pair();
    b.replica.stick(group(1));
    let within = Duration::from_secs(100);
    let call = a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, "x"), within);
    let refused = call.await;
    assert!(matches!(&refused, Err(CallError::Refused(Refusal::Stopped(_)))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_longer_than_a_message_is_refused_before_it_is_sent() {
    let net = Arc::<Net>::default();
    let settings = TransportSettings { message_bytes_max: 2 * MIB, ..small() };
    let (a, b) = (host_with(&net, 1, settings.clone()), host_with(&net, 2, settings));
    let call = |len: usize| {
        let request = request(0, RequestKind::Append, vec![0; len]);
        a.transport.call(b.peer(), Lane::Append, request, WITHIN)
    };
    assert!(matches!(call(2 * MIB).await, Err(CallError::Refused(Refusal::Malformed(_)))));
    assert!(call(MIB + MIB / 2).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn recovery_keeps_to_its_rate_and_the_rest_does_not_wait_for_it() {
    let net = Arc::<Net>::default();
    let settings = TransportSettings {
        recovery_bytes_per_second: std::num::NonZeroU64::new(10 * MIB as u64),
        ..TransportSettings::default()
    };
    let (a, b) = (host_with(&net, 1, settings.clone()), host_with(&net, 2, settings));
    a.transport.throttle(group(1), ReplicaId(2), true);
    let start = Instant::now();
    let body = Bytes::from(vec![7; MIB]);
    let recovery = (0..20).map(|_| {
        a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, body.clone()), WITHIN)
    });
    let traffic = async {
        for _ in 0..20 {
            a.transport
                .call(b.peer(), Lane::Append, request(2, RequestKind::Append, body.clone()), WITHIN)
                .await
                .unwrap();
        }
        start.elapsed()
    };
    let (answers, traffic) = tokio::join!(join_all(recovery), traffic);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(traffic, Duration::ZERO);
    assert!((1_700..=2_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}
