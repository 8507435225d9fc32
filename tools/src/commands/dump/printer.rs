//! Prints each thing as it is found, so that a data directory of any size needs little memory.

use std::path::Path;

use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::output::{Format, Output, Page, counted};

/// What was found so far.
pub struct Printer {
    output: Output,
    /// For the forms that are one document.
    items: Vec<Value>,
    damage: Vec<String>,
}

impl Printer {
    pub fn new(output: Output) -> Self {
        Self { output, items: Vec::new(), damage: Vec::new() }
    }

    /// Prints one thing. `damage` says, in words with the place, what is wrong with it.
    pub fn item(
        &mut self,
        data: Value,
        damage: &[String],
        human: impl FnOnce(&mut Page),
    ) -> Result<(), Failure> {
        self.damage.extend_from_slice(damage);
        match self.output.format {
            Format::Json | Format::Yaml => self.items.push(data),
            Format::Table | Format::Jsonl => self.output.report(&data, |page| {
                human(page);
                for text in damage {
                    page.line(format!("  DAMAGED: {text}"));
                }
            })?,
        }
        Ok(())
    }

    pub fn data_directory(&mut self, path: &Path, format: &str) -> Result<(), Failure> {
        let data = json!({ "kind": "data_directory", "path": path, "format": format, "damage": [] });
        self.item(data, &[], |page| page.line(format!("{}: {format}", path.display())))
    }

    /// Ends the output, in failure when anything was damaged.
    pub fn finish(self, path: &Path) -> Result<(), Failure> {
        if matches!(self.output.format, Format::Json | Format::Yaml) {
            let data = json!({ "path": path, "intact": self.damage.is_empty(), "items": self.items, "damage": self.damage });
            self.output.report(&data, |_| {})?;
        }
        let Some(first) = self.damage.first() else {
            self.output.note("intact");
            return Ok(());
        };
        let count = counted(self.damage.len() as u64, "damaged place");
        Err(Failure::new(Exit::Failure, format!("{}: {count}, the first: {first}", path.display()))
            .hint("nothing was changed; what is intact can be read, also through the broker"))
    }
}
