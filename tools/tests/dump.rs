//! `streamctl dump` on files that the broker's own storage wrote, whole and damaged.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use headwater_proto::record::{Compression, RecordBatchBuilder, empty_control_batch};
use headwater_proto::types::{GroupId, LogIndex, PartitionId, Term, TopicId};
use headwater_storage::data_dir::DataDir;
use headwater_storage::disk::RealDisk;
use headwater_storage::log::{LogId, LogOptions, NewEntry};
use serde_json::Value;

const RECORDS_PER_BATCH: i64 = 10;

fn group() -> GroupId {
    GroupId { topic_id: TopicId([7; 16]), partition: PartitionId(3) }
}

/// A blank entry and `batches` batches in small segments, tables at the last one, stopped cleanly.
async fn write(path: &Path, batches: u64) {
    let disk = Arc::new(RealDisk::new());
    let mut seed = 0;
    let mut entropy = || {
        seed += 1;
        seed
    };
    let data_dir = DataDir::open(disk, path, &mut entropy).await.unwrap();
    let options = LogOptions { segment_bytes: 1_000, ..LogOptions::default() };
    let log = data_dir.open_log(group(), options).await.unwrap();
    // A blank entry, as a new leader writes it.
    let blank = NewEntry { term: Term(1), batch: empty_control_batch(&[0; 4]) };
    log.append(&[blank]).unwrap();
    for n in 0..batches {
        let mut builder = RecordBatchBuilder::new(Compression::None, None);
        for record in 0..RECORDS_PER_BATCH {
            let value = format!("value {n} {record}");
            builder.append(1_767_225_600_000, Some(b"key"), Some(value.as_bytes()), &[]).unwrap();
        }
        log.append(&[NewEntry { term: Term(1), batch: builder.build().unwrap() }]).unwrap();
    }
    log.flush().await.unwrap();
    let last = LogId { term: Term(1), index: LogIndex(batches + 1) };
    log.write_tables(last, b"state"[..].into()).await.unwrap();
    data_dir.flush_clean().await.unwrap();
}

async fn written(batches: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    write(&path, batches).await;
    (dir, path)
}

fn dump(path: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streamctl")).arg("dump").arg(path).args(args).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn logs(path: &Path) -> Vec<PathBuf> {
    let directory = path.join("groups").join(group().to_string());
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}

fn flip(path: &Path, position: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[position] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_whole_data_directory_is_counted_and_intact() {
    let (_dir, path) = written(20).await;
    let output = dump(&path, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let found = json(&output);
    assert_eq!(found["intact"], true);
    let of_kind = |kind: &str| -> Vec<Value> {
        found["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).cloned().collect()
    };
    let segments = of_kind("segment");
    assert!(segments.len() > 2);
    let sum = |field: &str| segments.iter().map(|s| s[field].as_i64().unwrap()).sum::<i64>();
    assert_eq!((sum("batches"), sum("control_batches"), sum("records")), (21, 1, 200));
    assert_eq!(segments.last().unwrap()["next_offset"], 200);
    assert!(segments[0]["sealed"].as_bool().unwrap() && segments[0].get("batch_list").is_none());
    let tables = of_kind("tables");
    assert_eq!((tables[0]["log_index"].as_i64(), tables[0]["content_bytes"].as_i64()), (Some(21), Some(5)));
    let facts = of_kind("journal")[0]["facts"].clone();
    assert!(facts.as_array().unwrap().iter().any(|fact| fact["name"] == "incarnation"));
}

#[tokio::test]
async fn a_segment_shows_its_batches_and_records() {
    let (_dir, path) = written(3).await;
    let first = &logs(&path)[0];
    let found = json(&dump(first, &["--records", "-o", "jsonl"]));
    let batches = found["batch_list"].as_array().unwrap();
    assert_eq!(batches[0]["control"], "blank");
    assert_eq!((batches[1]["base_offset"].as_i64(), batches[1]["crc"].as_str()), (Some(0), Some("ok")));
    let record = &batches[1]["record_list"][1];
    assert_eq!((record["offset"].as_i64(), record["value"].as_str()), (Some(1), Some("value 0 1")));
    assert_eq!(record["partition"], 3);
    let table = String::from_utf8(dump(first, &[]).stdout).unwrap();
    assert!(table.contains("POSITION") && table.contains("blank"), "{table}");
}

#[tokio::test]
async fn every_flipped_bit_is_damage_with_its_place() {
    let (_dir, path) = written(20).await;
    let sealed = logs(&path)[1].clone();
    let name = sealed.file_name().unwrap().to_str().unwrap().to_string();
    // In the base offset, in the length, in the CRC, in a record; and in the index.
    for position in [7, 11, 17, 100] {
        flip(&sealed, position);
        let output = dump(&path, &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "byte {position}");
        assert!(said.contains(&name), "byte {position}: {said}");
        flip(&sealed, position);
    }
    flip(&sealed.with_extension("index"), 130);
    assert_eq!(dump(&path, &[]).status.code(), Some(1));
    flip(&sealed.with_extension("index"), 130);
    assert_eq!(dump(&path, &[]).status.code(), Some(0));
}

#[tokio::test]
async fn damage_in_the_active_segment_is_no_torn_tail() {
    let (_dir, path) = written(20).await;
    let active = logs(&path).pop().unwrap();
    flip(&active, 16);
    let output = dump(&path, &["-o", "jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["exit_code"], 1);
}

/// Zeros the last `count` bytes of what is written, as a power cut may lose them.
fn lose_end(path: &Path, count: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end - count..end].fill(0);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_torn_tail_is_a_remark_and_no_damage() {
    let (_dir, path) = written(20).await;
    let active = logs(&path).pop().unwrap();
    let whole = json(&dump(&active, &["-o", "jsonl"]));
    lose_end(&active, 100);
    // The index knows the batch: it was whole once.
    assert_eq!(dump(&path, &[]).status.code(), Some(1));
    lose_end(&active.with_extension("index"), 48);
    let output = dump(&active, &["-o", "jsonl"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let torn = json(&output);
    assert!(torn["tail"].as_str().unwrap().contains("torn"));
    assert_eq!(torn["batches"].as_i64(), whole["batches"].as_i64().map(|n| n - 1));
    assert_eq!(torn["records"].as_i64(), whole["records"].as_i64().map(|n| n - RECORDS_PER_BATCH));
}

#[tokio::test]
async fn a_journal_copy_that_lags_is_named_and_one_that_is_gone_too() {
    let (_dir, path) = written(1).await;
    for entry in ["0.a", "1.a"] {
        std::fs::remove_file(path.join("journal").join(entry)).unwrap();
    }
    let output = dump(&path.join("journal"), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("copy a"));
}

#[test]
fn what_no_broker_wrote_is_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(dump(dir.path(), &[]).status.code(), Some(2));
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "x").unwrap();
    assert_eq!(dump(&file, &[]).status.code(), Some(2));
}
