//! Configuration from every source: who wins, what is refused, and in which words.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use clap::Parser;
use headwater_broker::config::{Cli, ConfigError, Effective, LogFormat, SETTINGS};

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// Loads with flags (separated by spaces), variables and the text of a file.
fn load(flags: &str, environment: Variables<'_>, file: Option<&str>) -> Result<Effective, ConfigError> {
    let mut args = vec!["headwater"];
    args.extend(flags.split_whitespace());
    if file.is_some() {
        args.extend(["--config", "headwater.toml"]);
    }
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Effective::load(&Cli::parse_from(args), &environment, |_: &Path| {
        file.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

#[test]
fn flags_win_over_environment_over_file_over_dev_over_default() {
    let file = "node_id = 2\n[log]\nformat = \"json\"\n[connections]\ntotal_max = 7";
    let environment = [("HEADWATER_NODE_ID", "3"), ("HEADWATER_CONNECTIONS_TOTAL_MAX", "8")];
    let (none, both): (Variables<'_>, Variables<'_>) = (&[], &environment);
    let cases = [
        ("", none, None, 1, 1_024, "default"),
        ("", none, Some(file), 2, 7, "file headwater.toml"),
        ("", both, Some(file), 3, 8, "environment HEADWATER_NODE_ID"),
        ("--node-id 4", both, Some(file), 4, 8, "flag --node-id"),
        ("--node-id 4 --dev", both, Some(file), 4, 8, "flag --node-id"),
    ];
    for (flags, environment, file, node_id, total_max, origin) in cases {
        let effective = load(flags, environment, file).unwrap();
        assert_eq!(effective.config.broker.node_id, node_id, "{flags}");
        assert_eq!(effective.config.connections.total_max, total_max, "{flags}");
        assert_eq!(effective.origin("node_id").to_string(), origin);
    }
}

#[test]
fn dev_changes_defaults_only() {
    let plain = load("", &[], None).unwrap();
    assert_eq!(plain.config.log.format, LogFormat::Auto);
    let dev = load("--dev", &[], None).unwrap();
    assert_eq!(dev.config.log.format, LogFormat::Human);
    assert_eq!(dev.origin("log.format").to_string(), "--dev");
    assert_eq!(dev.config.broker.kafka_addr, plain.config.broker.kafka_addr);
    for (environment, file) in [
        (&[("HEADWATER_DEV", "true")][..], Some("[log]\nformat = \"json\"")),
        (&[("HEADWATER_LOG_FORMAT", "json")][..], Some("dev = true")),
    ] {
        let effective = load("", environment, file).unwrap();
        assert!(effective.config.broker.dev);
        assert_eq!(effective.config.log.format, LogFormat::Json, "what is set explicitly stays");
        assert_eq!(effective.config.storage.retention_check_interval_ms, 5_000);
    }
}

#[test]
fn what_is_wrong_is_refused_in_one_line_that_names_it() {
    let cases: &[(&str, Variables<'_>, Option<&str>, &str)] = &[
        ("--node-id x", &[], None, "`node_id`: expected a whole number, got \"x\" (flag --node-id)"),
        ("--node-id -1", &[], None, "`node_id`: expected 0 to 1000000, got -1 (flag --node-id)"),
        ("--grpc-addr nowhere", &[], None, "`grpc_addr`: expected IP:PORT, such as"),
        (
            "--grpc-addr 0.0.0.0:9093",
            &[],
            None,
            "`grpc_addr` is 0.0.0.0:9093, which nobody can connect to: set `grpc_advertised_addr`",
        ),
        ("", &[("HEADWATER_GRPC_ADVERTISED_ADDR", "a b:1")], None, "expected HOST:PORT"),
        (
            "",
            &[("HEADWATER_NODEID", "1")],
            None,
            "unknown setting `nodeid` (environment HEADWATER_NODEID); did you mean HEADWATER_NODE_ID?",
        ),
        (
            "",
            &[],
            Some("nod_id = 1"),
            "unknown setting `nod_id` (file headwater.toml); did you mean `node_id`?",
        ),
        ("", &[], Some("[limits]\ntotal_max = 1"), "did you mean `connections.total_max`?"),
        ("", &[], Some("[requests]\nfetch_byte_max = 1"), "did you mean `requests.fetch_bytes_max`?"),
        ("", &[], Some("[a.b]\nc = 1"), "`a.b`: expected text, a number, true or false, got a TOML table"),
        (
            "",
            &[],
            Some("entirely = \"else\"\n"),
            "unknown setting `entirely` (file headwater.toml); --print-config lists all",
        ),
        ("", &[], Some("node_id = [1]"), "got a TOML array"),
        ("", &[], Some("node_id = 1\n\nnode_id = 2"), "headwater.toml, line 3: duplicate key"),
        ("", &[], Some("node_id = 1\nx ="), "headwater.toml, line 2: "),
        ("--config missing.toml", &[], None, "cannot read the configuration file missing.toml"),
        ("", &[], Some("dev = 1"), "`dev`: expected true or false, got \"1\""),
        ("", &[("HEADWATER_LOG_FORMAT", "xml")], None, "`log.format`: expected auto, human or json"),
        ("", &[("HEADWATER_CONNECTIONS_IDLE_TIMEOUT_MS", "0")], None, "expected 1 to 86400000, got 0"),
        (
            "",
            &[],
            Some("[requests]\nfetch_bytes_max = 1073741824"),
            "must not exceed `requests.message_bytes_max`",
        ),
        ("", &[], Some("data_dir = \"\""), "`data_dir`: expected a path"),
        ("--cluster 1@a", &[], None, "`cluster.nodes`: expected ID@HOST:PORT,..."),
        ("--cluster 1@a:1,1@b:1", &[], None, "with each ID once"),
        ("--cluster 1@a:0", &[], None, "a PORT above 0"),
        ("--join a:1,,b:1", &[], None, "`cluster.join`: expected HOST:PORT,..."),
        ("--cluster 2@a:1", &[], None, "does not name this broker, whose `node_id` is 1"),
        ("--cluster 1@a:1 --join b:1", &[], None, "set only one"),
        (
            "",
            &[],
            Some("[cluster]\nping_timeout_ms = 200"),
            "`cluster.ping_interval_ms` (200) must be less than",
        ),
        ("", &[("HEADWATER_DATA_DIR", "a\u{fffd}b")], None, "`data_dir`: expected UTF-8"),
    ];
    for (flags, environment, file, expected) in cases {
        let error = load(flags, environment, *file).unwrap_err().to_string();
        assert!(error.contains(expected), "{flags} {environment:?} {file:?}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn variables_of_others_are_not_ours() {
    let foreign = [
        ("HEADWATER_BROKERS", "127.0.0.1:9093"),
        ("HEADWATER_PORT", "tcp://10.0.0.1:9093"),
        ("HEADWATER_PORT_9093_TCP_ADDR", "10.0.0.1"),
        ("HEADWATER_SERVICE_HOST", "10.0.0.1"),
        ("HEADWATER_SERVICE_PORT_GRPC", "9093"),
        ("HEADWATER_PEERS_PORT_9094_TCP", "tcp://10.0.0.1:9094"),
        ("PATH", "/bin"),
    ];
    assert_eq!(load("", &foreign, None).unwrap().config, load("", &[], None).unwrap().config);
}

#[test]
fn addresses_in_every_form() {
    let flags = "--kafka-addr localhost:0 --grpc-addr [::1]:1 --peer-addr 0.0.0.0:2 --http-addr 10.0.0.1:3";
    let environment = [("HEADWATER_PEER_ADVERTISED_ADDR", "broker-1.headwater.svc:0")];
    let broker = load(flags, &environment, None).unwrap().config.broker;
    let bound = [broker.kafka_addr, broker.grpc_addr, broker.peer_addr, broker.http_addr];
    assert_eq!(bound.map(|addr| addr.to_string()), ["127.0.0.1:0", "[::1]:1", "0.0.0.0:2", "10.0.0.1:3"]);
    assert_eq!(broker.peer_advertised_addr.unwrap().to_string(), "broker-1.headwater.svc:0");
}

#[test]
fn a_broker_of_the_list_listens_where_the_list_says() {
    let list = "--node-id 2 --cluster 1@10.0.0.1:9094,2@10.0.0.2:9194";
    let broker = load(list, &[], None).unwrap().config.broker;
    assert_eq!(broker.peer_addr.to_string(), "10.0.0.2:9194");
    assert_eq!(broker.peer_advertised_addr.unwrap().to_string(), "10.0.0.2:9194");
    let list = "--cluster 1@one:9094,2@two:9094 --peer-addr 0.0.0.0:7";
    let effective = load(list, &[], None).unwrap();
    assert_eq!(effective.config.broker.peer_addr.to_string(), "0.0.0.0:7");
    assert_eq!(effective.config.broker.peer_advertised_addr.as_ref().unwrap().to_string(), "one:9094");
    assert_eq!(load("", &[], Some(&effective.to_string())).unwrap().config, effective.config);
}

#[test]
fn what_is_printed_is_a_file_that_gives_the_same_configuration() {
    let environment = [("HEADWATER_RACK", "a \"quoted\" \\ name"), ("HEADWATER_CONNECTIONS_TOTAL_MAX", "9")];
    let printed = load("--data-dir /var/lib/headwater --dev", &environment, None).unwrap();
    let text = printed.to_string();
    assert!(text.contains("total_max = 9  # environment HEADWATER_CONNECTIONS_TOTAL_MAX\n"), "{text}");
    assert!(text.contains("node_id = 1  # default\n"), "{text}");
    assert!(text.contains("data_dir = \"/var/lib/headwater\"  # flag --data-dir\n"), "{text}");
    let read_again = load("", &[], Some(&text)).unwrap();
    assert_eq!(read_again.config, printed.config);
}

#[test]
fn every_setting_is_documented_and_reads_its_own_default() {
    let defaults = load("", &[], None).unwrap().config;
    let mut names = BTreeMap::new();
    for setting in SETTINGS {
        assert!(setting.doc.trim_end().ends_with('.'), "{}: {:?}", setting.name, setting.doc);
        assert_eq!(names.insert(setting.name, ()), None, "{} is there twice", setting.name);
        let document: toml::Table = format!("x = {}", (setting.to_toml)(&defaults)).parse().unwrap();
        let text = document["x"].as_str().map_or_else(|| document["x"].to_string(), str::to_owned);
        let mut config = defaults.clone();
        (setting.set)(&mut config, &text).unwrap_or_else(|e| panic!("{}: {e}", setting.name));
        assert_eq!(config, defaults, "{}", setting.name);
    }
}
