//! The bytes of one simulated file: what the page cache shows, and what a power cut may leave of it.
//!
//! Invariant: for each 512-byte sector the platter holds the content of the last completed sync or any content
//! that it had since. Sectors are independent of each other, as is the length: so any subset of unsynced
//! writes is lost, torn at a sector or reordered.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::{Rng, RngExt};

/// What a disk writes atomically.
pub const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];
static ZEROS: Sector = [0; SECTOR_BYTES];

/// Order of the changes of one file.
type Change = u64;

/// The content of a file and its unsynced past.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// What a reader sees. A sector that is missing is zero.
    sectors: BTreeMap<u64, Box<Sector>>,
    len: u64,
    /// Unsynced sectors.
    dirty: BTreeMap<u64, Dirty>,
    /// Older lengths that a power cut may bring back, oldest first, each with the change that made it.
    lens: Vec<(Change, u64)>,
    /// The change that made the present length.
    len_change: Change,
    change: Change,
}

/// A sector that differs from what the last sync covered.
#[derive(Debug, Clone)]
struct Dirty {
    /// Older contents (`None`: zeros), oldest first, each with the change that made it.
    past: Vec<(Change, Option<Box<Sector>>)>,
    /// The change that made the present content.
    change: Change,
    /// A sync failed: the kernel holds the sector for clean and no later sync writes it, unless it is
    /// written again (fsyncgate).
    abandoned: bool,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether a power cut would leave it as it is.
    #[cfg(test)]
    pub fn is_synced(&self) -> bool {
        self.dirty.is_empty() && self.lens.is_empty()
    }

    /// The newest change: what a sync that begins now will cover.
    pub fn change(&self) -> Change {
        self.change
    }

    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (sector, within, at) in split(range.start, bytes.len()) {
            if let Some(content) = self.sectors.get(&sector) {
                bytes[at..at + within.len()].copy_from_slice(&content[within]);
            }
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.change += 1;
        for (sector, within, at) in split(offset, bytes.len()) {
            let part = &bytes[at..at + within.len()];
            // Bytes written over with themselves (zeros into a new file) leave nothing for a crash to choose from.
            if self.sectors.get(&sector).map_or(&ZEROS, |content| &**content)[within.clone()] != *part {
                self.alter(sector, |content| content[within.clone()].copy_from_slice(part));
            } else if let Some(dirty) = self.dirty.get_mut(&sector).filter(|dirty| dirty.abandoned) {
                (dirty.abandoned, dirty.change) = (false, self.change);
            }
        }
        let end = offset + bytes.len() as u64;
        if end > self.len {
            self.push_len(end);
        }
    }

    /// Grows with zeros, or cuts: what lay beyond is zero if the file grows again.
    pub fn set_len(&mut self, len: u64) {
        self.change += 1;
        let beyond: Vec<u64> =
            self.sectors.range(len / SECTOR_BYTES as u64..).map(|(sector, _)| *sector).collect();
        for sector in beyond {
            let keep = len.saturating_sub(sector * SECTOR_BYTES as u64).min(SECTOR_BYTES as u64) as usize;
            self.alter(sector, |content| content[keep..].fill(0));
        }
        self.push_len(len);
    }

    /// A sync that began at `upto` completed: everything up to it is on the platter.
    pub fn synced(&mut self, upto: Change) {
        self.dirty.retain(|_, dirty| {
            if dirty.abandoned {
                return true;
            }
            // The newest content that the sync covers replaces all older ones.
            let covered = dirty.past.iter().rposition(|(change, _)| *change <= upto).unwrap_or(0);
            dirty.past.drain(..covered);
            dirty.change > upto
        });
        let covered = self.lens.iter().rposition(|(change, _)| *change <= upto).unwrap_or(0);
        self.lens.drain(..covered);
        if self.len_change <= upto {
            self.lens.clear();
        }
    }

    /// A sync that began at `upto` failed: nothing became durable for sure, and nothing of it ever will.
    pub fn sync_failed(&mut self, upto: Change) {
        for dirty in self.dirty.values_mut().filter(|dirty| dirty.change <= upto) {
            dirty.abandoned = true;
        }
    }

    /// What the platter holds when the power goes now.
    pub fn after_power_cut(&self, rng: &mut impl Rng) -> Self {
        let mut left = Self { sectors: self.sectors.clone(), len: self.len, ..Self::default() };
        for (sector, dirty) in &self.dirty {
            let choice = rng.random_range(0..=dirty.past.len());
            if let Some((_, content)) = dirty.past.get(choice) {
                match content {
                    Some(content) => left.sectors.insert(*sector, content.clone()),
                    None => left.sectors.remove(sector),
                };
            }
        }
        let choice = rng.random_range(0..=self.lens.len());
        if let Some((_, len)) = self.lens.get(choice) {
            left.len = *len;
        }
        left.zero_beyond_len();
        left
    }

    /// Rot: changes one bit, on the platter and in every copy of it.
    pub fn flip_bit(&mut self, position: u64, bit: u8) {
        let (sector, at) = (position / SECTOR_BYTES as u64, (position % SECTOR_BYTES as u64) as usize);
        let flip = |content: &mut Box<Sector>| content[at] ^= 1 << (bit % 8);
        flip(self.sectors.entry(sector).or_insert_with(|| Box::new(ZEROS)));
        if let Some(dirty) = self.dirty.get_mut(&sector) {
            for (_, past) in &mut dirty.past {
                flip(past.get_or_insert_with(|| Box::new(ZEROS)));
            }
        }
    }

