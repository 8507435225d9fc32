//! `streamctl completion`: scripts for the shells.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Failure;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  streamctl completion bash > ~/.local/share/bash-completion/completions/streamctl
  streamctl completion zsh > \"${fpath[1]}/_streamctl\"
  streamctl completion fish > ~/.config/fish/completions/streamctl.fish")]
pub struct CompletionArgs {
    /// The shell to complete in.
    #[arg(value_enum)]
    shell: CompletionShell,
}

pub fn run(args: &CompletionArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "streamctl", &mut script);
    io::stdout().lock().write_all(&script).map_err(|e| Failure::stdout(&e))
}
