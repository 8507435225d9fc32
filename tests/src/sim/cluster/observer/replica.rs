//! What is known of one replica, over its restarts.

use headwater_broker::Observation;
use headwater_proto::record::BatchHeader;
use headwater_proto::types::{LogIndex, ReplicaId, Term};
use headwater_storage::log::{Log, LogError, LogId};

use super::Report;
use super::group::{Entries, Fingerprint};

#[derive(Debug, Default)]
pub struct ReplicaModel {
    pub node: i32,
    /// Its entries by index, from 1 on; `None`: purged before it was seen.
    log: Vec<Option<Fingerprint>>,
    /// The last entry known to be on its disk.
    pub durable: LogIndex,
    term: Term,
    applied: LogIndex,
    first_segment: LogIndex,
    newest_segment: LogIndex,
    /// Applied entries below this index were compared with what is committed.
    pub compared: u64,
    /// Its process has ended since the last look.
    restarted: bool,
    /// Entries of it may be missing, by our doing, and it has told others of entries up to this one.
    excused: bool,
    promised: LogIndex,
    torn: bool,
    quiet: bool,
    down: bool,
    damaged: bool,
    /// It has run since it was seen last: a replica that comes up or goes answers its peers before it can be looked at
    /// or afterwards. What it holds by now is not known.
    pub hidden: bool,
}

impl ReplicaModel {
    /// Notes and checks one look at it.
    pub fn look(
        &mut self,
        node: i32,
        seen: &Observation,
        committed: &[Option<Fingerprint>],
        entries: &mut Entries,
        report: &mut Report<'_>,
    ) {
        self.node = node;
        // What a damaged log says of itself is not to be relied on; a replica that was stopped holds what it held.
        if seen.log.damage().is_some() {
            if !self.damaged {
                report.path("quarantine");
                self.damaged = true;
            }
            if self.excused {
                // Until the rot was found it went on, and told others so.
                self.promised = self.promised.max(seen.log.bounds().durable_index.unwrap_or_default());
            }
            return;
        }
        let replica = seen.replica_id;
        let bounds = seen.log.bounds();
        let last = bounds.last.unwrap_or_default();
        if seen.torn && !self.torn {
            report.path("torn-tail");
        }
        if seen.quiet && !self.quiet {
            report.path("quiet");
        }
        (self.torn, self.quiet) = (seen.torn, seen.quiet);
        // One that failed and was opened again has lost what it never told anybody of.
        if self.down && !seen.down {
            self.ended();
        }
        self.down = seen.down;
        if self.restarted {
            self.check_restart(replica, last, seen.term, committed, report);
        }
        if seen.term < self.term && !self.excused && !seen.down {
            report
                .violation(&format!("replica {replica} went back from term {} to {}", self.term, seen.term));
        }
        if seen.term > self.term {
            report.turned(node);
        }
        self.term = self.term.max(seen.term);
        self.follow_log(replica, &seen.log, last, entries, report);
        let purged = bounds.purged.map(|purged| purged.index);
        self.durable = bounds.durable_index.max(purged).unwrap_or_default();
        self.check_order(replica, seen, last, report);
        self.count_segments(&seen.log, report);
    }

    pub fn ended(&mut self) {
        self.restarted = true;
        self.applied = LogIndex(0);
        self.compared = 0;
    }

    pub fn emptied(&mut self) {
        self.node = 0;
    }

    pub fn rotted(&mut self) {
        self.excused = true;
        self.promised = self.promised.max(self.durable);
    }

    /// Whether its log holds that entry, or has held and purged it.
    pub fn holds(&self, index: LogIndex, term: Term) -> bool {
        match self.log.get(index.get() as usize - 1) {
            Some(Some(held)) => held.term == term,
            // Purged entries were committed.
            Some(None) => true,
            None => false,
        }
    }

    pub fn holds_durably(&self, index: LogIndex, term: Term) -> bool {
        (index <= self.durable && self.holds(index, term)) || (self.excused && index <= self.promised)
    }

    pub fn fingerprint(&self, index: LogIndex) -> Option<Fingerprint> {
        self.log.get((index.get() as usize).checked_sub(1)?).copied().flatten()
    }