    /// Changes a sector and keeps what it was.
    fn alter(&mut self, sector: u64, change: impl FnOnce(&mut Sector)) {
        let old = self.sectors.get(&sector).cloned();
        let dirty =
            self.dirty.entry(sector).or_insert(Dirty { past: Vec::new(), change: 0, abandoned: false });
        dirty.past.push((dirty.change, old));
        dirty.change = self.change;
        dirty.abandoned = false;
        change(self.sectors.entry(sector).or_insert_with(|| Box::new(ZEROS)));
    }

    fn push_len(&mut self, len: u64) {
        self.lens.push((self.len_change, self.len));
        self.len_change = self.change;
        self.len = len;
    }

    fn zero_beyond_len(&mut self) {
        let (sector, within) = (self.len / SECTOR_BYTES as u64, (self.len % SECTOR_BYTES as u64) as usize);
        drop(self.sectors.split_off(&(sector + u64::from(within > 0))));
        if let Some(content) = self.sectors.get_mut(&sector).filter(|_| within > 0) {
            content[within..].fill(0);
        }
    }
}

/// The sectors that `len` bytes at `offset` touch: which, where in it, and where in the bytes.
fn split(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let position = offset + at as u64;
        let within = (position % SECTOR_BYTES as u64) as usize;
        let part = (SECTOR_BYTES - within).min(len - at);
        at += part;
        Some((position / SECTOR_BYTES as u64, within..within + part, at - part))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn outcomes(content: &Content) -> BTreeSet<Vec<u8>> {
        let mut rng = StdRng::seed_from_u64(1);
        (0..400).map(|_| content.after_power_cut(&mut rng)).map(|left| left.read(0..left.len())).collect()
    }

    #[test]
    fn each_sector_keeps_any_content_since_the_last_sync() {
        let mut content = Content::default();
        content.write(0, &[1; 1024]);
        content.synced(content.change());
        content.write(0, &[2; 1024]);
        content.write(512, &[3; 512]);
        let found: BTreeSet<(u8, u8)> = outcomes(&content).iter().map(|b| (b[0], b[512])).collect();
        assert_eq!(found, BTreeSet::from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]));
        assert!(outcomes(&content).iter().all(|b| b[..512].iter().all(|x| *x == b[0])));
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began_and_no_more() {
        let mut content = Content::default();
        content.write(0, &[1; 10]);
        let begun = content.change();
        content.write(0, &[2; 20]);
        content.synced(begun);
        let found: BTreeSet<Vec<u8>> = outcomes(&content);
        let mut torn = vec![2; 10];
        let expected = BTreeSet::from([vec![1; 10], vec![2; 10], vec![2; 20], {
            torn.splice(.., [1; 10].into_iter().chain([0; 10]));
            torn
        }]);
        assert_eq!(found, expected);
    }

    #[test]
    fn length_and_content_are_lost_apart() {
        let mut content = Content::default();
        content.set_len(600);
        content.synced(content.change());
        content.set_len(1200);
        content.write(550, &[7; 600]);
        let lens: BTreeSet<usize> = outcomes(&content).iter().map(Vec::len).collect();
        assert_eq!(lens, BTreeSet::from([600, 1200]));
    }

    #[test]
    fn cut_bytes_read_as_zero_after_growth() {
        let mut content = Content::default();
        content.write(0, &[9; 1500]);
        content.set_len(700);
        content.set_len(1500);
        let bytes = content.read(0..1500);
        assert!(bytes[..700].iter().all(|b| *b == 9) && bytes[700..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_failed_sync_is_not_repaired_by_the_next_one() {
        let mut content = Content::default();
        content.write(0, &[1; 512]);
        content.synced(content.change());
        content.write(0, &[2; 512]);
        content.sync_failed(content.change());
        content.synced(content.change());
        assert!(outcomes(&content).iter().any(|b| b[0] == 1));
        content.write(0, &[3; 512]);
        content.synced(content.change());
        assert_eq!(outcomes(&content), BTreeSet::from([vec![3; 512]]));
    }

    proptest! {
        /// Against a plain vector: what is read is what was written, and what was synced survives any cut.
        #[test]
        fn synced_bytes_survive(
            ops in prop::collection::vec((0u64..3000, 1usize..1200, any::<u8>(), 0u8..4), 1..40),
            seed in any::<u64>(),
        ) {
            let mut content = Content::default();
            let mut model = Vec::<u8>::new();
            let mut durable = Vec::new();
            for (offset, len, fill, kind) in ops {
                match kind {
                    0 => {
                        content.set_len(offset);
                        model.resize(offset as usize, 0);
                    }
                    1 => {
                        content.synced(content.change());
                        durable.clone_from(&model);
                        prop_assert!(content.is_synced());
                    }
                    _ => {
                        content.write(offset, &vec![fill; len]);
                        model.resize(model.len().max(offset as usize + len), 0);
                        model[offset as usize..offset as usize + len].fill(fill);
                    }
                }
                prop_assert_eq!(content.read(0..content.len()), model.clone());
            }
            let left = content.after_power_cut(&mut StdRng::seed_from_u64(seed));
            prop_assert!(left.is_synced());
            content.synced(content.change());
            if durable == model {
                prop_assert_eq!(left.read(0..left.len()), durable);
            }
            let left = content.after_power_cut(&mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(left.read(0..left.len()), model);
        }
    }
}
