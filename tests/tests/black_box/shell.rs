//! A shell as a user has it, and the commands that the README prints.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use headwater_tests::process::binary;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::harness::Fixture;

/// The commands of one of the blocks of that section, without their comments.
pub fn commands(section: &str, block: usize) -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, rest) = readme.split_once(&format!("## {section}\n")).unwrap();
    let (block, _) = rest.split("```sh\n").nth(block + 1).unwrap().split_once("```").unwrap();
    let without_comment = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    block.lines().map(without_comment).filter(|line| !line.is_empty()).collect()
}

/// The binaries on its path, the brokers where the default address would be.
pub struct Shell {
    dir: PathBuf,
    brokers: String,
}

impl Shell {
    pub fn new(dir: &Path, brokers: String) -> Self {
        Self { dir: dir.to_owned(), brokers }
    }

    pub fn of(fixture: &Fixture) -> Self {
        Self::new(fixture.dir(), fixture.addresses.grpc.to_string())
    }

    fn command(&self, line: &str) -> Command {
        let binaries = binary("streamctl").unwrap();
        let path = format!("{}:{}", binaries.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(&self.dir).env("PATH", path);
        shell.env("HEADWATER_BROKERS", &self.brokers).env("HOME", &self.dir);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }

    pub fn run(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.command(line).output().unwrap();
        assert!(status.success(), "{line}: {status}\n{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// The first lines of a command that ends only when it is told to.
    pub fn ended_after(&self, line: &str, lines: usize, signal: Signal) -> Vec<String> {
        let mut child = self.command(line).process_group(0).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let read = (&mut stdout).lines().take(lines).map(Result::unwrap).collect();
        kill_process_group(Pid::from_child(&child), signal).unwrap();
        stdout.read_to_end(&mut Vec::new()).unwrap();
        child.wait().unwrap();
        read
    }

    /// Waits until a command prints what it should.
    pub fn eventually(&self, line: &str, wanted: impl Fn(&str) -> bool) -> String {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
        let begun = std::time::Instant::now();
        loop {
            let said = self.run(line);
            if wanted(&said) {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "{line} never said what was waited for: {said}");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}
