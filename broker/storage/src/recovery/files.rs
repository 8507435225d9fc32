//! The files of a group's directory, before anything of them is believed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use headwater_proto::types::{GroupId, Incarnation, LogIndex};

use crate::disk::{Disk, DiskFile};
use crate::index::{HEADER_BYTES, IndexHeader};
use crate::segment::index_capacity;
use crate::segment::name::{FileName, SegmentName};

/// A segment file with its index file, if that is there and proves to belong to it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub name: SegmentName,
    pub data: Arc<dyn DiskFile>,
    pub index: Option<(IndexHeader, Arc<dyn DiskFile>)>,
}

impl Candidate {
    pub fn first_index(&self) -> Option<LogIndex> {
        self.index.as_ref().map(|(header, _)| header.first_index)
    }
}

/// Whom index files have to name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    /// `None` for a reader that takes the files of any data directory.
    pub incarnation: Option<Incarnation>,
    pub group: Option<GroupId>,
}

/// Opens every segment of a directory, in the order of their first log index. One whose index file is lost takes its
/// place by its generation.
pub(crate) fn candidates(
    disk: &dyn Disk,
    directory: &Path,
    owner: Owner,
    map_bytes: u64,
    entries_max: u32,
) -> io::Result<Vec<Candidate>> {
    let names = disk.list(directory)?;
    let parsed: Vec<FileName> = names.iter().filter_map(|n| FileName::parse(n)).collect();
    let mut found = BTreeMap::new();
    for file in &parsed {
        if let FileName::Log(name) = file {
            let data = disk.open(&directory.join(name.log_file()), map_bytes)?;
            found.insert(*name, Candidate { name: *name, data, index: None });
        }
    }
    for file in &parsed {
        if let FileName::Index(name) = file
            && let Some(candidate) = found.get_mut(name)
        {
            candidate.index = open_index(disk, directory, *name, owner, entries_max)?;
        }
    }
    let mut ordered: Vec<(LogIndex, Candidate)> = Vec::new();
    let mut place = LogIndex(0);
    for candidate in found.into_values() {
        place = candidate.first_index().unwrap_or(place);
        ordered.push((place, candidate));
    }
    ordered.sort_by_key(|(place, candidate)| (*place, candidate.name.generation));
    Ok(ordered.into_iter().map(|(_, candidate)| candidate).collect())
}

/// Index files whose segment file is not there: a crash came between the two removals, or creations.
pub(crate) fn orphans(disk: &dyn Disk, directory: &Path) -> io::Result<Vec<SegmentName>> {
    let names = disk.list(directory)?;
    let parsed: Vec<FileName> = names.iter().filter_map(|n| FileName::parse(n)).collect();
    let orphan = |file: &FileName| match file {
        FileName::Index(name) => (!parsed.contains(&FileName::Log(*name))).then_some(*name),
        _ => None,
    };
    Ok(parsed.iter().filter_map(orphan).collect())
}

fn open_index(
    disk: &dyn Disk,
    directory: &Path,
    name: SegmentName,
    owner: Owner,
    entries_max: u32,
) -> io::Result<Option<(IndexHeader, Arc<dyn DiskFile>)>> {
    let file = disk.open(&directory.join(name.index_file()), index_capacity(entries_max))?;
    if file.len() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let header = IndexHeader::decode(&file.read(0..HEADER_BYTES as u64)?).filter(|h| {
        owner.incarnation.is_none_or(|i| i == h.incarnation)
            && owner.group.is_none_or(|g| g == h.group)
            && h.generation == name.generation
            && h.base_offset == name.base_offset
    });
    Ok(header.map(|header| (header, file)))
}
