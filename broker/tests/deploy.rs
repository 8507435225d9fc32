//! The annotated configuration in `deploy/` names every setting, at its default.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use clap::Parser;
use headwater_broker::config::{Cli, Effective, Origin, SETTINGS};

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
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/headwater.toml");
    let file = std::fs::read_to_string(path).unwrap();
    let defaults = load(&file);
    let explicit = load(&uncommented(&file));
    assert_eq!(explicit.config, defaults.config);
    for setting in SETTINGS {
        assert_eq!(*defaults.origin(setting.name), Origin::Default, "{} is set", setting.name);
        assert_ne!(*explicit.origin(setting.name), Origin::Default, "{} is missing", setting.name);
    }
}
