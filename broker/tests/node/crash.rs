//! The power fails after any write of a scenario: nothing acknowledged is lost, moved or doubled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_proto::v1;
use headwater_storage::disk::SimDisk;

use super::harness::*;

/// Batches of the scenario's producer, about 4 KiB each, four to a segment.
const BATCHES: i32 = 24;

/// What the client knows when the power goes.
#[derive(Debug, Default)]
struct Known {
    producer: Option<i64>,
    /// Sequence to acknowledged offset.
    acked: BTreeMap<i32, i64>,
    /// The largest offset that deletion was asked for; 0 while none was.
    delete_asked: i64,
    delete_done: i64,
}

fn value(sequence: i32) -> String {
    format!("{sequence}-{}", "x".repeat(4_000))
}

fn record(producer: i64, sequence: i32) -> bytes::Bytes {
    batch_of((producer, 0, sequence), &[&value(sequence)])
}

/// Goes as far as it gets: any error means that the power is gone.
async fn scenario(broker: &mut Harness, known: &mut Known) -> Option<()> {
    let created = create(broker, "t").await?;
    assert_eq!(created.error, None);
    let id = broker.data.init_producer_id(v1::InitProducerIdRequest {}).await.ok()?.into_inner();
    assert_eq!(id.error, None);
    known.producer = Some(id.producer_id);
    produce(broker, known, 0..BATCHES / 2).await?;
    create(broker, "u").await?;
    known.delete_asked = 6;
    let partition = v1::DeleteRecordsPartition { topic: "t".to_owned(), partition: 0, offset: 6 };
    let request = v1::DeleteRecordsRequest { partitions: vec![partition] };
    let deleted = broker.admin.delete_records(request).await.ok()?.into_inner();
    known.delete_done = deleted.partitions[0].log_start_offset;
    produce(broker, known, BATCHES / 2..BATCHES).await?;
    let request = v1::DeleteTopicsRequest { topics: vec!["u".to_owned()] };
    broker.admin.delete_topics(request).await.ok()?;
    Some(())
}

async fn create(broker: &mut Harness, name: &str) -> Option<v1::TopicResult> {
    let config = v1::ConfigEntry { name: "segment.bytes".to_owned(), value: Some("16384".to_owned()) };
    let topic = v1::NewTopic { name: name.to_owned(), partitions: 2, replicas: 0, configs: vec![config] };
    let request = v1::CreateTopicsRequest { topics: vec![topic], validate_only: false, timeout_ms: 0 };
    Some(broker.admin.create_topics(request).await.ok()?.into_inner().topics.remove(0))
}

/// Sends a few batches at a time, as a client does that keeps no more in flight than the window holds.
async fn produce(broker: &mut Harness, known: &mut Known, sequences: std::ops::Range<i32>) -> Option<()> {
    let producer = known.producer?;
    let sequences: Vec<_> = sequences.collect();
    for few in sequences.chunks(4) {
        let request = |n: &i32| produce_request("t", 0, *n as u64, record(producer, *n));
        let requests: Vec<_> = few.iter().map(request).collect();
        let mut answers = broker.data.produce(tokio_stream::iter(requests)).await.ok()?.into_inner();
        for _ in few {
            let answer = answers.message().await.ok()??;
            let result = &answer.partitions[0];
            if result.error.is_some() {
                return None;
            }
            known.acked.insert(answer.correlation as i32, result.base_offset);
        }
    }
    Some(())
}

/// Everything that was acknowledged is there, and what was not can be sent again without doubling.
async fn check(broker: &mut Harness, known: &Known) {
    let Some(producer) = known.producer else { return };
    let log_start = broker.describe("t").await[0].log_start_offset;
    assert!(log_start == 0 || log_start == known.delete_asked, "{log_start} was never asked for: {known:?}");
    assert!(log_start >= known.delete_done, "a deletion was undone: {known:?}");
    let stored: BTreeMap<_, _> = broker.read("t", 0, log_start).await.into_iter().collect();
    for (sequence, offset) in known.acked.iter().filter(|(_, offset)| **offset >= log_start) {
        assert_eq!(stored.get(offset).map(|v| &v[..]), Some(value(*sequence).as_bytes()), "{known:?}");
    }
    // A client repeats at most what it had in flight.
    let first = known.acked.len() as i32 - 1;
    for sequence in first.max(0)..BATCHES {
        let result = broker.produce("t", vec![record(producer, sequence)]).await.remove(0);
        assert_eq!(result.error, None, "sequence {sequence} after {known:?}");
        assert_eq!(result.base_offset, i64::from(sequence));
    }
    let all = broker.read("t", 0, log_start).await;
    let expected = (log_start..i64::from(BATCHES)).map(|n| (n, value(n as i32).into()));
    assert!(all == expected.collect::<Vec<_>>(), "{known:?}");
    broker.restart().await;
    assert!(broker.read("t", 0, log_start).await == all, "a clean stop changes nothing");
}

/// Runs the scenario until the power fails after the given operation; whether it failed at all.
async fn run(operation: u64) -> bool {
    let disk = Arc::new(SimDisk::new(operation));
    disk.die_after(operation);
    let mut known = Known::default();
    let died = disk.clone();
    let life = async {
        let mut broker = Harness::on_disk(disk.clone()).await;
        scenario(&mut broker, &mut known).await;
        broker
    };
    let finished = tokio::select! {
        biased;
        () = died.died() => false,
        mut broker = life => {
            let dead = died.is_dead();
            if !dead {
                broker.power_cut();
            }
            !dead
        }
    };
    if !finished {
        disk.power_cut();
    }
    let mut broker = Harness::on_disk(disk.clone()).await;
    check(&mut broker, &known).await;
    tokio::time::timeout(Duration::from_secs(30), broker.stop()).await.unwrap();
    !finished
}

#[tokio::test]
async fn a_power_cut_after_any_write_loses_and_doubles_nothing() {
    // Every third operation here; the simulation cuts at each one.
    let mut operation = 1;
    while run(operation).await {
        operation += 3;
    }
    assert!(operation > 100, "the scenario writes more than that: {operation}");
}
