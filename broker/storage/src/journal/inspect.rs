//! Reading a journal without opening, repairing or locking it, for offline tools.

use std::io;

use bytes::Bytes;

use super::recovery::{Slot, recover};
use super::{Change, NAMES};

/// A journal as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedJournal {
    pub generation: u64,
    /// Sequence of the last frame that either copy has intact.
    pub sequence: u64,
    /// Sequence of the last frame that each copy alone would lead to; `None` for one that alone is unreadable. One
    /// that lags is repaired from the other at the next start.
    pub copies: [Option<u64>; 2],
    /// Every fact, by owner (the node first) and kind.
    pub facts: Vec<Change>,
}

/// Reads a journal whose files `read` gives by name; a missing one is like an empty one. The bytes must be the
/// caller's own: a broker that runs writes the files over.
///
/// # Errors
/// What makes it unreadable, as its opening would tell; or that its files cannot be read.
pub fn inspect(read: impl Fn(&str) -> io::Result<Bytes>) -> io::Result<Result<InspectedJournal, String>> {
    let mut slots: [Slot; 2] = Default::default();
    for (slot, names) in slots.iter_mut().zip(NAMES) {
        for (copy, name) in slot.iter_mut().zip(names) {
            *copy = match read(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
                bytes => bytes?,
            };
        }
    }
    Ok(recover(&slots).map(|found| InspectedJournal {
        generation: found.generation,
        sequence: found.sequence,
        copies: [0, 1].map(|copy| alone(&slots, copy)),
        facts: found.facts.to_changes(),
    }))
}

fn alone(slots: &[Slot; 2], copy: usize) -> Option<u64> {
    let slots = slots.each_ref().map(|slot| [slot[copy].clone(), Bytes::new()]);
    recover(&slots).ok().map(|found| found.sequence)
}
