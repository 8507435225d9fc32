//! From the files that a crash left to a log.
//!
//! The order of belief: the journal, then sealed segments by their footers, then index entries that prove
//! themselves below the durable point, then a scan. What is missing above the durable point is a torn tail: cut, and the
//! cut journalled. What is missing below it is rot: reported, and nothing is cut or removed.

mod chain;
pub(crate) mod files;
pub(crate) mod walk;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headwater_proto::types::{GroupId, LogIndex, Term};

use self::chain::Chain;
use self::files::Owner;
use crate::disk::{Disk, DiskFile};
use crate::host::{LogHost, fact};
use crate::log::facts::{Cut, DurablePoint, Purged, decode_damage, decode_tail_cut};
use crate::log::{Damage, FlushState, LogError, LogOptions, Recovered, TailCut, View, Writer};

/// The journal's part of a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub point: DurablePoint,
    pub cut: Option<Cut>,
    pub purged: Option<Purged>,
    pub tail_cut: Option<TailCut>,
    pub damage: Damage,
}

impl Facts {
    fn load(host: &dyn LogHost, group: GroupId) -> Result<Self, LogError> {
        let fact = |kind| host.fact(group, kind).filter(|value| !value.is_empty());
        Ok(Self {
            point: decoded(fact(fact::DURABLE_POINT), DurablePoint::decode)?.unwrap_or_default(),
            cut: decoded(fact(fact::CUT), Cut::decode)?,
            purged: decoded(fact(fact::PURGED), Purged::decode)?,
            tail_cut: decoded(fact(fact::TAIL_CUT), decode_tail_cut)?,
            damage: decoded(fact(fact::DAMAGE), decode_damage)?.unwrap_or_default(),
        })
    }

    /// Every entry below this index was durable; a cut that the point does not know lowered it.
    pub fn durable_next(&self) -> LogIndex {
        match self.cut {
            Some(cut) if cut.number > self.point.cuts => cut.durable_next_index,
            _ => self.point.next_index,
        }
    }

    fn cuts(&self) -> u64 {
        self.cut.map_or(0, |cut| cut.number)
    }
}

fn decoded<T>(value: Option<Bytes>, decode: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, LogError> {
    let unreadable = || LogError::Corrupt {
        file: "journal".to_owned(),
        detail: "a fact of the log is unreadable, or written by a later version".to_owned(),
        at: None,
    };
    value.map(|value| decode(&value).ok_or_else(unreadable)).transpose()
}

/// Finds the log in `directory` and repairs what a crash left of it. Everything that it returns is durable.
pub(crate) async fn recover(
    host: &Arc<dyn LogHost>,
    group: GroupId,
    directory: &Path,
    options: LogOptions,
    term_max: Term,
) -> Result<Recovered, LogError> {
    let disk = host.disk().as_ref();
    begin_directory(disk, directory).await?;
    let facts = Facts::load(host.as_ref(), group)?;
    for orphan in files::orphans(disk, directory)? {
        disk.remove_file(&directory.join(orphan.index_file()))?;
    }
    let owner = Owner { incarnation: Some(host.incarnation()), group: Some(group) };
    let candidates =
        files::candidates(disk, directory, owner, options.segment_bytes, options.segment_batches)?;
    let mut chain = Chain::new(host, group, directory, options, facts.clone(), term_max);
    chain.follow(candidates).await?;
    let begin = LogIndex(1);
    let end = chain.next_index().unwrap_or(begin);
    let mut tail_cut = facts.tail_cut;
    let mut cuts = facts.cuts();
    if end < facts.durable_next() {
        chain.damage.end_missing_below = Some(facts.durable_next());
        tracing::error!(%group, end = end.0, durable = facts.durable_next().0, "the end of the log is missing");
    } else if chain.is_torn() {
        // What the last cut voided must stay so when this one takes the place of its record.
        sync(host.as_ref(), directory, &chain.unsynced).await?;
        cuts += 1;
        tail_cut = Some(cut_tail(host.as_ref(), group, &chain, cuts, end).await?);
        chain.drop_torn()?;
    }
    let active = chain.settle().await?;
    if chain.has_changed() {
        sync(host.as_ref(), directory, &chain.unsynced).await?;
    }
    let view = View { segments: Arc::new(chain.segments), purged: facts.purged, begin };
    let durable_next = facts.durable_next().max(view.next_index());
    let writer = Writer { next_generation: chain.next_generation, active };
    let damage = merge(facts.damage, chain.damage).within(view.first_index(), view.next_index());
    Ok(Recovered { view, writer, flush: FlushState::new(durable_next, cuts), damage, tail_cut })
}

/// Makes the directory and its name durable, if it is not there yet.
async fn begin_directory(disk: &dyn Disk, directory: &Path) -> Result<(), LogError> {
    match disk.list(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => return other.map(drop).map_err(LogError::from),
    }
    disk.create_dir_all(directory)?;
    match directory.parent() {
        Some(parent) => Ok(disk.sync_dir(parent).await?),
        None => Ok(()),
    }
}

/// Journals that everything from `end` on is void, and that nobody has vouched for the end.
async fn cut_tail(
    host: &dyn LogHost,
    group: GroupId,
    chain: &Chain<'_>,
    number: u64,
    end: LogIndex,
) -> Result<TailCut, LogError> {
    let tail_cut = TailCut { last: chain.last() };
    tracing::warn!(%group, end = end.0, "a crash tore the end of the log: cut");
    let generation = chain.next_generation;
    let cut = Cut { number, next_index: end, generation, durable_next_index: end };
    // The flag first: a crash between the two must not leave a cut without it.
    host.put_fact(group, fact::TAIL_CUT, crate::log::damage::tail_cut_fact(tail_cut)).await?;
    host.put_fact(group, fact::CUT, cut.encode()).await?;
    Ok(tail_cut)
}

async fn sync(host: &dyn LogHost, directory: &Path, files: &[Arc<dyn DiskFile>]) -> Result<(), LogError> {
    for file in files {
        file.sync_data().await?;
    }
    Ok(host.disk().sync_dir(directory).await?)
}

/// What the journal knew of and what was found now.
fn merge(known: Damage, found: Damage) -> Damage {
    let mut merged = known.clone();
    let news = |r: &crate::log::DamagedRange| {
        !known.ranges.iter().any(|k| k.first_index <= r.first_index && r.last_index <= k.last_index)
    };
    let found_ranges: Vec<_> = found.ranges.into_iter().filter(news).collect();
    if !found_ranges.is_empty() || found.end_missing_below.is_some() {
        merged.accepted = false;
    }
    merged.end_missing_below = found.end_missing_below;
    merged.ranges.extend(found_ranges);
    merged.ranges.sort_by_key(|r| r.first_index);
    merged
}
