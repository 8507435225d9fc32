//! `streamctl topic configs`.

use serde_json::json;

use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  streamctl topic configs flights
  streamctl topic configs flights --changed
  streamctl topic configs flights retention.ms -o json")]
pub struct ConfigsArgs {
    /// The topic.
    topic: String,
    /// Only these, with what they mean.
    #[arg(value_name = "CONFIG")]
    names: Vec<String>,
    /// Only those that are not at their default.
    #[arg(long)]
    changed: bool,
}

pub async fn run(args: ConfigsArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let mut configs = match admin.describe_configs([args.topic.as_str()]).await?.pop() {
        Some((_, result)) => result?,
        None => Vec::new(),
    };
    for name in &args.names {
        if !configs.iter().any(|config| config.name == *name) {
            return Err(Failure::new(Exit::NotFound, format!("there is no topic config `{name}`"))
                .hint(format!("`streamctl topic configs {}` lists them", args.topic)));
        }
    }
    configs.retain(|c| {
        (args.names.is_empty() || args.names.contains(&c.name)) && (!args.changed || !c.is_default)
    });
    let rows: Vec<_> = configs
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "value": c.value,
                "default": c.default_value,
                "is_default": c.is_default,
                "documentation": c.documentation,
                "refused_because": if c.refused_because.is_empty() { None } else { Some(&c.refused_because) },
            })
        })
        .collect();
    output.report(&rows, |page| {
        page.table(
            &["CONFIG", "VALUE", "DEFAULT", ""],
            configs.iter().map(|c| {
                let mark = if c.is_default { "" } else { "changed" };
                let mark = if c.refused_because.is_empty() { mark } else { "fixed" };
                vec![c.name.clone(), c.value.clone(), c.default_value.clone(), mark.to_string()]
            }),
        );
        if !args.names.is_empty() {
            for config in &configs {
                page.line(format!("\n{}: {}", config.name, config.documentation));
                if !config.refused_because.is_empty() {
                    page.line(format!("Other values are refused: {}", config.refused_because));
                }
            }
        }
    })
}
