//! The README's cluster, as printed: five broker processes of which two join, and in the end only one is left.

use std::path::{Path, PathBuf};

use headwater_tests::process::{Addresses, BrokerProcess};
use rustix::process::Signal;

use crate::shell::{Shell, commands};

const FOUNDERS: usize = 3;
const LINES: usize = 600;

/// Brokers by id, the first one being 1.
struct Brokers {
    dir: PathBuf,
    addresses: Vec<Addresses>,
    running: Vec<Option<BrokerProcess>>,
}

impl Brokers {
    fn new(dir: &Path, count: usize) -> Self {
        let addresses = (0..count).map(|_| Addresses::free().unwrap()).collect();
        Self { dir: dir.to_owned(), addresses, running: (0..count).map(|_| None).collect() }
    }

    fn data_dir(&self, id: usize) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    /// The list of `--cluster`.
    fn founders(&self) -> String {
        let member = |(index, addresses): (usize, &Addresses)| format!("{}@{}", index + 1, addresses.peer);
        self.addresses.iter().take(FOUNDERS).enumerate().map(member).collect::<Vec<_>>().join(",")
    }

    fn spawn(&mut self, id: usize, flags: &[&str]) {
        let id_flags = ["--node-id", &id.to_string()];
        let flags = [&id_flags[..], flags].concat();
        let broker = BrokerProcess::spawn(&self.data_dir(id), self.addresses[id - 1], &flags).unwrap();
        self.running[id - 1] = Some(broker);
    }

    fn wait_ready(&mut self) {
        self.running.iter_mut().flatten().for_each(|broker| broker.wait_ready().unwrap());
    }

    fn lose(&mut self, id: usize) {
        self.running[id - 1].take().unwrap().kill().unwrap();
        std::fs::remove_dir_all(self.data_dir(id)).unwrap();
    }
}

fn is_well(status: &str) -> bool {
    status.contains("all is well")
}

#[test]
fn every_command_works_as_printed() {
    let dir = tempfile::tempdir().unwrap();
    let mut brokers = Brokers::new(dir.path(), 5);
    let list = brokers.founders();
    (1..=FOUNDERS).for_each(|id| brokers.spawn(id, &["--cluster", &list]));
    let join = brokers.addresses[0].peer.to_string();
    (FOUNDERS + 1..=5).for_each(|id| brokers.spawn(id, &["--join", &join]));
    brokers.wait_ready();

    let shell = Shell::new(dir.path(), brokers.addresses[0].grpc.to_string());
    let mut seen = Vec::new();
    for line in commands("A cluster", 1) {
        seen.push(line.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" "));
        match seen.last().unwrap().as_str() {
            "cluster status" => {
                // Where tests run in the background, SIGINT is ignored by whoever does not ask for it.
                let rows = shell.ended_after(&line, 2, Signal::TERM);
                assert!(rows[1].contains("cluster:"), "{line}: {rows:?}");
            }
            "topic create" => {
                shell.run(&line);
                let numbers: Vec<String> = (0..LINES).map(|n| n.to_string()).collect();
                std::fs::write(dir.path().join("numbers"), numbers.join("\n") + "\n").unwrap();
                shell.run("streamctl produce orders numbers");
            }
            "node drain" => {
                shell.run(&line);
                shell.run(&format!("{line} --undo"));
            }
            "node replace" => {
                let status = shell.run(&format!("{line} --yes && streamctl cluster status"));
                assert!(is_well(&status), "{status}");
            }
            // 2 was replaced already.
            "node remove" => {
                shell.run(&format!("{} --yes", line.replace("remove 2", "remove 5")));
                let left = shell.run("streamctl cluster status -o json");
                let left: serde_json::Value = serde_json::from_str(&left).unwrap();
                let ids: Vec<_> =
                    left["brokers"].as_array().unwrap().iter().map(|b| b["id"].clone()).collect();
                assert_eq!(ids, [1, 3, 4]);
            }
            "partition recover" => {
                only_the_first_is_left(&mut brokers, &shell);
                shell.run(&format!("{line} --yes"));
                shell.run("streamctl partition recover --all --accept-loss --yes");
                let join = brokers.addresses[0].peer.to_string();
                [3, 4].into_iter().for_each(|id| brokers.spawn(id, &["--join", &join]));
            }
            _ => {
                shell.run(&line);
            }
        }
    }
    shell.eventually("streamctl cluster status", is_well);
    let read = shell.run("streamctl consume orders --from start --until end");
    let mut read: Vec<usize> = read.lines().map(|line| line.parse().unwrap()).collect();
    read.sort_unstable();
    assert!(read.iter().copied().eq(0..LINES), "{} lines", read.len());
    for command in ["partition move", "leader transfer", "node replace", "node remove", "partition recover"] {
        assert!(seen.iter().any(|line| line == command), "{command} is not in the tour any more: {seen:?}");
    }
}

/// A majority of the disks is gone, the metadata's too.
fn only_the_first_is_left(brokers: &mut Brokers, shell: &Shell) {
    // All of them hold everything, or the one that stays may lack records.
    shell.eventually("streamctl cluster status", is_well);
    [3, 4].into_iter().for_each(|id| brokers.lose(id));
    brokers.running[0].take().unwrap().stop().unwrap();
    let recover = format!("headwater --data-dir {} --recover-metadata", brokers.data_dir(1).display());
    assert!(shell.run(&recover).contains("Nothing was changed"));
    shell.run(&format!("{recover} --accept-loss"));
    brokers.spawn(1, &[]);
    let is_led = |status: &str| !status.contains("\"controller_id\": -1");
    shell.eventually("streamctl cluster status -o json --timeout 30s", is_led);
}
