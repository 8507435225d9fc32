//! Appending: plan, reserve, write, publish.
//!
//! The plan stamps and places every batch of a call without I/O; the reservation takes all the space, so that
//! a full disk refuses the call before a byte of it is written; a write that fails after that stops the log.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

use headwater_proto::record::BatchHeader;
use headwater_proto::types::{LogIndex, Offset, Term};

use super::{Log, LogError, LogId, LogOptions, NewEntry, View, lock};
use crate::index::{ENTRY_BYTES, FOOTER_BYTES, IndexEntry, IndexHeader, entry_position};
use crate::segment::batch::{self, PREFIX_BYTES, Tip};
use crate::segment::{CHUNK_DATA_BYTES, CHUNK_ENTRIES, Segment};

/// Space is taken ahead of the writer in steps that double between these.
const DATA_STEP_BYTES: (u64, u64) = (64 << 10, 16 << 20);
const INDEX_STEP_BYTES: (u64, u64) = (4 << 10, 1 << 20);
/// Batches per write: two parts each, and Linux takes 1,024.
const WRITE_BATCHES_MAX: usize = 512;

/// What only the writer knows.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Generation of the next segment.
    pub next_generation: u32,
    /// The segment that takes appends; the first append after a start, cut or seal may have to begin one.
    pub active: Option<Active>,
}

/// The end of the active segment.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    pub tip: Tip,
    pub entry_count: u32,
    pub entries_max: u32,
    pub data_allocated: u64,
    pub index_allocated: u64,
    /// Bytes of batches whose index entries are still on the heap.
    pub unindexed_bytes: u64,
}

/// The batches of one call that go into one segment.
struct Run {
    /// Identity of the segment to begin; `None` for the active one.
    begin: Option<IndexHeader>,
    first: usize,
    stamped: Vec<([u8; PREFIX_BYTES], IndexEntry)>,
}

impl Log {
    /// Appends entries behind the last one, stamped with their offsets and terms; readable on return, durable
    /// when a [`Log::when_durable`] that follows is told so. Returns the last one's id.
    ///
    /// # Errors
    /// [`LogError::InvalidBatch`], [`LogError::Damaged`] and [`LogError::NoSpace`] leave the log as it was;
    /// [`LogError::Stopped`] is final.
    pub fn append(&self, entries: &[NewEntry]) -> Result<LogId, LogError> {
        let mut writer = lock(&self.writer);
        self.check_running()?;
        self.check_undamaged()?;
        let Some(last) = entries.last() else {
            return Err(LogError::InvalidRequest("an append of nothing"));
        };
        let view = self.view();
        let index = LogIndex(view.next_index().0 + entries.len() as u64 - 1);
        let options = self.options();
        let runs = plan(&writer, &view, entries, self, options)?;
        let reserved = self.reserve(&mut writer, &runs, entries, options)?;
        for (run, begun) in runs.iter().zip(reserved) {
            self.write_run(&mut writer, run, begun, entries).map_err(|e| self.stop(&e))?;
        }
        Ok(LogId { term: last.term, index })
    }

    /// Creates the files that the runs begin and takes all their space; undoes it where that fails.
    fn reserve(
        &self,
        writer: &mut Writer,
        runs: &[Run],
        entries: &[NewEntry],
        options: LogOptions,
    ) -> Result<Vec<Option<Active>>, LogError> {
        let mut reserved: Vec<Option<Active>> = Vec::with_capacity(runs.len());
        for run in runs {
            let result = match (&run.begin, &mut writer.active) {
                (None, Some(active)) => grow(active, run).map(|()| None),
                (Some(header), _) => self.begin(header, run, entries, options).map(Some),
                (None, None) => Err(std::io::Error::other("no active segment")),
            };
            match result {
                Ok(begun) => reserved.push(begun),
                Err(error) => {
                    for begun in reserved.into_iter().flatten() {
                        // The next start removes what can't be removed now: no entry is in it.
                        drop(begun.segment.remove(self.host.disk().as_ref()));
                    }
                    writer.next_generation += runs.len() as u32;
                    return Err(no_space(error));
                }
            }
        }
        writer.next_generation += runs.iter().filter(|r| r.begin.is_some()).count() as u32;
        Ok(reserved)
    }

