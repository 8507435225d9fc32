//! What lies in `deploy/` keeps up with the code: settings and metrics by name.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Parser;
use headwater_broker::config::{Cli, Effective, Origin, SETTINGS};

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// `#key = value` is a setting that is not set, `# text` a remark.
fn uncommented(file: &str) -> String {
    file.lines().map(|line| format!("{}\n", setting_in(line).unwrap_or(line))).collect()
}

fn setting_in(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

fn load(file: &str) -> Effective {
    let cli = Cli::parse_from(["headwater", "--config", "headwater.toml"]);
    Effective::load(&cli, &BTreeMap::new(), |_: &Path| Ok(file.to_owned())).unwrap()
}

#[test]
fn the_annotated_configuration_names_every_setting_at_its_default() {
    let file = std::fs::read_to_string(path("../deploy/headwater.toml")).unwrap();
    let defaults = load(&file);
    let explicit = load(&uncommented(&file));
    assert_eq!(explicit.config, defaults.config);
    for setting in SETTINGS {
        assert_eq!(*defaults.origin(setting.name), Origin::Default, "{} is set", setting.name);
        assert_ne!(*explicit.origin(setting.name), Origin::Default, "{} is missing", setting.name);
    }
}

/// Names of metrics in `text`: of a histogram's series, the histogram.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = text.split(|c| !is_name(c)).filter(|word| word.starts_with("headwater_"));
    names
        .map(|name| {
            let series = ["_bucket", "_sum", "_count"];
            series.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
        })
        .collect()
}

/// All string literals and more of the sources below `folder`.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn dashboard_and_alerts_look_at_metrics_that_exist() {
    let exported = metrics_in(&sources(&path("src")));
    for file in ["../deploy/grafana-dashboard.json", "../deploy/alerts.yml"] {
        let shown = metrics_in(&std::fs::read_to_string(path(file)).unwrap());
        assert!(shown.len() > 10, "{file}: {shown:?}");
        assert_eq!(shown.difference(&exported).collect::<Vec<_>>(), Vec::<&String>::new(), "{file}");
    }
}
