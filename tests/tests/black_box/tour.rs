//! The README's five minutes, as printed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use headwater_tests::process::{binary, http_get};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;

use crate::harness::Fixture;

const LINES: usize = 600;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The commands of the block of that section, without their comments.
fn commands(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("## {section}\n")).unwrap();
    let (_, block) = rest.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let without_comment = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    block.lines().map(without_comment).filter(|line| !line.is_empty()).collect()
}

/// A shell as a user has it: the binaries on its path, the broker where the default address would be.
fn shell(fixture: &Fixture, line: &str) -> Command {
    let binaries = binary("streamctl").unwrap();
    let path = format!("{}:{}", binaries.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(fixture.dir()).env("PATH", path);
    shell.env("HEADWATER_BROKERS", fixture.addresses.grpc.to_string()).env("HOME", fixture.dir());
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

fn run(fixture: &Fixture, line: &str) -> String {
    let Output { status, stdout, stderr } = shell(fixture, line).output().unwrap();
    assert!(status.success(), "{line}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The first lines of a command that ends only when it is interrupted.
fn interrupted_after(fixture: &Fixture, line: &str, lines: usize) -> Vec<String> {
    let mut child = shell(fixture, line).process_group(0).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let read = (&mut stdout).lines().take(lines).map(Result::unwrap).collect();
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    stdout.read_to_end(&mut Vec::new()).unwrap();
    child.wait().unwrap();
    read
}

/// Rows like those of the flights data set, from a fixed rule.
fn flights() -> Vec<String> {
    let row = |n: usize| {
        let (tail, delay) = (n * 7 % 41, n as i64 % 90 - 20);
        format!(r#"{{"year":2013,"flight":{n},"tailnum":"N{tail:05}","dep_delay":{delay},"dest":null}}"#)
    };
    (0..LINES).map(row).collect()
}

#[test]
fn every_command_works_as_printed() {
    let mut fixture = Fixture::start();
    let input = flights();
    std::fs::write(fixture.dir().join("flights.jsonl"), input.join("\n") + "\n").unwrap();
    run(&fixture, "gzip -k flights.jsonl");
    let mut seen = Vec::new();
    for line in commands("Five minutes") {
        seen.push(line.split(' ').take(3).collect::<Vec<_>>().join(" "));
        if line.contains("--follow") {
            let rows = interrupted_after(&fixture, &line, LINES);
            assert_eq!(rows.len(), LINES, "{line}");
            assert!(rows[0].starts_with('N') && rows[0].ends_with('}'), "{line}: {}", rows[0]);
            continue;
        }
        if line.starts_with("streamctl dump") {
            // Offline, that is.
            fixture.stop();
        }
        let said = run(&fixture, &line);
        if line.contains("--until end") {
            let mut sent: Vec<&str> = input.iter().map(String::as_str).collect();
            let mut read: Vec<&str> = said.lines().collect();
            for tail in 0..41 {
                let of_tail = format!("\"N{tail:05}\"");
                let order = |lines: &[&str]| -> Vec<String> {
                    lines.iter().filter(|l| l.contains(&of_tail)).map(|l| (*l).to_owned()).collect()
                };
                assert_eq!(order(&read), order(&sent), "flights of one aircraft in order");
            }
            sent.sort_unstable();
            read.sort_unstable();
            assert_eq!(read, sent);
        } else if line.contains("--max 3 -o jsonl") {
            assert_eq!(said.lines().count(), 3);
            for row in said.lines() {
                let envelope: serde_json::Value = serde_json::from_str(row).unwrap();
                for field in ["partition", "offset", "timestamp", "key", "headers", "value"] {
                    assert!(envelope.get(field).is_some(), "{field}: {row}");
                }
            }
        } else if line.contains("bench") {
            assert!(said.contains("mb_per_s"), "{said}");
        } else if line.contains("describe") {
            assert!(said.contains("600"), "{said}");
        }
    }
    for command in [
        "topic create",
        "topic describe",
        "topic alter",
        "consume flights",
        "bench produce",
        "dump headwater-data",
    ] {
        assert!(
            seen.iter().any(|line| line.contains(command)),
            "{command} is not in the tour any more: {seen:?}"
        );
    }
    assert!(seen.iter().any(|line| line.starts_with("zcat flights.jsonl.gz |")), "{seen:?}");
}

/// `headwater` alone: data in ./headwater-data, listeners on the loopback at their default ports.
#[test]
fn the_defaults_are_those_that_the_readme_names() {
    let fixture = Fixture::start();
    let printed = run(&fixture, "headwater --print-config");
    for (name, value) in [
        ("data_dir", "./headwater-data"),
        ("kafka_addr", "127.0.0.1:9092"),
        ("grpc_addr", "127.0.0.1:9093"),
        ("peer_addr", "127.0.0.1:9094"),
        ("http_addr", "127.0.0.1:9095"),
    ] {
        let line = format!("{name} = \"{value}\"");
        assert!(printed.lines().any(|printed| printed.starts_with(&line)), "{line} is not in\n{printed}");
    }
    assert!(http_get(fixture.addresses.http, "/metrics").unwrap().contains("headwater_build_info"));
    let help = run(&fixture, "streamctl --help");
    assert!(help.contains("xit codes"), "{help}");
}
