//! The question before something is destroyed.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::exit::{Exit, Failure};

/// Returns when the user agrees: by `--yes`, or by typing `yes` on a terminal.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!("{question} Nobody can answer here")).hint("say so with --yes"));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [yes/no] ").and_then(|()| stderr.flush()).map_err(|e| Failure::stdout(&e))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|e| Failure::file("read", "the answer", &e))?;
    match answer.trim() {
        "yes" | "y" => Ok(()),
        _ => Err(Failure::new(Exit::Failure, "not confirmed: nothing was changed")),
    }
}