    fn begin(
        &self,
        header: &IndexHeader,
        run: &Run,
        entries: &[NewEntry],
        options: LogOptions,
    ) -> std::io::Result<Active> {
        let capacity = options.segment_bytes.max(entries[run.first].batch.len() as u64);
        let disk = self.host.disk().as_ref();
        let segment =
            Segment::create(disk, &self.directory, *header, capacity, options.segment_batches.max(1))?;
        let mut active = Active {
            segment: Arc::new(segment),
            tip: Tip::START,
            entry_count: 0,
            entries_max: options.segment_batches.max(1),
            data_allocated: 0,
            index_allocated: 0,
            unindexed_bytes: 0,
        };
        match grow(&mut active, run) {
            Ok(()) => Ok(active),
            Err(error) => {
                drop(active.segment.remove(disk));
                Err(error)
            }
        }
    }

    fn write_run(
        &self,
        writer: &mut Writer,
        run: &Run,
        begun: Option<Active>,
        entries: &[NewEntry],
    ) -> std::io::Result<()> {
        let begins = begun.is_some();
        if let Some(begun) = begun {
            self.seal_writer(writer)?;
            lock(&self.flush).created(&begun.segment);
            writer.active = Some(begun);
        }
        let Some(active) = &mut writer.active else {
            return Err(std::io::Error::other("no active segment"));
        };
        for (at, stamped) in run.stamped.chunks(WRITE_BATCHES_MAX).enumerate() {
            let first = run.first + at * WRITE_BATCHES_MAX;
            write_batches(active, stamped, &entries[first..first + stamped.len()])?;
        }
        publish(active, &run.stamped);
        if begins {
            let segment = active.segment.clone();
            self.change_view(|view| Arc::make_mut(&mut view.segments).push(segment));
        }
        let tail_entries = active.segment.with_state(|s| s.tail.len() / ENTRY_BYTES);
        if tail_entries >= CHUNK_ENTRIES || active.unindexed_bytes >= CHUNK_DATA_BYTES {
            active.segment.write_index()?;
            active.unindexed_bytes = 0;
        }
        Ok(())
    }

    /// Seals the active segment, if there is one: trims what was never written of it, and leaves both its
    /// files to the next flush round.
    pub(super) fn seal_writer(&self, writer: &mut Writer) -> std::io::Result<()> {
        if let Some(active) = writer.active.take() {
            active.segment.seal(0)?;
            active.segment.data.set_len(active.tip.position)?;
            lock(&self.flush).sealed(&active.segment);
        }
        Ok(())
    }
}

/// Places every batch: which segment, where in it, at which offset.
fn plan(
    writer: &Writer,
    view: &View,
    entries: &[NewEntry],
    log: &Log,
    options: LogOptions,
) -> Result<Vec<Run>, LogError> {
    let active = writer.active.as_ref();
    let mut tip = active.map_or(Tip::START, |a| a.tip);
    let mut count = active.map_or(0, |a| a.entry_count);
    let mut entries_max = active.map_or(0, |a| a.entries_max);
    let mut bytes_max = active.map_or(0, |a| a.segment.capacity_bytes.min(options.segment_bytes));
    let (mut next_offset, mut previous) = (view.next_offset(), view.last());
    let first_index = view.next_index();
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    for (at, new) in entries.iter().enumerate() {
        let header = check(new, previous)?;
        let prefix = batch::stamp(&header, next_offset, new.term);
        let crc = batch::header_crc(&prefix, &new.batch);
        let size_bytes = new.batch.len() as u32;
        let place = |tip: &Tip| tip.entry(&header, size_bytes, new.term.0 as u32, crc);
        let index = LogIndex(first_index.0 + at as u64);
        let fits = count < entries_max && tip.position + u64::from(size_bytes) <= bytes_max;
        let (entry, begins) = match place(&tip).filter(|_| fits) {
            Some(entry) => (Some(entry), false),
            None => (place(&Tip::START), true),
        };
        let entry = entry.ok_or(LogError::InvalidBatch("its fields are out of range"))?;
        if begins {
            let generation =
                writer.next_generation + runs.iter().filter(|r| r.begin.is_some()).count() as u32;
            let header = IndexHeader {
                incarnation: log.host.incarnation(),
                group: log.group,
                generation,
                first_index: index,
                base_offset: next_offset,
                previous,
            };
            (count, entries_max, bytes_max) = (0, options.segment_batches.max(1), options.segment_bytes);
            runs.push(Run { begin: Some(header), first: at, stamped: Vec::new() });
        } else if runs.is_empty() {
            runs.push(Run { begin: None, first: at, stamped: Vec::with_capacity(entries.len()) });
        }
        if let Some(run) = runs.last_mut() {
            run.stamped.push((prefix, entry));
        }
        tip = Tip::after(&entry);
        count += 1;
        next_offset = Offset(next_offset.0 + header.offset_count());
        previous = Some(LogId { term: new.term, index });
    }
    Ok(runs)
}

