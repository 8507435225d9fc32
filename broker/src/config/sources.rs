//! Where settings come from: gathers flags, environment and file into one list, weakest first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Cli, ConfigError, Origin, SETTINGS};

const PREFIX: &str = "HEADWATER_";
/// Names the file; not a setting itself.
const CONFIG_VARIABLE: &str = "HEADWATER_CONFIG";
/// Variables of `streamctl`, which may share an environment with the broker.
const FOREIGN: &[&str] = &["HEADWATER_BROKERS", "HEADWATER_CONTEXT", "HEADWATER_OUTPUT"];

/// A setting as somebody gave it.
#[derive(Debug)]
pub struct Given {
    pub name: String,
    pub text: String,
    pub origin: Origin,
}

pub fn collect(
    cli: &Cli,
    environment: &BTreeMap<String, String>,
    read_file: impl FnOnce(&Path) -> io::Result<String>,
) -> Result<Vec<Given>, ConfigError> {
    let mut given = Vec::new();
    if let Some(path) = cli.config.clone().or_else(|| environment.get(CONFIG_VARIABLE).map(PathBuf::from)) {
        let text =
            read_file(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        given.extend(file_settings(&path, &text)?);
    }
    given.extend(environment.iter().filter(|(name, _)| is_ours(name)).map(|(variable, text)| Given {
        name: setting_name(variable),
        text: text.clone(),
        origin: Origin::Environment(variable.clone()),
    }));
    given.extend(cli.settings().into_iter().map(|(name, text, flag)| Given {
        name: name.to_owned(),
        text,
        origin: Origin::Flag(flag),
    }));
    Ok(given)
}

fn file_settings(path: &Path, text: &str) -> Result<Vec<Given>, ConfigError> {
    let document: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().map_or(0, |span| span.start).min(text.len());
        ConfigError::Syntax {
            path: path.to_owned(),
            line: text.as_bytes()[..before].iter().filter(|b| **b == b'\n').count() + 1,
            message: error.message().to_owned(),
        }
    })?;
    let origin = Origin::File(path.to_owned());
    let mut given = Vec::new();
    for (key, value) in &document {
        match value {
            toml::Value::Table(section) => {
                for (inner, value) in section {
                    given.push(file_setting(format!("{key}.{inner}"), value, &origin)?);
                }
            }
            value => given.push(file_setting(key.clone(), value, &origin)?),
        }
    }
    Ok(given)
}

fn file_setting(name: String, value: &toml::Value, origin: &Origin) -> Result<Given, ConfigError> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_) => value.to_string(),
        other => {
            let reason = format!("expected text, a number, true or false, got a TOML {}", other.type_str());
            return Err(ConfigError::Invalid { name, reason, origin: origin.clone() });
        }
    };
    Ok(Given { name, text, origin: origin.clone() })
}

/// Whether a variable is meant for the broker. Kubernetes gives every container variables named after
/// the services of its namespace (`HEADWATER_SERVICE_HOST`, `HEADWATER_PORT_9093_TCP_ADDR`, ...).
fn is_ours(variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix(PREFIX) else {
        return false;
    };
    let is_service_link = rest == "PORT"
        || rest.starts_with("PORT_")
        || rest.contains("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || rest.contains("_PORT_");
    variable != CONFIG_VARIABLE && !FOREIGN.contains(&variable) && !is_service_link
}

/// `HEADWATER_REQUESTS_FETCH_BYTES_MAX` is `requests.fetch_bytes_max`: the section cannot be told
/// from the key by the text alone, hence the look into the table.
fn setting_name(variable: &str) -> String {
    SETTINGS.iter().find(|s| variable_name(s.name) == variable).map_or_else(
        || variable.trim_start_matches(PREFIX).to_ascii_lowercase(),
        |setting| setting.name.to_owned(),
    )
}

fn variable_name(setting: &str) -> String {
    format!("{PREFIX}{}", setting.replace('.', "_").to_ascii_uppercase())
}

/// `; did you mean ...?`, in the words of the source, or nothing when no name is near.
pub fn suggest(name: &str, origin: &Origin) -> String {
    let flat = |name: &str| name.replace('.', "_");
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let nearest = SETTINGS
        .iter()
        .map(|setting| {
            let whole = distance(&flat(name), &flat(setting.name));
            (whole.min(distance(&last(name), &last(setting.name)) + 1), setting.name)
        })
        .min();
    match nearest {
        Some((distance, nearest)) if distance <= 1 + name.len() / 4 => match origin {
            Origin::Environment(_) => format!("; did you mean {}?", variable_name(nearest)),
            _ => format!("; did you mean `{nearest}`?"),
        },
        _ => String::from("; --print-config lists all settings"),
    }
}

/// Levenshtein's distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_small_words() {
        for (a, b, expected) in
            [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("node_id", "nodeid", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn every_variable_names_one_setting() {
        for setting in SETTINGS {
            let variable = variable_name(setting.name);
            assert_eq!(setting_name(&variable), setting.name);
            assert!(is_ours(&variable), "{variable} is taken for somebody else's");
        }
    }
}
