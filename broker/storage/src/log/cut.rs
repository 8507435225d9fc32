//! Ends that move: truncation, purge, reset, and the seal of the active segment.
//!
//! The journal goes first, always: what it says is applied again at the next start when a crash keeps the files
//! from following.

use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::types::{LogIndex, Offset};

use super::facts::{Cut, Purged};
use super::{Log, LogError, LogId, View, lock};
use crate::host::fact;
use crate::segment::Segment;

impl Log {
    /// Drops every entry behind `last` (all of them for `None`), durably: they never come back. Their segment is
    /// sealed where they began and the next append begins a new generation. Slices of them that readers hold stay as
    /// they are.
    ///
    /// # Errors
    /// [`LogError::InvalidRequest`] when `last` was purged; those of the journal, which change nothing; any other is final.
    pub async fn truncate_after(self: &Arc<Self>, last: Option<LogIndex>) -> Result<(), LogError> {
        self.check_running()?;
        let view = self.view();
        let next_index = last.map_or(view.begin, LogIndex::next);
        if next_index >= view.next_index() {
            return Ok(());
        }
        if view.purged.is_some_and(|p| next_index <= p.upto.index) {
            return Err(LogError::InvalidRequest("a truncation below what was purged"));
        }
        let generation = lock(&self.writer).next_generation;
        let cut = {
            let flush = lock(&self.flush);
            let durable_next_index = flush.durable_next.min(next_index);
            Cut { number: flush.cuts + 1, next_index, generation, durable_next_index }
        };
        self.host.put_fact(self.group, fact::CUT, cut.encode()).await?;
        let removed = self.apply_cut(cut).map_err(|e| self.stop_if_io(e))?;
        self.forget_gone_damage();
        self.remove(&removed).map_err(|e| self.stop_if_io(e))?;
        // The footer must last before another cut may take the record's place.
        self.flush().await?;
        Ok(())
    }

    /// Lowers the ends in memory and seals what remains; returns the segments that fell away.
    fn apply_cut(&self, cut: Cut) -> Result<Vec<Arc<Segment>>, LogError> {
        let mut writer = lock(&self.writer);
        writer.active = None;
        let removed: Vec<Arc<Segment>> = self.change_view(|view| {
            let kept = view.segments.partition_point(|s| s.first_index() < cut.next_index);
            Arc::make_mut(&mut view.segments).split_off(kept)
        });
        let last = self.view().segments.last().cloned();
        if let Some(last) = &last {
            if last.next_index() > cut.next_index {
                last.cut_to((cut.next_index.0 - last.first_index().0) as u32)?;
            } else if !last.with_state(|s| s.sealed) {
                last.seal(0)?;
            }
        }
        let mut flush = lock(&self.flush);
        flush.cuts = cut.number;
        flush.durable_next = cut.durable_next_index;
        flush.cut(last.as_deref());
        Ok(removed)
    }

    /// After a failed write or sync: voids what never became durable, which nobody was promised, so that the next opening
    /// of this log does not find it. The pages that a failed sync leaves behind look written, and a later sync of them
    /// succeeds and proves nothing. Does nothing to a log that goes on.
    ///
    /// # Errors
    /// Those of the journal and of writing the index again.
    pub async fn give_up_unsynced(&self) -> Result<(), LogError> {
        if self.check_running().is_ok() {
            return Ok(());
        }
        let journalled = self.host.fact(self.group, fact::CUT).and_then(|value| Cut::decode(&value));
        let cut = {
            let generation = lock(&self.writer).next_generation;
            let flush = lock(&self.flush);
            // A cut that was journalled and failed half way: what it voided stays so.
            let half_way = journalled.filter(|cut| cut.number > flush.cuts);
            let next_index =
                half_way.map_or(flush.durable_next, |cut| cut.next_index.min(flush.durable_next));
            let generation = half_way.map_or(generation, |cut| cut.generation.max(generation));
            let number = half_way.map_or(flush.cuts, |cut| cut.number) + 1;
            Cut { number, next_index, generation, durable_next_index: next_index }
        };
        self.host.put_fact(self.group, fact::CUT, cut.encode()).await?;
        // Of the segment that remains the last one; the opening seals and syncs it.
        let view = self.view();
        match view.segments.iter().rev().find(|segment| segment.first_index() < cut.next_index) {
            Some(last) => Ok(last.rewrite_index()?),
            None => Ok(()),
        }
    }