fn check(new: &NewEntry, previous: Option<LogId>) -> Result<BatchHeader, LogError> {
    let header = batch::check_new(&new.batch).map_err(LogError::InvalidBatch)?;
    if new.term.0 > i32::MAX as u64 {
        return Err(LogError::InvalidBatch("the term does not fit a leader epoch"));
    }
    if new.term < previous.map_or(Term(0), |p| p.term) {
        return Err(LogError::InvalidBatch("the term goes back"));
    }
    Ok(header)
}

/// Takes space for a run: data, index entries and the footer.
fn grow(active: &mut Active, run: &Run) -> std::io::Result<()> {
    let data_needed = run.stamped.last().map_or(0, |(_, entry)| entry.end());
    let entries = active.entry_count + run.stamped.len() as u32;
    let index_needed = entry_position(entries) + FOOTER_BYTES as u64;
    let segment = &active.segment;
    allocate(
        segment.data.as_ref(),
        &mut active.data_allocated,
        data_needed,
        DATA_STEP_BYTES,
        segment.capacity_bytes,
    )?;
    let index_capacity = entry_position(active.entries_max) + FOOTER_BYTES as u64;
    allocate(
        segment.index.as_ref(),
        &mut active.index_allocated,
        index_needed,
        INDEX_STEP_BYTES,
        index_capacity,
    )
}

fn allocate(
    file: &dyn crate::disk::DiskFile,
    allocated: &mut u64,
    needed: u64,
    (step_min, step_max): (u64, u64),
    capacity: u64,
) -> std::io::Result<()> {
    if needed <= *allocated {
        return Ok(());
    }
    let mut target = *allocated;
    while target < needed {
        target += target.clamp(step_min, step_max);
    }
    let target = target.min(capacity.max(needed));
    // Near the end of the disk the exact need may still fit.
    let taken = match file.allocate(target) {
        Ok(()) => target,
        Err(_) if target > needed => file.allocate(needed).map(|()| needed)?,
        Err(error) => return Err(error),
    };
    *allocated = taken;
    Ok(())
}

fn no_space(error: std::io::Error) -> LogError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            LogError::NoSpace(error)
        }
        _ => LogError::Io(error),
    }
}

fn write_batches(
    active: &Active,
    stamped: &[([u8; PREFIX_BYTES], IndexEntry)],
    entries: &[NewEntry],
) -> std::io::Result<()> {
    let Some((_, first)) = stamped.first() else {
        return Ok(());
    };
    let mut parts = Vec::with_capacity(stamped.len() * 2);
    for ((prefix, _), new) in stamped.iter().zip(entries) {
        parts.push(IoSlice::new(prefix));
        parts.push(IoSlice::new(&new.batch[PREFIX_BYTES..]));
    }
    active.segment.data.write_at(u64::from(first.position), &parts)
}

fn publish(active: &mut Active, stamped: &[([u8; PREFIX_BYTES], IndexEntry)]) {
    let segment = &active.segment;
    let base = segment.base_offset();
    let first = segment.first_index().0 + u64::from(active.entry_count);
    segment.publish(|state| {
        for (n, (_, entry)) in stamped.iter().enumerate() {
            state.push(entry, &entry.encode(segment.seed(), first + n as u64), base);
        }
    });
    if let Some((_, last)) = stamped.last() {
        active.unindexed_bytes += last.end() - active.tip.position;
        active.entry_count += stamped.len() as u32;
        active.tip = Tip::after(last);
    }
}
