//! A bit that flips in the middle of a sealed segment while nobody looks.

use std::path::PathBuf;

use bytes::Bytes;
use headwater_client::{ConsumeError, ConsumerConfig, Position, TopicPartition};

use crate::harness::{Fixture, batch, eventually, fetch, send, told, values};

const RECORDS: usize = 60;

/// A broker with a topic of small segments, one record a batch, and the files of its sealed segments.
async fn filled(config: &str) -> (Fixture, Vec<(i64, Bytes)>, Vec<PathBuf>) {
    let fixture = Fixture::with(config);
    fixture.create("t", 1, &[("segment.bytes", "16384")]).await;
    let mut data = fixture.data().await;
    let mut records = Vec::new();
    for n in 0..RECORDS {
        let value = format!("{n:02000}");
        let sent = send(&mut data, "t", batch(&[&value])).await;
        assert_eq!((sent.error, sent.base_offset), (None, n as i64));
        records.push((sent.base_offset, value.into()));
    }
    let mut sealed = fixture.segments();
    sealed.pop();
    assert!(sealed.len() > 5);
    (fixture, records, sealed)
}

/// Flips a bit of the value in the middle of a segment; the offset of the record that it belongs to.
fn flip(segment: &PathBuf) -> i64 {
    let mut bytes = std::fs::read(segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x04;
    let at = |position: usize| i64::from_be_bytes(bytes[position..position + 8].try_into().unwrap());
    let size = |position: usize| {
        12 + (at(position) as u64, i32::from_be_bytes(bytes[position + 8..position + 12].try_into().unwrap()))
            .1 as usize
    };
    let mut position = 0;
    while position + size(position) <= middle {
        position += size(position);
    }
    let lost = at(position);
    std::fs::write(segment, bytes).unwrap();
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_reported_read_around_and_given_up_only_on_command() {
    let (mut fixture, records, sealed) = filled("[storage]\nscrub_interval_ms = 100\n").await;
    fixture.stop();
    let lost = flip(&sealed[2]);
    let on_disk: Vec<Vec<u8>> = sealed.iter().map(|path| std::fs::read(path).unwrap()).collect();

    for kill in [false, true] {
        fixture.start_again();
        eventually("the damage is reported", async || !fixture.describe("t", 0).await.damage.is_empty())
            .await;
        let described = fixture.describe("t", 0).await;
        let name = sealed[2].file_name().unwrap().to_str().unwrap();
        let place = format!("offsets {lost} to below {} ({name}", lost + 1);
        assert!(described.damage.contains(&place), "{}", described.damage);
        assert_eq!((described.log_start_offset, described.high_watermark), (0, RECORDS as i64));
        let damaged = "headwater_partition_damaged{topic=\"t\",partition=\"0\"}";
        assert_eq!(fixture.metric(damaged), Some(1.0));
        assert!(fixture.log().contains("the log is damaged") && fixture.log().contains(name));
        let shown = fixture.ok(&["topic", "describe", "t"], b"");
        assert!(shown.contains("partition 0 is damaged") && shown.contains(&place), "{shown}");

        let mut data = fixture.data().await;
        for (offset, value) in &records {
            let fetched = fetch(&mut data, "t", 0, *offset).await;
            if *offset == lost {
                let (code, said) = told(&fetched.error);
                assert_eq!(code, "KAFKA_STORAGE_ERROR");
                assert!(
                    said.contains(&format!("offset {lost}")) && said.contains(&(lost + 1).to_string()),
                    "{said}"
                );
            } else {
                assert_eq!(values(fetched.records, *offset)[0], (*offset, value.clone()));
            }
        }
        // The client says where it stops, and goes on behind the damage.
        let (exit, said) = fixture.fails(&["consume", "t"], b"");
        assert!(exit != 0 && said.contains(&format!("offset {lost}")), "{exit}: {said}");
        let behind = fixture.ok(&["consume", "t", "--from", &(lost + 1).to_string()], b"");
        assert_eq!(behind.lines().count(), RECORDS - 1 - lost as usize);

        let refused = send(&mut data, "t", batch(&["no"])).await;
        let (code, said) = told(&refused.error);
        assert_eq!(code, "KAFKA_STORAGE_ERROR");
        assert!(said.contains("damaged"), "{said}");
        let (exit, said) = fixture.fails(&["produce", "t", "--delivery-timeout", "1s"], b"no\n");
        assert!(exit != 0 && said.contains("damaged"), "{exit}: {said}");
        if kill {
            fixture.kill()
        } else {
            fixture.stop()
        }
        let now: Vec<Vec<u8>> = sealed.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(now == on_disk, "a damaged log was changed");
    }

    fixture.start_again();
    eventually("the damage is reported", async || !fixture.describe("t", 0).await.damage.is_empty()).await;
    let (exit, said) = fixture.fails(&["records", "accept-loss", "t"], b"");
    assert!(
        exit == 2 && said.contains("--yes") && said.contains(&format!("offsets {lost} to")),
        "{exit}: {said}"
    );
    assert!(
        fixture
            .ok(&["records", "accept-loss", "t", "--dry-run"], b"")
            .contains(&format!("offsets {lost} to"))
    );
    assert!(fixture.send("t", batch(&["no"])).await.error.is_some(), "nothing was accepted yet");
    fixture.ok(&["records", "accept-loss", "t", "--yes"], b"");

    let mut left = records;
    left.remove(lost as usize);
    for restart in [None, Some(false), Some(true)] {
        match restart {
            Some(false) => fixture.restart(),
            Some(true) => {
                fixture.kill();
                fixture.start_again();
            }
            None => {}
        }
        assert_eq!(fixture.read("t", 0, 0).await, left);
        let sent = fixture.send("t", batch(&["yes"])).await;
        assert_eq!((sent.error, sent.base_offset), (None, left.last().unwrap().0 + 1));
        left.push((sent.base_offset, "yes".into()));
        assert_eq!(fixture.ok(&["consume", "t"], b"").lines().count(), left.len());
    }
}

/// Before any scrub has found it: what a reader is given is still never wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_never_handed_to_a_reader() {
    let (mut fixture, records, sealed) = filled("").await;
    fixture.stop();
    let lost = flip(&sealed[2]);
    fixture.start_again();
    let mut consumer = fixture.client().await.consumer(ConsumerConfig::default()).unwrap();
    let partition = TopicPartition::new("t", 0);
    consumer.assign([(partition.clone(), Position::Start)]).await.unwrap();
    let mut read = Vec::new();
    while read.len() < RECORDS - 1 {
        match consumer.next().await {
            Ok(record) => read.push((record.offset, record.value.unwrap())),
            // The broker has seen it first, and knows of no other replica.
            Err(ConsumeError::Refused { error, .. }) => {
                assert!(error.to_string().contains(&format!("offset {lost}")), "{error}");
                assert_eq!(consumer.position(&partition), Some(lost));
                consumer.seek(&partition, Position::Offset(lost + 1)).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    let intact: Vec<_> = records.into_iter().filter(|(offset, _)| *offset != lost).collect();
    assert_eq!(read, intact);
    let (exit, said) = fixture.fails(&["consume", "t"], b"");
    assert!(exit != 0 && said.contains(&format!("offset {lost}")), "{exit}: {said}");
    fixture.stop();
    let data_dir = fixture.data_dir.to_str().unwrap();
    let (exit, said) = fixture.fails(&["dump", data_dir], b"");
    assert!(exit == 1 && said.contains(sealed[2].file_name().unwrap().to_str().unwrap()), "{exit}: {said}");
}
