//! Idempotent production through restarts: nothing lost, nothing twice.

use std::io::Write;
use std::process::{Child, Stdio};

use bytes::Bytes;
use headwater_client::OffsetSpec;
use headwater_proto::v1;

use crate::harness::{Fixture, batch_of, eventually, told};

async fn producer_id(fixture: &Fixture) -> (i64, i16) {
    let drawn =
        fixture.data().await.init_producer_id(v1::InitProducerIdRequest {}).await.unwrap().into_inner();
    assert_eq!(drawn.error, None);
    (drawn.producer_id, drawn.producer_epoch as i16)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_sent_again_gets_its_first_offset_whatever_happened_meanwhile() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[("segment.bytes", "16384")]).await;
    let (one, epoch) = producer_id(&fixture).await;
    let (two, _) = producer_id(&fixture).await;
    assert_ne!(one, two);
    let value = "v".repeat(3_000);
    let of_one = |sequence| batch_of((one, epoch, sequence), &[&value, &value]);
    let of_two = |sequence| batch_of((two, 0, sequence), &[&value]);
    for round in 0..5_i32 {
        // Three records a round: two of one producer and one of the other.
        let base = i64::from(round) * 3;
        for again in 0..4 {
            let sent = fixture.send("t", of_one(round * 2)).await;
            assert_eq!((sent.error, sent.base_offset), (None, base), "round {round}, {again}");
            let sent = fixture.send("t", of_two(round)).await;
            assert_eq!((sent.error, sent.base_offset), (None, base + 2), "round {round}, {again}");
            match again {
                0 => {
                    fixture.kill();
                    fixture.start_again();
                }
                1 => fixture.restart(),
                _ => {}
            }
        }
        assert_eq!(fixture.offset("t", OffsetSpec::HighWatermark).await, Some(base + 3));
    }
    // All five are in the window of each producer; in whatever order they come again.
    for round in [3_i32, 0, 4, 1, 2] {
        assert_eq!(fixture.send("t", of_one(round * 2)).await.base_offset, i64::from(round) * 3);
    }
    let gap = fixture.send("t", of_one(12)).await;
    assert_eq!(told(&gap.error).0, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    let stale = fixture.send("t", batch_of((two, 1, 0), &["new epoch"])).await;
    assert_eq!((stale.error, stale.base_offset), (None, 15));
    assert_eq!(told(&fixture.send("t", of_two(5)).await.error).0, "INVALID_PRODUCER_EPOCH");
    assert_eq!(fixture.read("t", 0, 0).await.len(), 16);
    // Ids are never given twice, however the broker ended.
    let mut drawn = vec![one, two];
    for _ in 0..2 {
        drawn.push(producer_id(&fixture).await.0);
        fixture.kill();
        fixture.start_again();
        drawn.push(producer_id(&fixture).await.0);
        fixture.restart();
    }
    let before = drawn.len();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), before);
}

/// Answers that a kill swallowed: the batch is there or not, and sending it again settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_under_way_at_a_kill_is_stored_once() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[]).await;
    let (id, epoch) = producer_id(&fixture).await;
    let batch = |n: i32| batch_of((id, epoch, n), &[&format!("value {n}")]);
    let request = |n: i32| {
        let part =
            v1::ProducePartition { topic: "t".to_owned(), partition: 0, records: batch(n), leader_epoch: -1 };
        v1::ProduceRequest { correlation: n as u64, acks: -1, timeout_ms: 0, partitions: vec![part] }
    };
    let mut next = 0;
    for _ in 0..4 {
        // Five are sent without waiting; the kill comes with the first answer at the earliest.
        let five: Vec<_> = (next..next + 5).map(request).collect();
        let mut data = fixture.data().await;
        let mut answers = data.produce(tokio_stream::iter(five)).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().unwrap();
        assert_eq!(first.partitions[0].error, None);
        fixture.kill();
        fixture.start_again();
        for n in next..next + 5 {
            let sent = fixture.send("t", batch(n)).await;
            assert_eq!((sent.error, sent.base_offset), (None, i64::from(n)));
        }
        next += 5;
    }
    let expected: Vec<(i64, Bytes)> = (0..20).map(|n| (n, format!("value {n}").into())).collect();
    assert_eq!(fixture.read("t", 0, 0).await, expected);
}

/// `streamctl produce` while its broker is killed and stopped: every line once, those of a key in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamctl_rides_out_kills_and_stops() {
    let mut fixture = Fixture::start();
    fixture.create("t", 3, &[]).await;
    let mut command = fixture.streamctl(&["produce", "t", "--key-separator", "=", "-o", "json"]);
    let mut child: Child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut sent = 0;
    let mut send = |count: usize| {
        for _ in 0..count {
            writeln!(stdin, "key {}={sent}", sent % 7).unwrap();
            sent += 1;
        }
        stdin.flush().unwrap();
    };
    for round in 0..4 {
        let stored = async || -> i64 {
            let partitions = [0, 1, 2].map(|n| fixture.describe("t", n));
            futures_util::future::join_all(partitions).await.iter().map(|found| found.high_watermark).sum()
        };
        let before = stored().await;
        send(2_000);
        eventually("some lines arrive", async || stored().await > before).await;
        if round % 2 == 0 {
            fixture.kill()
        } else {
            fixture.stop()
        }
        send(1_000);
        fixture.start_again();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["records"].as_i64(), report["failed"].as_i64()), (Some(12_000), Some(0)));
    let consumed = fixture.ok(&["consume", "t"], b"");
    let mut numbers: Vec<usize> = consumed.lines().map(|line| line.parse().unwrap()).collect();
    for key in 0..7 {
        assert!(numbers.iter().filter(|number| *number % 7 == key).is_sorted(), "key {key}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..12_000).collect::<Vec<_>>());
}
