//! Names of the files in a group's directory.

use headwater_proto::types::{LogIndex, Offset};

/// Name of a segment: `<base offset, 20 digits>.<generation>`. Never used twice in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub generation: u32,
    pub base_offset: Offset,
}

impl SegmentName {
    #[must_use]
    pub fn log_file(&self) -> String {
        format!("{:020}.{}.log", self.base_offset.0, self.generation)
    }

    #[must_use]
    pub fn index_file(&self) -> String {
        format!("{:020}.{}.index", self.base_offset.0, self.generation)
    }
}

/// What a file in a group's directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileName {
    Log(SegmentName),
    Index(SegmentName),
    /// State tables as of the entry with this index.
    Tables(LogIndex),
}

impl FileName {
    /// `None` for a name that no log writes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, kind) = name.rsplit_once('.')?;
        let (digits, generation) = stem.split_once('.').map_or((stem, None), |(d, g)| (d, Some(g)));
        if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        match (kind, generation) {
            ("log" | "index", Some(generation)) => {
                let name = SegmentName {
                    generation: generation.parse().ok()?,
                    base_offset: Offset(digits.parse().ok()?),
                };
                Some(if kind == "log" { Self::Log(name) } else { Self::Index(name) })
            }
            ("tables", None) => Some(Self::Tables(LogIndex(digits.parse().ok()?))),
            _ => None,
        }
    }
}

/// Name of the tables file as of the entry with this index.
#[must_use]
pub fn tables_file(index: LogIndex) -> String {
    format!("{:020}.tables", index.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_strangers_are_ignored() {
        let name = SegmentName { generation: 3, base_offset: Offset(1_234) };
        assert_eq!(name.log_file(), "00000000000000001234.3.log");
        assert_eq!(FileName::parse(&name.log_file()), Some(FileName::Log(name)));
        assert_eq!(FileName::parse(&name.index_file()), Some(FileName::Index(name)));
        assert_eq!(FileName::parse(&tables_file(LogIndex(7))), Some(FileName::Tables(LogIndex(7))));
        for stranger in
            ["", ".log", "12.3.log", "00000000000000001234.log", "00000000000000001234.x.log", "lost+found"]
        {
            assert_eq!(FileName::parse(stranger), None, "{stranger}");
        }
    }
}
