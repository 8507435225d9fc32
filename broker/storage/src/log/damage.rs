//! Rot: what is known to be lost, how readers meet it, and how an operator accepts it.
//!
//! Damage is reported and never cut by itself: intact entries stay readable, appends are refused. Once its loss was
//! accepted, readers of records step over it, and readers of entries get empty batches that consume
//! the same offsets.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset, TimestampMs};

use super::facts::{Cut, encode_damage, encode_tail_cut};
use super::{Damage, DamagedRange, EntryMeta, Log, LogError, TailCut, lock};
use crate::host::fact;
use crate::segment::batch;

impl Log {
    /// What is known to be damaged; `None` for an intact log.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        let damage = self.known_damage();
        (!damage.is_empty()).then(|| damage.as_ref().clone())
    }

    /// Accepts that the damaged entries are gone: appends are taken again. Durable on return.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn accept_loss(self: &Arc<Self>) -> Result<(), LogError> {
        let Some(mut damage) = self.damage() else {
            return Ok(());
        };
        damage.accepted = true;
        if damage.end_missing_below.take().is_some() {
            // The entries that should follow are gone: lower the durable point to the present end.
            let next_index = self.view().next_index();
            let generation = lock(&self.writer).next_generation;
            let number = lock(&self.flush).cuts + 1;
            let cut = Cut { number, next_index, generation, durable_next_index: next_index };
            self.host.put_fact(self.group, fact::CUT, cut.encode()).await?;
            let mut writer = lock(&self.writer);
            self.seal_writer(&mut writer).map_err(|e| self.stop(&e))?;
            let mut flush = lock(&self.flush);
            flush.cuts = number;
            flush.durable_next = next_index;
        }
        let value = if damage.ranges.is_empty() { Bytes::new() } else { encode_damage(&damage) };
        self.host.put_fact(self.group, fact::DAMAGE, value).await?;
        self.set_damage(damage);
        Ok(())
    }

    /// A tail that a start cut off and that nobody has vouched for since.
    #[must_use]
    pub fn tail_cut(&self) -> Option<TailCut> {
        *lock(&self.tail_cut)
    }

    /// The end was vouched for: the flag that a torn tail raised falls. Durable on return.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn clear_tail_cut(&self) -> Result<(), LogError> {
        if self.tail_cut().is_some() {
            self.host.put_fact(self.group, fact::TAIL_CUT, Bytes::new()).await?;
            *lock(&self.tail_cut) = None;
        }
        Ok(())
    }

    /// Adds what a scrub found to the known damage and journals it.
    pub(crate) async fn report_damage(&self, found: Vec<DamagedRange>) -> Result<(), LogError> {
        let mut damage = self.known_damage().as_ref().clone();
        let known = |range: &DamagedRange, all: &[DamagedRange]| {
            all.iter().any(|r| r.first_index <= range.first_index && range.last_index <= r.last_index)
        };
        let before = damage.ranges.len();
        for range in found {
            if !known(&range, &damage.ranges) {
                tracing::error!(group = %self.group, file = range.file, position = range.position,
                    first_offset = range.first_offset.0, next_offset = range.next_offset.0, "the log is damaged");
                damage.ranges.push(range);
            }
        }
        if damage.ranges.len() == before {
            return Ok(());
        }
        damage.ranges.sort_by_key(|r| r.first_index);
        damage.accepted = false;
        self.set_damage(damage.clone());
        self.host.put_fact(self.group, fact::DAMAGE, encode_damage(&damage)).await?;
        Ok(())
    }

    /// Forgets damage that a purge or a cut took away; the next start does the same to what is journalled.
    pub(super) fn forget_gone_damage(&self) {
        let view = self.view();
        let damage = self.known_damage().as_ref().clone();
        if !damage.ranges.is_empty() {
            self.set_damage(damage.within(view.first_index(), view.next_index()));
        }
    }

    pub(crate) fn known_damage(&self) -> Arc<Damage> {
        self.damage.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_damage(&self, damage: Damage) {
        *self.damage.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(damage);
    }

    pub(super) fn is_damaged(&self) -> bool {
        !self.known_damage().ranges.is_empty()
    }

    pub(super) fn check_undamaged(&self) -> Result<(), LogError> {
        let damage = self.known_damage();
        if damage.accepted || damage.is_empty() {
            return Ok(());
        }
        Err(match damage.ranges.first() {
            Some(range) => lost(range),
            None => LogError::Damaged {
                first_index: self.view().next_index(),
                first_offset: self.view().next_offset(),
                next_intact: None,
            },
        })
    }

    /// The damaged range that holds `offset`, once its loss was accepted.
    pub(super) fn damaged_at(&self, offset: Offset) -> Result<Option<DamagedRange>, LogError> {
        let damage = self.known_damage();
        let range = damage.ranges.iter().find(|r| r.first_offset <= offset && offset < r.next_offset);
        match range {
            Some(range) if !damage.accepted => Err(lost(range)),
            range => Ok(range.cloned()),
        }
    }

    /// Where the next damage behind `offset` begins.
    pub(super) fn damaged_after(&self, offset: Offset) -> Option<Offset> {
        let damage = self.known_damage();
        damage.ranges.iter().map(|r| r.first_offset).find(|first| *first > offset)
    }

    /// What stands for a lost entry once its loss was accepted: the first one of a range consumes all of its
    /// offsets (at most as many as a batch can), the others none.
    pub(super) fn damaged_entry(&self, index: LogIndex) -> Result<Option<EntryMeta>, LogError> {
        let damage = self.known_damage();
        let Some(range) = damage.ranges.iter().find(|r| r.first_index <= index && index <= r.last_index)
        else {
            return Ok(None);
        };
        if !damage.accepted {
            return Err(lost(range));
        }
        let view = self.view();
        let before = view.segments.iter().rev().find(|s| s.first_index() < range.first_index);
        let term = match before {
            Some(segment) => {
                let last = segment.entry_count().saturating_sub(1);
                let n = range.first_index.0 - 1 - segment.first_index().0;
                segment.meta(u32::try_from(n).unwrap_or(u32::MAX).min(last))?.term
            }
            None => view.purged.map(|p| p.upto.term).unwrap_or_default(),
        };
        let offsets = (range.next_offset.0 - range.first_offset.0).clamp(0, i64::from(i32::MAX)) as u32;
        let is_first = index == range.first_index;
        Ok(Some(EntryMeta {
            index,
            term,
            base_offset: if is_first { range.first_offset } else { range.next_offset },
            offset_count: if is_first { offsets } else { 0 },
            size_bytes: headwater_proto::record::HEADER_BYTES as u32,
            position: range.position,
            max_timestamp: TimestampMs(-1),
        }))
    }

    pub(super) fn placeholder(&self, meta: &EntryMeta) -> Bytes {
        batch::placeholder(meta.base_offset, meta.offset_count as i32, meta.term).into()
    }
}

fn lost(range: &DamagedRange) -> LogError {
    LogError::Damaged {
        first_index: range.first_index,
        first_offset: range.first_offset,
        next_intact: Some(range.next_offset),
    }
}

/// The value of the fact that keeps a torn tail's flag over restarts.
pub(crate) fn tail_cut_fact(cut: TailCut) -> Bytes {
    encode_tail_cut(cut)
}