    /// What was committed and on its disk is there after a restart, and so is its vote.
    fn check_restart(
        &mut self,
        replica: ReplicaId,
        last: LogId,
        term: Term,
        committed: &[Option<Fingerprint>],
        report: &mut Report<'_>,
    ) {
        self.restarted = false;
        if self.excused {
            return;
        }
        let kept = (committed.len() as u64).min(self.durable.get());
        let held = committed[..kept as usize].iter().rposition(|entry| entry.is_some());
        let expected = held.map_or(0, |position| position as u64 + 1).min(kept);
        if self.holds_committed(expected, committed) && last.index.get() < expected {
            let durable = self.durable;
            report.violation(&format!(
                "replica {replica} came back with {last:?}; it held {durable:?}, committed up to {expected}"
            ));
        }
        if term < self.term {
            report
                .violation(&format!("replica {replica} came back with term {term}; it was in {}", self.term));
        }
    }

    fn holds_committed(&self, index: u64, committed: &[Option<Fingerprint>]) -> bool {
        index > 0
            && committed[index as usize - 1].is_some_and(|entry| self.holds(LogIndex(index), entry.term))
    }

    /// Brings our copy of its log up to date; what differs from the last look was truncated.
    fn follow_log(
        &mut self,
        replica: ReplicaId,
        log: &Log,
        last: LogId,
        entries: &mut Entries,
        report: &mut Report<'_>,
    ) {
        let first = log.bounds().first_index.get();
        let known = self.log.len() as u64;
        let mut agreed = known.min(last.index.get());
        while agreed >= first && !self.agrees(log, LogIndex(agreed)) {
            agreed -= 1;
        }
        if agreed < known {
            report.path("truncation");
            report.turned(self.node);
            self.log.truncate(agreed as usize);
            self.compared = self.compared.min(agreed + 1);
        }
        if first > agreed + 1 {
            report.path("snapshot-install");
        }
        // Its uncommitted entries below a snapshot are not there any more, and never were anybody else's.
        for index in self.applied.get()..first.saturating_sub(1).min(agreed) {
            self.log[index as usize] = None;
        }
        for index in agreed + 1..=last.index.get() {
            let entry = (index >= first).then(|| fingerprint(log, LogIndex(index)).ok().flatten()).flatten();
            if let Some(Fingerprint { term, crc: Some(crc) }) = entry {
                let before = self.log.last().copied().flatten().map(|entry| entry.term);
                if !entries.matches(LogIndex(index), term, crc, before) {
                    report.violation(&format!(
                        "replica {replica} differs from another log at {index} of term {term}, or before"
                    ));
                }
            }
            self.log.push(entry);
        }
    }

    /// purged <= applied <= last, and applied only rises while it runs.
    fn check_order(&mut self, replica: ReplicaId, seen: &Observation, last: LogId, report: &mut Report<'_>) {
        let applied = seen.progress.applied.index;
        let purged = seen.log.bounds().purged.unwrap_or_default();
        if applied > last.index || purged.index > applied {
            report.violation(&format!(
                "replica {replica}: purged {purged:?}, applied {applied}, last {last:?}"
            ));
        }
        if applied < self.applied {
            report.violation(&format!("replica {replica} applied {applied} after {}", self.applied));
        }
        self.applied = applied;
    }

    /// Whether the log still has what was seen at `index`, as far as it can be read: a disk without power has not
    /// forgotten.
    fn agrees(&self, log: &Log, index: LogIndex) -> bool {
        let Some(seen) = self.fingerprint(index) else { return true };
        fingerprint(log, index).map_or(true, |now| now.is_some_and(|now| now.agrees(seen)))
    }

    fn count_segments(&mut self, log: &Log, report: &mut Report<'_>) {
        let segments = log.segments();
        let (Some(first), Some(newest)) = (segments.first(), segments.last()) else { return };
        if newest.first_index > self.newest_segment && self.newest_segment > LogIndex(0) {
            report.path("segment-roll");
        }
        if first.first_index > self.first_segment && self.first_segment > LogIndex(0) {
            report.path("purge");
        }
        (self.first_segment, self.newest_segment) = (first.first_index, newest.first_index);
    }
}

/// What is known of an entry of a log; `None` if there is no such entry.
fn fingerprint(log: &Log, index: LogIndex) -> Result<Option<Fingerprint>, LogError> {
    let Some(entry) = log.entry(index)? else { return Ok(None) };
    let batch = log.batch(index).ok().flatten();
    let crc = batch.and_then(|(_, batch)| Some(BatchHeader::read(&batch)?.crc));
    Ok(Some(Fingerprint { term: entry.term, crc }))
}
