//! `streamctl context`: named settings, kept in a file.

use serde_json::json;

use crate::cli::Global;
use crate::exit::Failure;
use crate::output::Output;
use crate::settings::{ConfigFile, Context, Settings};

#[derive(Debug, clap::Subcommand)]
pub enum ContextCommand {
    /// Show all contexts.
    #[command(visible_alias = "ls", after_help = "Examples:\n  streamctl context list")]
    List,
    /// Use a context from now on.
    #[command(after_help = "Examples:\n  streamctl context use prod")]
    Use {
        /// The context's name.
        name: String,
    },
    /// Make or change a context from --brokers, --timeout and --output.
    #[command(after_help = "\
Examples:
  streamctl context set prod --brokers b1:9093,b2:9093
  streamctl context set prod --timeout 30s -o json")]
    Set {
        /// The context's name.
        name: String,
    },
    /// Remove a context.
    #[command(visible_alias = "rm", after_help = "Examples:\n  streamctl context delete prod")]
    Delete {
        /// The context's name.
        name: String,
    },
    /// Show one context; the one in use when none is named.
    #[command(after_help = "Examples:\n  streamctl context show prod -o yaml")]
    Show {
        /// The context's name.
        name: Option<String>,
    },
    /// Show every setting in force and where it comes from.
    #[command(after_help = "\
Precedence: a flag, then the environment (HEADWATER_BROKERS, STREAMCTL_CONTEXT), then the context, \
then the default. --context is a flag: what that context sets comes before the environment.

Examples:
  streamctl context explain
  streamctl context explain --context prod")]
    Explain,
}

pub fn run(command: ContextCommand, global: &Global, output: Output) -> Result<(), Failure> {
    let path = ConfigFile::path()?;
    let mut file = ConfigFile::load(&path)?;
    match command {
        ContextCommand::List => list(&file, output),
        ContextCommand::Use { name } => {
            file.context(&name)?;
            file.current = Some(name.clone());
            file.save(&path)?;
            done(&name, "used from now on", output)
        }
        ContextCommand::Set { name } => {
            set(&mut file, &name, global)?;
            file.save(&path)?;
            done(&name, "saved", output)
        }
        ContextCommand::Delete { name } => {
            file.context(&name)?;
            file.contexts.remove(&name);
            file.current = file.current.filter(|current| *current != name);
            file.save(&path)?;
            done(&name, "deleted", output)
        }
        ContextCommand::Show { name } => show(&file, name, output),
        ContextCommand::Explain => explain(&file, &path.display().to_string(), global, output),
    }
}

fn done(name: &str, what: &str, output: Output) -> Result<(), Failure> {
    output.report(&json!({ "context": name, "status": what }), |page| {
        page.line(format!("context {name} {what}"))
    })
}

/// Changes what is given and keeps the rest.
fn set(file: &mut ConfigFile, name: &str, global: &Global) -> Result<(), Failure> {
    if name.is_empty() || name.chars().any(char::is_whitespace) {
        return Err(Failure::usage(format!("`{name}` is no name for a context: it must have no blanks")));
    }
    if global.brokers.is_none() && global.timeout.is_none() && global.output.is_none() {
        return Err(Failure::usage("nothing to set").hint("give --brokers, --timeout or --output"));
    }
    // Refuses what could not be used later.
    Settings::resolve(&Global { context: None, ..global.clone() }, &ConfigFile::default(), |_| None)?;
    let context = file.contexts.entry(name.to_string()).or_default();
    if let Some(brokers) = &global.brokers {
        context.brokers.clone_from(brokers);
    }
    if let Some(timeout) = global.timeout {
        context.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
    context.output = global.output.or(context.output);
    Ok(())
}

fn list(file: &ConfigFile, output: Output) -> Result<(), Failure> {
    let is_current = |name: &String| file.current.as_ref() == Some(name);
    let rows: Vec<_> = file
        .contexts
        .iter()
        .map(|(name, context)| json!({ "name": name, "current": is_current(name), "brokers": context.brokers }))
        .collect();
    output.report(&rows, |page| {
        if file.contexts.is_empty() {
            page.line("no contexts: make one with `streamctl context set NAME --brokers HOST:PORT`");
            return;
        }
        let rows = file.contexts.iter().map(|(name, context)| {
            let mark = if is_current(name) { "*" } else { "" };
            vec![mark.to_string(), name.clone(), context.brokers.join(",")]
        });
        page.table(&["", "NAME", "BROKERS"], rows);
    })
}

fn show(file: &ConfigFile, name: Option<String>, output: Output) -> Result<(), Failure> {
    let Some(name) = name.or_else(|| file.current.clone()) else {
        return Err(Failure::usage("no context is in use")
            .hint("name one, or choose one with `streamctl context use`"));
    };
    let Context { brokers, timeout_ms, output: format } = file.context(&name)?;
    let data = json!({ "name": name, "brokers": brokers, "timeout_ms": timeout_ms, "output": format });
    output.report(&data, |page| {
        let unset = || "(not set)".to_string();
        page.fields(&[
            ("context", name.clone()),
            ("brokers", if brokers.is_empty() { unset() } else { brokers.join(",") }),
            ("timeout", timeout_ms.map_or_else(unset, |ms| format!("{ms} ms"))),
            ("output", data["output"].as_str().map_or_else(unset, str::to_string)),
        ]);
    })
}

fn explain(file: &ConfigFile, path: &str, global: &Global, output: Output) -> Result<(), Failure> {
    let settings = Settings::resolve(global, file, |name| std::env::var(name).ok())?;
    let (context, context_source) = match &settings.context {
        Some(chosen) => (
            chosen.value.clone(),
            match &chosen.source {
                crate::settings::Source::Default => "`current` in the configuration".to_string(),
                source => source.to_string(),
            },
        ),
        None => ("(none)".to_string(), "default".to_string()),
    };
    let format = json!(settings.output.value).as_str().unwrap_or_default().to_string();
    let rows = [
        ["config", path, "STREAMCTL_CONFIG, else ~/.config/streamctl/config.toml"].map(String::from),
        ["context".to_string(), context, context_source],
        ["brokers".to_string(), settings.brokers.value.join(","), settings.brokers.source.to_string()],
        [
            "timeout".to_string(),
            format!("{} ms", settings.timeout.value.as_millis()),
            settings.timeout.source.to_string(),
        ],
        ["output".to_string(), format, settings.output.source.to_string()],
    ];
    let data: Vec<_> = rows
        .iter()
        .map(|[setting, value, source]| json!({ "setting": setting, "value": value, "source": source }))
        .collect();
    output.report(&data, |page| page.table(&["SETTING", "VALUE", "FROM"], rows.map(Vec::from)))
}
