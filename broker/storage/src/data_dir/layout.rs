//! The top level of a data directory: its files, its format version, and how it comes into being.
//!
//! The format file is written last, so that a directory without it was never used and may be begun again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_proto::types::{GroupId, Incarnation};

use super::error::OpenError;
use crate::disk::{Disk, LockGuard};
use crate::journal::{Change, Journal};

/// The format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

const LOCK: &str = "lock";
const FORMAT: &str = "format";
const JOURNAL: &str = "journal";
const GROUPS: &str = "groups";
/// What a new directory may hold already: the second makes a file system of its own usable.
const HARMLESS: [&str; 3] = [LOCK, "lost+found", JOURNAL];
const FORMAT_PREFIX: &str = "headwater data directory, format ";
/// More than any format file holds.
const FORMAT_BYTES_MAX: u64 = 256;

/// Paths below a data directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn groups(&self) -> PathBuf {
        self.root.join(GROUPS)
    }

    pub fn group(&self, group: GroupId) -> PathBuf {
        self.groups().join(group.to_string())
    }

    fn journal(&self) -> PathBuf {
        self.root.join(JOURNAL)
    }

    fn format(&self) -> PathBuf {
        self.root.join(FORMAT)
    }

    pub fn error(&self, source: io::Error) -> OpenError {
        OpenError::Io { path: self.root.clone(), source }
    }

    /// Makes the directory and takes its lock.
    pub fn lock(&self, disk: &Arc<dyn Disk>) -> Result<Box<dyn LockGuard>, OpenError> {
        disk.create_dir_all(&self.root).map_err(|error| self.error(error))?;
        disk.lock(&self.root.join(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: self.root.clone() },
            _ => self.error(error),
        })
    }

    /// The journal; a new one, with that incarnation's fact, where the directory is new.
    pub async fn open_journal(&self, disk: &Arc<dyn Disk>, first: &[Change]) -> Result<Journal, OpenError> {
        if self.is_begun(disk)? {
            self.sync_names(disk).await.map_err(|error| self.error(error))?;
            return Ok(Journal::open(disk, &self.journal()).await?);
        }
        let begin = async {
            sync_ancestors(disk, &self.root).await?;
            for directory in [self.journal(), self.groups()] {
                disk.create_dir_all(&directory)?;
            }
            disk.sync_dir(&self.root).await
        };
        begin.await.map_err(|error| self.error(error))?;
        let journal = Journal::create(disk, &self.journal(), first).await?;
        self.write_format(disk).await.map_err(|error| self.error(error))?;
        Ok(journal)
    }

    /// Makes durable what a broker that was killed may have left in the page cache only: nothing must be built on a
    /// name that can vanish.
    async fn sync_names(&self, disk: &Arc<dyn Disk>) -> io::Result<()> {
        disk.open(&self.format(), FORMAT_BYTES_MAX)?.sync_data().await?;
        disk.sync_dir(&self.root).await?;
        disk.sync_dir(&self.groups()).await
    }

    /// Whether a broker has used the directory; an error if it is another's.
    fn is_begun(&self, disk: &Arc<dyn Disk>) -> Result<bool, OpenError> {
        let entries = disk.list(&self.root).map_err(|error| self.error(error))?;
        if entries.iter().any(|entry| entry == FORMAT) {
            let found = self.read_format(disk).map_err(|error| self.error(error))?;
            // An empty one was torn as the directory was created: nothing came after it.
            if !found.is_empty() {
                return self.check_format(&found).map(|()| true);
            }
        }
        let used = |name: &String| match name.as_str() {
            // Made before the format file, and empty until after it.
            GROUPS => disk.list(&self.groups()).map_or(true, |groups| !groups.is_empty()),
            name => !HARMLESS.contains(&name) && name != FORMAT,
        };
        match entries.into_iter().find(used) {
            Some(entry) => Err(OpenError::NotADataDirectory { path: self.root.clone(), entry }),
            None => Ok(false),
        }
    }

    fn check_format(&self, found: &str) -> Result<(), OpenError> {
        let version = found.strip_prefix(FORMAT_PREFIX).map_or(found, str::trim_end);
        if version == FORMAT_VERSION.to_string() {
            return Ok(());
        }
        let (path, found) = (self.root.clone(), version.chars().take(40).collect());
        Err(OpenError::WrongVersion { path, found, supported: FORMAT_VERSION })
    }

    /// Empty where nothing (or nothing but zeros) was written.
    fn read_format(&self, disk: &Arc<dyn Disk>) -> io::Result<String> {
        let file = disk.open(&self.format(), FORMAT_BYTES_MAX)?;
        let bytes = file.read(0..file.len().min(FORMAT_BYTES_MAX))?;
        Ok(String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n']).to_owned())
    }

    async fn write_format(&self, disk: &Arc<dyn Disk>) -> io::Result<()> {
        let file = match disk.create(&self.format(), FORMAT_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.open(&self.format(), FORMAT_BYTES_MAX)?
            }
            other => other?,
        };
        let text = format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n");
        file.write_at(0, &[io::IoSlice::new(text.as_bytes())])?;
        file.sync_data().await?;
        disk.sync_dir(&self.root).await
    }
}

/// Draws the identity of a new data directory.
pub fn draw_incarnation(entropy: &mut dyn FnMut() -> u64) -> Incarnation {
    let high = u128::from(entropy()) << 64;
    Incarnation((high | u128::from(entropy())).to_be_bytes())
}

/// Makes the names of a directory and of all above it durable: any of them may be new.
async fn sync_ancestors(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<()> {
    for parent in path.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent).await {
            // Where we may not even look, we made nothing.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(())
}
