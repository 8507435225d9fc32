//! The long programs, small.

use std::process::{Command, Output, Stdio};

fn spawn(program: &str, args: &[&str]) -> std::process::Child {
    Command::new(program).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text(output: Output) -> String {
    let both = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(both).unwrap();
    assert!(output.status.success(), "{}: {text}", output.status);
    text
}

#[test]
fn a_seed_gives_the_same_run_in_every_process_and_another_seed_another() {
    let sim = env!("CARGO_BIN_EXE_sim");
    let run = |seed| spawn(sim, &["--seed", seed, "--load-ms", "14000"]);
    let [one, again] = ["5", "5"].map(run).map(|child| text(child.wait_with_output().unwrap()));
    assert!(one.starts_with("seed 5 digest ") && one.contains(" 0 anomalies"), "{one}");
    assert!(one.contains(" kinds of fault") && !one.contains(" 0 kinds of fault"), "{one}");
    assert_eq!(one, again);
    let other = text(run("6").wait_with_output().unwrap());
    let digest = |line: &str| line.split(' ').nth(3).map(str::to_owned);
    assert_ne!(digest(&one), digest(&other));
}

#[test]
fn three_kills_lose_nothing() {
    let said = text(spawn(env!("CARGO_BIN_EXE_crash"), &["--kills", "3"]).wait_with_output().unwrap());
    assert_eq!(said.matches(" 0 anomalies").count(), 2, "{said}");
}
