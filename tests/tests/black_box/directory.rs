//! The data directory: of another version, in use, not ours, or on a full disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use headwater_client::OffsetSpec;
use headwater_tests::process::{binary, http_get};
use tempfile::TempDir;

use crate::harness::{Fixture, batch, eventually, send, told};

/// Runs a broker that cannot start: its exit code and what it said.
fn refused_start(data_dir: &Path) -> (i32, String) {
    let mut command = Command::new(binary("headwater").unwrap());
    command.arg("--data-dir").arg(data_dir).env_clear();
    for flag in ["--kafka-addr", "--grpc-addr", "--peer-addr", "--http-addr"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    let output = command.output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

/// Every file below a directory with its content.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_in_use_is_refused_and_its_broker_serves_on() {
    let fixture = Fixture::start();
    fixture.create("t", 1, &[]).await;
    let mut records = Vec::new();
    fixture.assert_serves("t", &mut records).await;
    let (exit, said) = refused_start(&fixture.data_dir);
    assert_eq!(exit, 4, "{said}");
    assert!(said.contains("is in use by another broker") && said.contains("--data-dir"), "{said}");
    fixture.assert_serves("t", &mut records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_another_version_is_refused_and_left_as_it_is() {
    let mut fixture = Fixture::start();
    fixture.create("t", 1, &[]).await;
    let mut records = Vec::new();
    fixture.assert_serves("t", &mut records).await;
    fixture.stop();
    let format = fixture.data_dir.join("format");
    let ours = std::fs::read_to_string(&format).unwrap();
    for (theirs, told_as) in
        [(ours.replace("format 1", "format 999"), "999"), ("a poem\n".to_owned(), "a poem")]
    {
        std::fs::write(&format, theirs).unwrap();
        let before = contents(&fixture.data_dir);
        let (exit, said) = refused_start(&fixture.data_dir);
        assert_eq!(exit, 5, "{said}");
        assert!(said.contains(&format!("has format {told_as}")) && said.contains("reads format 1"), "{said}");
        assert!(contents(&fixture.data_dir) == before, "something was changed");
    }
    std::fs::write(&format, ours).unwrap();
    fixture.start_again();
    fixture.assert_serves("t", &mut records).await;
}

#[test]
fn one_that_is_not_ours_is_refused_and_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let (exit, said) = refused_start(dir.path());
    assert_eq!(exit, 6, "{said}");
    assert!(said.contains("thesis.tex") && said.contains("not a Headwater data directory"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("thesis.tex")).unwrap(), "years of work");

    let (exit, said) = refused_start(&dir.path().join("thesis.tex"));
    assert_eq!(exit, 6, "{said}");
    assert!(said.contains("thesis.tex"), "{said}");
}

/// A small file system of its own at a directory.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this user may not mount.
    fn at(path: PathBuf, megabytes: u32) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"]).arg(&path);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a broker that a failed test leaves behind has the file system open for another moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_serves_reads_and_goes_on_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let data_dir = dir.path().join("headwater-data");
    let Some(mounted) = Mounted::at(data_dir.clone(), 24) else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let mut fixture = Fixture::on(dir, data_dir.clone(), "[requests]\ntimeout_ms_max = 1000\n");
    fixture.create("t", 1, &[("segment.bytes", "1048576")]).await;
    let ballast = data_dir.join("ballast");
    std::fs::write(&ballast, vec![0; 6 << 20]).unwrap();

    let mut data = fixture.data().await;
    let value = |n: usize| Bytes::from(format!("{n} {}", "x".repeat(100_000)));
    let mut records: Vec<(i64, Bytes)> = Vec::new();
    // The write that meets the end of the disk waits for space, and is reported as what it is: unknown.
    let waiting = loop {
        let n = records.len();
        assert!(n < 1_000, "24 MiB never fill");
        let sent = send(&mut data, "t", batch_of_bytes(&value(n))).await;
        if sent.error.is_some() {
            break sent;
        }
        assert_eq!(sent.base_offset, n as i64);
        records.push((sent.base_offset, value(n)));
    };
    assert_eq!(told(&waiting.error).0, "REQUEST_TIMED_OUT");
    assert!(records.len() > 50, "{}", records.len());
    let assert_full = async |fixture: &Fixture, records: &[(i64, Bytes)]| {
        let refused = fixture.send("t", batch_of_bytes(&value(0))).await;
        let (code, said) = told(&refused.error);
        assert_eq!(code, "KAFKA_STORAGE_ERROR", "{said}");
        assert!(said.contains("disk of the broker is full") && said.contains("free some space"), "{said}");
        assert_eq!(fixture.read("t", 0, 0).await, records);
        assert!(http_get(fixture.addresses.http, "/health/live").unwrap().starts_with("HTTP/1.1 200"));
    };
    assert_full(&fixture, &records).await;
    let (exit, said) = fixture.fails(&["produce", "t", "--delivery-timeout", "1s"], b"no\n");
    assert!(exit != 0 && said.contains("disk of the broker is full"), "{exit}: {said}");
    assert_full(&fixture, &records).await;

    std::fs::remove_file(&ballast).unwrap();
    // The write that waited is stored now, and others go on by themselves.
    records.push((records.len() as i64, value(records.len())));
    eventually("writes go on", async || {
        fixture.offset("t", OffsetSpec::HighWatermark).await == Some(records.len() as i64)
    })
    .await;
    fixture.assert_serves("t", &mut records).await;
    for kill in [false, true] {
        if kill {
            fixture.kill()
        } else {
            fixture.stop()
        }
        fixture.start_again();
        fixture.assert_serves("t", &mut records).await;
    }
    fixture.stop();
    drop(mounted);
}

/// A full disk is no reason not to start: what is there is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_starts_on_a_full_disk() {
    let dir = TempDir::new().unwrap();
    let data_dir = dir.path().join("headwater-data");
    let Some(mounted) = Mounted::at(data_dir.clone(), 16) else {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    };
    let mut fixture = Fixture::on(dir, data_dir.clone(), "[requests]\ntimeout_ms_max = 1000\n");
    fixture.create("t", 1, &[]).await;
    let mut records = Vec::new();
    for _ in 0..3 {
        fixture.assert_serves("t", &mut records).await;
    }
    let ballast = data_dir.join("ballast");
    for kill in [false, true] {
        if kill {
            fixture.kill()
        } else {
            fixture.stop()
        }
        // Takes what is left, down to the last page.
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write(&mut file, &[0; 4_096]).is_ok() {}
        fixture.start_again();
        assert_eq!(fixture.read("t", 0, 0).await, records, "kill: {kill}");
        std::fs::remove_file(&ballast).unwrap();
        eventually("writes go on", async || fixture.send("t", batch(&["again"])).await.error.is_none()).await;
        records = fixture.read("t", 0, 0).await;
        fixture.assert_serves("t", &mut records).await;
    }
    fixture.stop();
    drop(mounted);
}

fn batch_of_bytes(value: &Bytes) -> Bytes {
    batch(&[std::str::from_utf8(value).unwrap()])
}