    /// Drops every entry up to and including `upto`, which may lie beyond the end. The journal first; whole segments
    /// are deleted, inside of one only the logical beginning moves.
    ///
    /// # Errors
    /// Those of the journal and the file system; a second try is safe.
    pub async fn purge(&self, upto: LogId) -> Result<(), LogError> {
        let view = self.view();
        if view.purged.is_some_and(|p| p.upto.index >= upto.index) {
            return Ok(());
        }
        let next_offset = match self.entry(upto.index.next()) {
            Ok(Some(follower)) => follower.base_offset,
            Ok(None) => view.next_offset(),
            // Damage must not keep retention from what lies before it.
            Err(LogError::Damaged { first_offset, .. }) => first_offset,
            Err(error) => return Err(error),
        };
        self.purge_to(&view, upto, next_offset).await
    }

    /// Drops every entry and goes on behind `upto` at `next_offset`: a snapshot took the log's place. Its `tables` are
    /// durable before an entry goes, so that a crash leaves either the log or them.
    ///
    /// # Errors
    /// As [`Log::purge`].
    pub async fn reset(&self, upto: LogId, next_offset: Offset, tables: &Bytes) -> Result<(), LogError> {
        let view = self.view();
        if upto.index < view.last().map_or(LogIndex(0), |id| id.index) {
            return Err(LogError::InvalidRequest("a reset to before the end"));
        }
        self.store_tables(upto, tables).await?;
        self.purge_to(&view, upto, next_offset).await
    }

    async fn purge_to(&self, view: &View, upto: LogId, next_offset: Offset) -> Result<(), LogError> {
        self.check_running()?;
        let first_kept = view.segments.iter().find(|s| s.next_index() > upto.index.next());
        let generation = lock(&self.writer).next_generation;
        let purged = Purged {
            upto,
            next_offset,
            generation,
            segment_first_index: first_kept.map_or(upto.index.next(), |s| s.first_index()),
            segment_generation: first_kept.map_or(generation, |s| s.header.generation),
        };
        self.host.put_fact(self.group, fact::PURGED, purged.encode()).await?;
        let removed: Vec<Arc<Segment>> = {
            let mut writer = lock(&self.writer);
            let removed = self.change_view(|view| {
                view.purged = Some(purged);
                let gone = view.segments.partition_point(|s| s.next_index() <= upto.index.next());
                let segments = Arc::make_mut(&mut view.segments);
                segments.drain(..gone).collect::<Vec<_>>()
            });
            writer.active.take_if(|a| removed.iter().any(|s| Arc::ptr_eq(s, &a.segment)));
            let mut flush = lock(&self.flush);
            // What is gone needs no durability any more.
            flush.durable_next = flush.durable_next.max(upto.index.next());
            removed
        };
        self.forget_gone_damage();
        self.remove(&removed)
    }

    /// Seals the active segment, so that retention may take it; the next append begins another. Durable on
    /// return.
    ///
    /// # Errors
    /// Final for the log.
    pub async fn seal_active(self: &Arc<Self>) -> Result<(), LogError> {
        {
            let mut writer = lock(&self.writer);
            self.check_running()?;
            if writer.active.is_none() {
                return Ok(());
            }
            self.seal_writer(&mut writer).map_err(|e| self.stop(&e))?;
        }
        Ok(self.flush().await?)
    }

    fn remove(&self, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        for segment in segments {
            segment.remove(self.host.disk().as_ref())?;
        }
        Ok(())
    }

    fn stop_if_io(&self, error: LogError) -> LogError {
        match error {
            LogError::Io(error) => self.stop(&error),
            other => other,
        }
    }
}
