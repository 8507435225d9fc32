//! The leader epoch table: where each term that wrote records began.
//!
//! Source: KIP-101, KIP-279. Invariants: terms and first offsets both increase strictly; a term that
//! wrote nothing leaves no row, so that an idle partition's table does not grow with elections.

use std::collections::BTreeMap;

use headwater_proto::types::{LogIndex, Offset, Term};

/// Where a term began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    pub first_offset: Offset,
    pub first_index: LogIndex,
}

/// Term to its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochTable {
    starts: BTreeMap<Term, EpochStart>,
}

impl EpochTable {
    /// Notes an entry of `term`; only the first of a term changes the table.
    pub fn note(&mut self, term: Term, first_offset: Offset, first_index: LogIndex) {
        if self.starts.last_key_value().is_some_and(|(last, _)| *last >= term) {
            return;
        }
        if self.starts.last_key_value().is_some_and(|(_, start)| start.first_offset == first_offset) {
            self.starts.pop_last();
        }
        self.starts.insert(term, EpochStart { first_offset, first_index });
    }

    /// Drops the terms all of whose records lie below the log start. The one that holds it stays.
    pub fn prune(&mut self, log_start: Offset) {
        while let Some((_, second)) = self.starts.iter().nth(1) {
            if second.first_offset > log_start {
                return;
            }
            self.starts.pop_first();
        }
    }

    /// The newest term at or below `term`, and the offset at which it ends (`next_offset` for the newest
    /// of all): what OffsetsForLeaderEpoch answers. `None` for a term older than the table.
    #[must_use]
    pub fn end_offset(&self, term: Term, next_offset: Offset) -> Option<(Term, Offset)> {
        let (found, _) = self.starts.range(..=term).next_back()?;
        let after = self.starts.range((std::ops::Bound::Excluded(*found), std::ops::Bound::Unbounded)).next();
        Some((*found, after.map_or(next_offset, |(_, start)| start.first_offset)))
    }

    /// The term that wrote the record at `offset`; `None` below the table.
    #[must_use]
    pub fn term_at(&self, offset: Offset) -> Option<Term> {
        self.starts.iter().rev().find(|(_, start)| start.first_offset <= offset).map(|(term, _)| *term)
    }

    /// The rows, oldest term first.
    pub fn iter(&self) -> impl Iterator<Item = (Term, EpochStart)> + '_ {
        self.starts.iter().map(|(term, start)| (*term, *start))
    }

    /// Whether appending a row keeps terms and offsets increasing; used when a table is decoded.
    pub(crate) fn push(&mut self, term: Term, start: EpochStart) -> bool {
        let follows = self
            .starts
            .last_key_value()
            .is_none_or(|(last, before)| *last < term && before.first_offset < start.first_offset);
        if follows {
            self.starts.insert(term, start);
        }
        follows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(u64, i64)]) -> EpochTable {
        let mut table = EpochTable::default();
        for (index, (term, offset)) in rows.iter().enumerate() {
            table.note(Term(*term), Offset(*offset), LogIndex(index as u64 + 1));
        }
        table
    }

    #[test]
    fn the_end_of_a_term_is_the_beginning_of_the_next_one_that_wrote() {
        let table = table(&[(1, 0), (1, 10), (2, 20), (5, 20), (7, 35)]);
        assert_eq!(table.end_offset(Term(1), Offset(40)), Some((Term(1), Offset(20))));
        assert_eq!(table.end_offset(Term(2), Offset(40)), Some((Term(1), Offset(20))));
        assert_eq!(table.end_offset(Term(6), Offset(40)), Some((Term(5), Offset(35))));
        assert_eq!(table.end_offset(Term(9), Offset(40)), Some((Term(7), Offset(40))));
        assert_eq!(table.end_offset(Term(0), Offset(40)), None);
    }

    #[test]
    fn pruning_keeps_the_term_that_holds_the_log_start() {
        let mut table = table(&[(1, 0), (2, 20), (7, 35)]);
        table.prune(Offset(34));
        assert_eq!(table.term_at(Offset(34)), Some(Term(2)));
        assert_eq!(table.term_at(Offset(19)), None);
        table.prune(Offset(100));
        assert_eq!(table.iter().map(|(term, _)| term).collect::<Vec<_>>(), [Term(7)]);
    }
}
