//! Logs: human lines on a terminal, one JSON object per line elsewhere. To standard error.
//!
//! The rules for all crates: fields instead of formatted text, no line per record or request above
//! `trace`, and no line at all that a stranger can repeat without a limit.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// openraft tells each of its steps, and warns of messages that an election overtook: everyday on a
/// node with a thousand groups. A directive of `log.filter` that names it wins.
const QUIET: &str = "openraft=error";

/// Installs the subscriber of this process; only `main` calls it.
///
/// # Errors
/// `log.filter` is not a list of directives.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))
        .map_err(|error| format!("`log.filter`: {error}: {:?}", config.filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be logged would be told on standard error, and a failure of that is a panic: a full disk that
        // holds the log would stop partitions.
        .log_internal_errors(false);
    let is_terminal = std::io::stderr().is_terminal();
    let human = match config.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    if human {
        let color = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(color).init();
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    }
    Ok(())
}
