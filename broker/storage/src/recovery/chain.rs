//! Joining segments: each must begin where the one before it ended.

use std::path::Path;
use std::sync::Arc;

use headwater_proto::types::{GroupId, LogIndex, Offset, Term};

use super::Facts;
use super::files::Candidate;
use super::walk::{self, Bounds, Walked};
use crate::disk::{Disk, DiskFile};
use crate::host::LogHost;
use crate::index::{IndexHeader, entry_position};
use crate::log::{Active, Damage, DamagedRange, LogError, LogId, LogOptions};
use crate::segment::batch::Tip;
use crate::segment::{Published, Segment, index_capacity};

/// The segments found so far, in order, and what is wrong with them.
pub(super) struct Chain<'a> {
    host: &'a Arc<dyn LogHost>,
    group: GroupId,
    directory: &'a Path,
    options: LogOptions,
    facts: Facts,
    term_max: Term,
    pub segments: Vec<Arc<Segment>>,
    /// End of the last segment and whether bytes that don't belong there stand behind it; `None` when
    /// it is sealed.
    open_end: Option<(Tip, bool)>,
    /// Segments behind a torn end.
    torn_off: Vec<Candidate>,
    pub damage: Damage,
    pub next_generation: u32,
    /// Written during recovery, or never known to be durable.
    pub unsynced: Vec<Arc<dyn DiskFile>>,
    has_removed: bool,
}

impl<'a> Chain<'a> {
    pub fn new(
        host: &'a Arc<dyn LogHost>,
        group: GroupId,
        directory: &'a Path,
        options: LogOptions,
        facts: Facts,
        term_max: Term,
    ) -> Self {
        let generations = [
            1,
            facts.point.segment_generation + 1,
            facts.cut.map_or(0, |c| c.generation),
            facts.purged.map_or(0, |p| p.generation),
        ];
        Self {
            host,
            group,
            directory,
            options,
            facts,
            term_max,
            segments: Vec::new(),
            open_end: None,
            torn_off: Vec::new(),
            damage: Damage::default(),
            next_generation: generations.into_iter().max().unwrap_or(1),
            unsynced: Vec::new(),
            has_removed: false,
        }
    }

    /// Whether anything was done to the files that is not durable.
    pub fn has_changed(&self) -> bool {
        self.has_removed || !self.unsynced.is_empty()
    }

    fn disk(&self) -> &dyn Disk {
        self.host.disk().as_ref()
    }

    /// Index behind the last entry, or behind the last purged one; `None` for a log that never had any.
    pub fn next_index(&self) -> Option<LogIndex> {
        let purged = self.facts.purged.map(|p| p.upto.index.next());
        self.segments.last().map(|s| s.next_index()).max(purged)
    }

    fn next_offset(&self) -> Offset {
        let purged = self.facts.purged.map_or(Offset(0), |p| p.next_offset);
        self.segments.last().map_or(purged, |s| s.next_offset())
    }

    pub fn last(&self) -> Option<LogId> {
        let purged = self.facts.purged.map(|p| p.upto);
        self.segments.last().and_then(|s| s.last()).or(purged)
    }

    /// Whether something has to be cut behind the end.
    pub fn is_torn(&self) -> bool {
        !self.torn_off.is_empty() || self.open_end.is_some_and(|(_, torn)| torn)
    }

    /// Takes the candidates in their order.
    pub async fn follow(&mut self, mut candidates: Vec<Candidate>) -> Result<(), LogError> {
        let highest = candidates.iter().map(|c| c.name.generation + 1).max().unwrap_or(0);
        self.next_generation = self.next_generation.max(highest);
        self.drop_stale(&mut candidates)?;
        for candidate in candidates {
            if !self.torn_off.is_empty() {
                self.torn_off.push(candidate);
                continue;
            }
            self.join(candidate).await?;
        }
        Ok(())
    }

    /// Removes segments that a cut or a purge voided wholly, and whose removal a crash undid or prevented.
    fn drop_stale(&mut self, candidates: &mut Vec<Candidate>) -> Result<(), LogError> {
        let cut = |c: &Candidate| {
            self.facts.cut.is_some_and(|cut| {
                c.name.generation < cut.generation && c.first_index().is_some_and(|i| i >= cut.next_index)
            })
        };
        let purged =
            |c: &Candidate| self.facts.purged.is_some_and(|p| c.name.generation < p.segment_generation);
        let stale: Vec<Candidate> = candidates.extract_if(.., |c| cut(c) || purged(c)).collect();
        for candidate in &stale {
            self.remove(candidate)?;
        }
        Ok(())
    }

