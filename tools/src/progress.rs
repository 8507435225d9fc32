//! Progress, on a terminal only.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{bytes, colour};

/// Bytes read of those to come, and what was acknowledged. Draws nothing without a terminal.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `paths` as given on the command line; with standard input among them the total is not known.
    pub fn new(paths: &[PathBuf], quiet: bool) -> Self {
        // Lines that are typed and a bar that is drawn would share the terminal.
        let typed = paths.is_empty() && io::stdin().is_terminal();
        if quiet || typed || !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let lengths: Option<Vec<u64>> = paths
            .iter()
            .map(|path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len()))
            .collect();
        let total = lengths.filter(|lengths| !lengths.is_empty()).map(|lengths| lengths.iter().sum());
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let blue = if colour(&io::stderr()) { ".blue" } else { "" };
        let template = match total {
            Some(_) => format!("{{bar:20{blue}}} {{percent:>3}} %  {{msg}}  {{eta}} left"),
            None => format!("{{spinner{blue}}} {{msg}}  {{elapsed}}"),
        };
        // The templates are constants: an error would only cost the looks.
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self { bar: Some(bar) }
    }

    /// Shows the state; cheap, it draws at most ten times a second.
    pub fn show(&self, read_bytes: u64, acknowledged: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(read_bytes);
            let records = crate::output::counted(acknowledged, "record");
            bar.set_message(format!("{} read, {records} acknowledged", bytes(read_bytes)));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What is left of something whose length nobody knows. Draws nothing without a terminal.
#[derive(Debug)]
pub struct Spinner(Option<ProgressBar>);

impl Spinner {
    pub fn new(quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(None);
        }
        let spinner = ProgressBar::new_spinner();
        let blue = if colour(&io::stderr()) { ".blue" } else { "" };
        // The template is a constant: an error would only cost the looks.
        if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner{blue}}} {{msg}}  {{elapsed}}")) {
            spinner.set_style(style);
        }
        spinner.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        Self(Some(spinner))
    }

    pub const fn is_drawn(&self) -> bool {
        self.0.is_some()
    }

    pub fn show(&self, left: &str) {
        if let Some(spinner) = &self.0 {
            spinner.set_message(left.to_owned());
            spinner.tick();
        }
    }

    /// Takes it away.
    pub fn finish(&self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}
