//! `--print-config`: the effective configuration as a file that could be read again.

use std::fmt;

use super::{Effective, SETTINGS};

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Effective configuration of headwater {}.", env!("CARGO_PKG_VERSION"))?;
        let mut section = "";
        for setting in SETTINGS {
            let (prefix, key) = setting.name.split_once('.').unwrap_or(("", setting.name));
            if prefix != section {
                section = prefix;
                writeln!(f, "\n[{section}]")?;
            }
            let doc: Vec<_> = setting.doc.lines().map(str::trim).collect();
            writeln!(f, "# {}", doc.join(" "))?;
            writeln!(f, "{key} = {}  # {}", (setting.to_toml)(&self.config), self.origin(setting.name))?;
        }
        Ok(())
    }
}
