//! What goes wrong with the network, and with those who speak on it.

use tokio::time::Instant;

use super::*;
use crate::transport::connection::Connection;
use crate::transport::outbox::MessageBody;

/// Waits until the other broker is reached, and says how long that took.
async fn reached(a: &Host, b: &Host) -> Duration {
    let start = Instant::now();
    while ping(a, b).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(start.elapsed() < Duration::from_secs(10), "never reached");
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_fails_its_calls_and_is_replaced() {
    let (net, a, b) = pair();
    ping(&a, &b).await.unwrap();
    b.replica.stick(group(1));
    let call = a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, "x"), WITHIN);
    let cut = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        net.cut();
    };
    let start = Instant::now();
    let (failed, ()) = tokio::join!(call, cut);
    assert!(matches!(failed, Err(CallError::Unreachable(..))), "{failed:?}");
    assert!(start.elapsed() < Duration::from_millis(10));
    assert!(reached(&a, &b).await <= Duration::from_millis(60));
}

#[tokio::test(start_paused = true)]
async fn calls_to_an_unreachable_broker_fail_at_once_and_attempts_back_off() {
    let (net, a, b) = pair();
    net.down.store(true, Ordering::Relaxed);
    assert!(ping(&a, &b).await.is_err());
    let (start, dials) = (Instant::now(), net.dials());
    while start.elapsed() < Duration::from_secs(20) {
        let asked = Instant::now();
        assert!(ping(&a, &b).await.is_err());
        assert_eq!(asked.elapsed(), Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let attempts = net.dials() - dials;
    assert!((20..=45).contains(&attempts), "{attempts} attempts in 20 s");
    // Nobody calls: nobody dials.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let dials = net.dials();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(net.dials(), dials);
    net.down.store(false, Ordering::Relaxed);
    assert!(ping(&a, &b).await.is_ok(), "the first call after a long silence makes an attempt");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_calls_is_dialled_back_at_once() {
    let (net, a, b) = pair();
    net.down.store(true, Ordering::Relaxed);
    for _ in 0..100 {
        assert!(ping(&a, &b).await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Just after an attempt, so that the next is half a second away at least.
    let dials = net.dials();
    while net.dials() == dials {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    net.down.store(false, Ordering::Relaxed);
    ping(&b, &a).await.unwrap();
    assert!(reached(&a, &b).await <= Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_silent_network_is_noticed_within_a_second_on_every_lane() {
    let (net, a, b) = pair();
    ping(&a, &b).await.unwrap();
    a.transport.node_call(b.id, submit("open the lane"), WITHIN).await.unwrap();
    b.replica.stick(group(1));
    let start = Instant::now();
    let append = a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, "x"), WITHIN);
    let vote = a.transport.call(b.peer(), Lane::Control, request(1, RequestKind::Vote, "x"), WITHIN);
    let silence = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        net.silence(true);
    };
    let (append, vote, ()) = tokio::join!(append, vote, silence);
    assert!(matches!(append, Err(CallError::Unreachable(..))), "{append:?} {vote:?}");
    assert!(matches!(vote, Err(CallError::Unreachable(..))), "{vote:?}");
    assert!(start.elapsed() <= Duration::from_millis(1_100), "{:?}", start.elapsed());
    assert!(a.transport.peer(b.id).is_none());
    net.silence(false);
    net.cut();
    b.replica.let_go();
    assert!(reached(&a, &b).await <= Duration::from_millis(1_600));
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline_and_is_not_sent_afterwards() {
    let (_net, a, b) = pair();
    b.replica.stick(group(1));
    let (start, within) = (Instant::now(), Duration::from_millis(300));
    let call = a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, "x"), within).await;
    assert_eq!(call, Err(CallError::TimedOut(within)));
    assert_eq!(start.elapsed(), within);
    b.replica.let_go();
    assert!(ping(&a, &b).await.is_ok(), "the late answer is nobody's");
}

/// Sends bytes of its own after a connection was opened, and returns how the stream ended.
async fn raw(net: &Arc<Net>, host: &Host, bytes: Vec<u8>) -> Status {
    let dialer: Arc<dyn Dialer> = Arc::new(NetDialer(Arc::clone(net)));
    let (settings, tasks) = (TransportSettings::default(), TaskTracker::new());
    let address = address(host.id.get());
    let opened = Connection::open(&dialer, &address, &settings.append, &tasks, WITHIN).await;
    let body = MessageBody::once(Some(bytes.into()), None);
    let read = |mut stream: super::frames::Deframer<hyper::body::Incoming>| async move {
        while let Some(len) = stream.next_len(1 << 20).await? {
            stream.message(len).await?;
        }
        Err::<(), _>(connection::ended(&stream))
    };
    opened.unwrap().run(&address, super::link::LANE_PATH, body, read).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn malformed_frames_end_their_connection_and_nothing_else() {
    let (net, a, b) = pair();
    let intruder = stranger(&net, 3, TransportSettings::default());
    intruder.transport.identify(intruder.incarnation);
    intruder.transport.enter(CLUSTER);
    ping(&a, &b).await.unwrap();
    let dials = net.dials();
    let hello = intruder.transport.0.identity.hello(b.id, None, Lane::Append).unwrap();
    let hello = frames::hello(&hello).to_vec();
    let with_hello = |rest: &[u8]| [&hello[..], rest].concat();
    let mut deep = vec![0x13_u8; 200];
    deep.splice(..0, [0, 0, 0, 0, 200]);
    let cases = [
        ("nothing", Vec::new(), "does not begin with a greeting"),
        (
            "no greeting",
            frames::unary(&v1::LaneRequest::default()).to_vec(),
            "does not begin with a greeting",
        ),
        ("half a greeting", hello[..20].to_vec(), "ends within a message"),
        ("a greeting too long", vec![0, 0, 2, 0, 0], "more than"),
        ("two greetings", with_hello(&hello), "greets twice"),
        ("a message too long", with_hello(&[0, 0xff, 0xff, 0xff, 0xff]), "more than"),
        ("a compressed message", with_hello(&[1, 0, 0, 0, 0]), "compressed"),
        (
            "a field longer than its message",
            with_hello(&[0, 0, 0, 0, 3, 0x12, 0x7f, 0]),
            "ends within a message",
        ),
        ("no protobuf", with_hello(&[0, 0, 0, 0, 4, 0x12, 2, 0xff, 0xff]), "cannot be read"),
        ("groups within groups", with_hello(&deep), "cannot be read"),
    ];
    for (what, bytes, expected) in cases {
        let status = raw(&net, &b, bytes).await;
        assert!(status.message().contains(expected), "{what}: {status:?}");
    }
    assert!(ping(&a, &b).await.is_ok());
    assert_eq!(net.dials(), dials + 10, "the other connection is the same as before");
}

#[tokio::test(start_paused = true)]
async fn unknown_requests_are_refused_and_the_connection_goes_on() {
    let (_net, a, b) = pair();
    let call = Outgoing {
        len: 0,
        urgent: true,
        expected: None,
        encode: Box::new(|correlation| {
            let group = v1::GroupCall { topic_id: Bytes::from(vec![5; 16]), kind: 77, ..Default::default() };
            Item::small(&v1::Call { correlation, request: Some(v1::call::Request::Group(group)) })
        }),
    };
    let refused = a.transport.0.call(b.id, Lane::Append, call, WITHIN).await;
    assert!(
        matches!(&refused, Err(CallError::Refused(Refusal::Malformed(why))) if why.contains("kind 77")),
        "{refused:?}"
    );
    let call = Outgoing {
        len: 0,
        urgent: true,
        expected: None,
        encode: Box::new(|correlation| Item::small(&v1::Call { correlation, request: None })),
    };
    let refused = a.transport.0.call(b.id, Lane::Append, call, WITHIN).await;
    assert!(matches!(refused, Err(CallError::Refused(Refusal::Malformed(_)))));
    assert!(ping(&a, &b).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_what_is_under_way_and_a_close_ends_everything() {
    let (net, a, b) = pair();
    b.replica.stick(group(1));
    let call = a.transport.call(b.peer(), Lane::Append, request(1, RequestKind::Append, "x"), WITHIN);
    let drain = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        net.drain.cancel();
        tokio::time::sleep(Duration::from_millis(5)).await;
        b.replica.let_go();
    };
    let (answered, ()) = tokio::join!(call, drain);
    assert_eq!(answered, Ok(Bytes::from_static(b"x")));
    a.transport.close().await;
    b.transport.close().await;
    let refused = ping(&a, &b).await;
    assert!(matches!(&refused, Err(CallError::Unreachable(_, why)) if why.contains("stops")), "{refused:?}");
    assert!(a.transport.0.tasks.is_empty() && b.transport.0.tasks.is_empty());
}
