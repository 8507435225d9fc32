//! The built binary as a script sees it: exit codes, both output streams, the configuration file.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

struct Streamctl {
    home: tempfile::TempDir,
}

impl Streamctl {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamctl"));
        command.args(args).env_clear().env("HOME", self.home.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{args:?}");
        text(&output.stdout)
    }

    /// The exit code and what was said on standard error; nothing may be on standard output.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert_eq!(text(&output.stdout), "", "{args:?}");
        (output.status.code().unwrap(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn wrong_usage_exits_with_2_and_as_json_when_asked() {
    let ctl = Streamctl::new();
    assert_eq!(ctl.fails(&[]).0, 2);
    assert_eq!(ctl.fails(&["topic", "create"]).0, 2);
    assert_eq!(ctl.fails(&["--brokers", "nonsense", "topic", "list"]).0, 2);
    let (code, said) = ctl.fails(&["topic", "create", "t", "--partitions", "none", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, said["error"]["kind"].as_str(), said["error"]["exit_code"].as_i64()),
        (2, Some("usage"), Some(2))
    );
    assert!(said["error"]["message"].as_str().unwrap().contains("none"));
}

#[test]
fn an_unreachable_broker_exits_with_6_and_says_which_and_what_to_do() {
    let ctl = Streamctl::new();
    let address = nobody();
    for command in [&["topic", "list"][..], &["produce", "t"], &["consume", "t"], &["cluster", "info"]] {
        let args = [command, &["--brokers", &address, "--timeout", "200ms"]].concat();
        let (code, said) = ctl.fails(&args);
        assert_eq!(code, 6, "{said}");
        assert!(said.contains(&address) && said.contains("flag --brokers"), "{said}");
        assert!(said.contains("headwater --data-dir"), "{said}");
    }
    let (code, said) =
        ctl.fails(&["topic", "list", "--brokers", &address, "--timeout", "200ms", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, said["error"]["kind"].as_str()), (6, Some("unreachable")));
}

#[test]
fn what_is_not_confirmed_is_not_done() {
    let ctl = Streamctl::new();
    // Refused before any broker is asked: there is none.
    let (code, said) =
        ctl.fails(&["topic", "delete", "flights", "--brokers", &nobody(), "--timeout", "200ms"]);
    assert_eq!(code, 2);
    assert!(said.contains("--yes"), "{said}");
}

#[test]
fn help_and_version_succeed_and_name_the_exit_codes() {
    let ctl = Streamctl::new();
    assert!(ctl.succeeds(&["--version"]).starts_with("streamctl "));
    let help = ctl.succeeds(&["--help"]);
    for line in ["0  success", "3  not found", "7  partial success", "Examples:"] {
        assert!(help.contains(line), "{line}");
    }
    assert!(ctl.succeeds(&["topic", "create", "--help"]).contains("streamctl topic create flights"));
}

#[test]
fn completion_is_made_for_each_shell_even_with_a_broken_configuration() {
    let ctl = Streamctl::new();
    let config = ctl.home.path().join(".config/streamctl/config.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    std::fs::write(&config, "not toml at all").unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(ctl.succeeds(&["completion", shell]).contains("streamctl"), "{shell}");
    }
    let (code, said) = ctl.fails(&["topic", "list"]);
    assert_eq!(code, 1);
    assert!(said.contains("config.toml"), "{said}");
}

#[test]
fn contexts_are_kept_and_used() {
    let ctl = Streamctl::new();
    assert_eq!(ctl.fails(&["context", "use", "prod"]).0, 3);
    assert_eq!(ctl.fails(&["context", "set", "prod"]).0, 2, "nothing to set");
    assert_eq!(ctl.fails(&["context", "set", "prod", "--brokers", "nowhere"]).0, 2);
    ctl.succeeds(&["context", "set", "prod", "--brokers", "a:1,b:2", "--timeout", "3s"]);
    ctl.succeeds(&["context", "set", "dev", "--brokers", "c:3"]);
    ctl.succeeds(&["context", "use", "prod"]);

    let list: Value = serde_json::from_str(&ctl.succeeds(&["context", "list", "-o", "json"])).unwrap();
    assert_eq!(list[0]["name"], "dev");
    assert_eq!(list[1]["current"], true);
    let shown: Value = serde_json::from_str(&ctl.succeeds(&["context", "show", "-o", "jsonl"])).unwrap();
    assert_eq!((shown["name"].as_str(), shown["timeout_ms"].as_i64()), (Some("prod"), Some(3_000)));

    let explain = |command: &mut Command| -> Vec<Value> {
        let output = command.output().unwrap();
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of = |settings: &[Value], name: &str| {
        let found = settings.iter().find(|s| s["setting"] == name).unwrap();
        (found["value"].as_str().unwrap().to_string(), found["source"].as_str().unwrap().to_string())
    };
    let args = ["context", "explain", "-o", "jsonl"];
    let settings = explain(&mut ctl.command(&args));
    assert_eq!(of(&settings, "brokers"), ("a:1,b:2".into(), "context prod".into()));
    let settings = explain(ctl.command(&args).env("HEADWATER_BROKERS", "e:5"));
    assert_eq!(of(&settings, "brokers"), ("e:5".into(), "environment HEADWATER_BROKERS".into()));
    let settings =
        explain(ctl.command(&[&args[..], &["--context", "dev"]].concat()).env("HEADWATER_BROKERS", "e:5"));
    assert_eq!(of(&settings, "brokers"), ("c:3".into(), "context dev".into()));

    ctl.succeeds(&["context", "delete", "prod"]);
    assert_eq!(ctl.fails(&["context", "show"]).0, 2, "none is in use any more");
    assert_eq!(ctl.fails(&["topic", "list", "--context", "prod"]).0, 3);
}

#[test]
fn another_configuration_file_can_be_named() {
    let ctl = Streamctl::new();
    let path = ctl.home.path().join("mine.toml");
    let output = ctl
        .command(&["context", "set", "x", "--brokers", "a:1"])
        .env("STREAMCTL_CONFIG", &path)
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(std::fs::read_to_string(&path).unwrap().contains("a:1"));
    assert!(!ctl.home.path().join(".config").exists());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let ctl = Streamctl::new();
    let mut child =
        ctl.command(&["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn dump_of_what_is_not_there_is_not_found() {
    let ctl = Streamctl::new();
    let (code, said) = ctl.fails(&["dump", Path::new("/nonexistent/headwater-data").to_str().unwrap()]);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn nothing_is_coloured_without_a_terminal() {
    let ctl = Streamctl::new();
    ctl.succeeds(&["context", "set", "x", "--brokers", "a:1"]);
    assert!(!ctl.succeeds(&["context", "list"]).contains('\x1b'));
    assert!(!ctl.fails(&["context", "use", "none"]).1.contains('\x1b'));
}
