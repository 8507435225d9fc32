//! The README's five minutes, as printed.

use headwater_tests::process::http_get;
use rustix::process::Signal;

use crate::harness::Fixture;
use crate::shell::{Shell, commands};

const LINES: usize = 600;

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
    let shell = Shell::of(&fixture);
    let input = flights();
    std::fs::write(fixture.dir().join("flights.jsonl"), input.join("\n") + "\n").unwrap();
    shell.run("gzip -k flights.jsonl");
    let mut seen = Vec::new();
    for line in commands("Five minutes", 0) {
        seen.push(line.split(' ').take(3).collect::<Vec<_>>().join(" "));
        if line.contains("--follow") {
            let rows = shell.ended_after(&line, LINES, Signal::INT);
            assert_eq!(rows.len(), LINES, "{line}");
            assert!(rows[0].starts_with('N') && rows[0].ends_with('}'), "{line}: {}", rows[0]);
            continue;
        }
        if line.starts_with("streamctl dump") {
            // Offline, that is.
            fixture.stop();
        }
        let said = shell.run(&line);
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
    let shell = Shell::of(&fixture);
    let printed = shell.run("headwater --print-config");
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
    let help = shell.run("streamctl --help");
    assert!(help.contains("xit codes"), "{help}");
}