    fn remove(&mut self, candidate: &Candidate) -> Result<(), LogError> {
        self.has_removed = true;
        self.disk().remove_file(&self.directory.join(candidate.name.log_file()))?;
        let index = self.directory.join(candidate.name.index_file());
        match self.disk().remove_file(&index) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Where a segment must begin that comes next.
    fn expected(&self, candidate: &Candidate) -> (LogIndex, Offset) {
        if let Some(next) = self.segments.last().map(|s| s.next_index()) {
            return (next, self.next_offset());
        }
        let header = candidate.index.as_ref().map(|(header, _)| header);
        match (self.facts.purged, header) {
            // The first segment may begin below the purged entry: a purge deletes whole segments only.
            (Some(p), Some(h)) if h.first_index <= p.upto.index.next() => (h.first_index, h.base_offset),
            (Some(p), None) if candidate.name.generation == p.segment_generation => {
                (p.segment_first_index, candidate.name.base_offset)
            }
            (Some(p), _) => (p.upto.index.next(), p.next_offset),
            (None, Some(h)) if h.previous.is_none() => (h.first_index, h.base_offset),
            (None, None) if candidate.name.generation == self.facts.point.segment_generation => {
                (self.facts.point.segment_first_index, candidate.name.base_offset)
            }
            (None, _) => (LogIndex(1), Offset(0)),
        }
    }

    /// Whether a segment without an index file can be the next one. That it begins at the right offset does not
    /// tell: entries without records, lost before it, would shift its log indexes. Up to the durable point
    /// nothing can be missing; behind it no entry of a segment whose header was never synced was acknowledged.
    fn may_follow(&self, candidate: &Candidate) -> bool {
        let generation = candidate.name.generation;
        match (self.segments.last(), self.facts.purged) {
            (None, Some(purged)) => generation == purged.segment_generation,
            _ => generation <= self.facts.point.segment_generation,
        }
    }

    /// The identity of a segment whose index file is lost.
    fn guess_header(&self, candidate: &Candidate, first_index: LogIndex) -> IndexHeader {
        IndexHeader {
            incarnation: self.host.incarnation(),
            group: self.group,
            generation: candidate.name.generation,
            first_index,
            base_offset: candidate.name.base_offset,
            previous: self.last().filter(|id| id.index.next() == first_index),
        }
    }

    async fn join(&mut self, candidate: Candidate) -> Result<(), LogError> {
        let (next_index, next_offset) = self.expected(&candidate);
        let header = match &candidate.index {
            Some((header, _)) => *header,
            None if candidate.name.base_offset == next_offset && self.may_follow(&candidate) => {
                self.guess_header(&candidate, next_index)
            }
            None => return self.join_unplaced(candidate).await,
        };
        if header.first_index < next_index || header.base_offset < next_offset {
            return Err(LogError::Corrupt {
                file: candidate.name.log_file(),
                detail: format!("begins at index {}, before the end at {next_index}", header.first_index),
                at: None,
            });
        }
        if header.first_index > next_index || header.base_offset > next_offset {
            if header.first_index > self.facts.durable_next() {
                self.torn_off.push(candidate);
                return Ok(());
            }
            self.damage.ranges.push(DamagedRange {
                first_index: next_index,
                last_index: LogIndex(header.first_index.0.saturating_sub(1)),
                first_offset: next_offset,
                next_offset: header.base_offset,
                file: self.segments.last().map_or_else(|| "missing".to_owned(), |s| s.name().log_file()),
                position: self.segments.last().map_or(0, |s| s.with_state(|p| p.data_bytes)),
            });
        }
        self.seal_end()?;
        self.add(candidate, header).await
    }

    /// A segment whose index file is lost and that can't be placed. One that was begun and never written is removed;
    /// any other is torn off, and with it what follows: nothing behind it was acknowledged.
    async fn join_unplaced(&mut self, candidate: Candidate) -> Result<(), LogError> {
        let length = candidate.data.len();
        if length > 0 {
            candidate.data.populate(0..length).await?;
        }
        if walk::is_zero(&candidate.data.read(0..length)?) {
            return self.remove(&candidate);
        }
        self.torn_off.push(candidate);
        Ok(())
    }

    async fn add(&mut self, candidate: Candidate, header: IndexHeader) -> Result<(), LogError> {
        let cut_next = match self.facts.cut {
            Some(cut) if header.generation < cut.generation => cut.next_index,
            _ => LogIndex(u64::MAX),
        };
        let bounds = Bounds { durable_next: self.facts.durable_next(), cut_next, term_max: self.term_max };
        let walked = match self.by_footer(&candidate, &header, bounds)? {
            Some(sealed) => Ok(sealed),
            None => {
                let index = candidate.index.as_ref().map(|(_, file)| file.as_ref());
                let name = candidate.name.log_file();
                walk::walk(&header, &name, candidate.data.as_ref(), index, bounds).await
            }
        }?;
        let is_cut = header.first_index.0 + u64::from(walked.state.entry_count) >= cut_next.0;
        let purged = self.facts.purged.map(|p| p.upto.index.next());
        let next_index = LogIndex(header.first_index.0 + u64::from(walked.state.entry_count));
        let empty = walked.state.entry_count == 0 && !walked.torn;
        if (empty && next_index >= bounds.durable_next) || purged.is_some_and(|p| next_index <= p) {
            return self.remove(&candidate);
        }
        self.damage.ranges.extend(walked.damaged.iter().cloned());
        self.open_segment(candidate, header, walked, is_cut)
    }

    /// A sealed segment is believed without a look at its entries, if the durable point vouches for its seal: by a
    /// segment that was begun after it. Else the footer may have reached the disk without the entries before it.
    fn by_footer(
        &mut self,
        candidate: &Candidate,
        header: &IndexHeader,
        bounds: Bounds,
    ) -> Result<Option<Walked>, LogError> {
        let Some((_, index)) = &candidate.index else {
            return Ok(None);
        };
        let Some(footer) = walk::footer(header, index.as_ref())? else {
            return Ok(None);
        };
        let next_index = LogIndex(header.first_index.0 + u64::from(footer.entry_count));
        let believed = next_index <= bounds.durable_next.min(bounds.cut_next);
        if !believed || candidate.data.len() < footer.data_bytes {
            return Ok(None);
        }
        if header.first_index >= self.facts.point.segment_first_index
            && walk::entries_crc(header, index.as_ref(), footer.entry_count)? != Some(footer.entries_crc)
        {
            return Ok(None);
        }
        let state = Published::sealed(&footer);
        Ok(Some(Walked { state, tip: Tip::START, torn: false, damaged: Vec::new() }))
    }

    fn open_segment(
        &mut self,
        candidate: Candidate,
        header: IndexHeader,
        walked: Walked,
        is_cut: bool,
    ) -> Result<(), LogError> {
        let index = match candidate.index {
            Some((_, index)) => index,
            None => self.create_index(&candidate.name.index_file(), &header)?,
        };
        let capacity = self.options.segment_bytes.max(candidate.data.len());
        let (sealed, torn, tip) = (walked.state.sealed, walked.torn, walked.tip);
        let segment =
            Segment::assemble(header, self.directory, candidate.data, index, capacity, walked.state);
        let segment = Arc::new(segment);
        if segment.entry_count() == 0 {
            // Nothing of it is good: it is cut off whole, or kept for whoever looks into the damage.
            self.torn_off.push(Candidate {
                name: segment.name(),
                data: segment.data.clone(),
                index: Some((header, segment.index.clone())),
            });
            return Ok(());
        }
        self.open_end = (!sealed).then_some((tip, torn));
        self.segments.push(segment.clone());
        if sealed {
            if segment.first_index() >= self.facts.point.segment_first_index {
                segment.rewrite_index()?;
                self.unsynced.push(segment.index.clone());
            }
            // A cut's seal left the file as long as it was, for its readers: they are gone.
            let end = segment.with_state(|s| s.data_bytes);
            if segment.data.len() > end {
                segment.data.set_len(end)?;
            }
            return Ok(());
        }
        // What a failed sync of the last process left in memory looks written, and no later sync would write it.
        segment.rewrite_index()?;
        segment.write_index()?;
        if is_cut {
            self.seal_end()?;
        }
        Ok(())
    }

    fn create_index(&self, name: &str, header: &IndexHeader) -> Result<Arc<dyn DiskFile>, LogError> {
        let path = self.directory.join(name);
        match self.disk().remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let index = self.disk().create(&path, index_capacity(self.options.segment_batches))?;
        index.write_at(0, &[std::io::IoSlice::new(&header.encode())])?;
        Ok(index)
    }

    /// Seals the last segment where it ends: another follows it, or a cut ended it.
    fn seal_end(&mut self) -> Result<(), LogError> {
        let (Some(_), Some(last)) = (self.open_end.take(), self.segments.last().cloned()) else {
            return Ok(());
        };
        last.seal(0)?;
        last.data.set_len(last.with_state(|s| s.data_bytes))?;
        self.touch(&last)
    }

    /// To be synced. Written again first: if the last process ended on a failed sync, what it left in memory looks
    /// written, and syncing it once more would prove nothing.
    fn touch(&mut self, segment: &Segment) -> Result<(), LogError> {
        segment.rewrite_from(self.facts.durable_next())?;
        self.unsynced.push(segment.data.clone());
        self.unsynced.push(segment.index.clone());
        Ok(())
    }

    /// Removes what stands behind the end; the cut is journalled.
    pub fn drop_torn(&mut self) -> Result<(), LogError> {
        for candidate in std::mem::take(&mut self.torn_off) {
            self.remove(&candidate)?;
        }
        self.seal_end()
    }

    /// The end that takes appends, if it can.
    pub async fn settle(&mut self) -> Result<Option<Active>, LogError> {
        let (Some((tip, torn)), Some(last)) = (self.open_end, self.segments.last().cloned()) else {
            return Ok(None);
        };
        if last.next_index() > self.facts.durable_next() {
            self.touch(&last)?;
        }
        if torn || !self.damage.is_empty() {
            return Ok(None);
        }
        if self.facts.cut.is_some_and(|cut| last.header.generation < cut.generation) {
            // The record of the cut stays and voids whatever this generation would take up beyond it.
            self.seal_end()?;
            return Ok(None);
        }
        let entry_count = last.entry_count();
        Ok(Some(Active {
            tip,
            entry_count,
            entries_max: self.options.segment_batches.max(entry_count),
            data_allocated: last.data.len(),
            index_allocated: last.index.len().max(entry_position(entry_count)),
            unindexed_bytes: 0,
            segment: last,
        }))
    }
}
