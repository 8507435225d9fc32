//! The directories of the simulated disk: the names that everyone sees, and those that a power cut may leave.
//!
//! Invariant: a name that was created, renamed or removed is durable once its directory was synced. Until then
//! each such change is kept or lost on its own, except that a rename happens whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{Rng, RngExt};

use super::Inode;

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum Entry {
    Directory,
    File(Arc<Inode>),
}

/// Names by full path. A name whose directory does not exist does not exist either.
type Tree = BTreeMap<PathBuf, Entry>;

/// A change of one directory that no sync has covered yet.
#[derive(Debug, Clone)]
enum Op {
    Make(PathBuf, Entry),
    /// A file, or a directory with all below it.
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Entry),
}

impl Op {
    /// The name whose directory, once synced, makes the change durable.
    fn name(&self) -> &Path {
        match self {
            Self::Make(name, _) | Self::Remove(name) | Self::Rename(_, name, _) => name,
        }
    }

    fn apply(self, tree: &mut Tree) {
        match self {
            Self::Make(name, Entry::Directory) => {
                tree.entry(name).or_insert(Entry::Directory);
            }
            Self::Make(name, entry) => drop(tree.insert(name, entry)),
            Self::Remove(name) => {
                // What lies below a directory goes with it, even where the directory itself is not durable yet.
                if !matches!(tree.remove(&name), Some(Entry::File(_))) {
                    tree.retain(|path, _| !path.starts_with(&name));
                }
            }
            Self::Rename(from, to, entry) => {
                tree.remove(&from);
                tree.insert(to, entry);
            }
        }
    }
}

/// The present tree, the durable one, and what lies between.
#[derive(Debug, Default)]
pub struct Names {
    tree: Tree,
    durable: Tree,
    /// In the order in which they were made, each with its number.
    unsynced: Vec<(u64, Op)>,
    changes: u64,
}

impl Names {
    pub fn get(&self, path: &Path) -> io::Result<&Entry> {
        self.tree.get(path).ok_or_else(|| error(io::ErrorKind::NotFound, path))
    }

    pub fn file(&self, path: &Path) -> io::Result<&Arc<Inode>> {
        match self.get(path)? {
            Entry::File(inode) => Ok(inode),
            Entry::Directory => Err(error(io::ErrorKind::IsADirectory, path)),
        }
    }

    /// Every file, in the order of the paths.
    pub fn files(&self) -> impl Iterator<Item = (&PathBuf, &Arc<Inode>)> {
        self.tree.iter().filter_map(|(path, entry)| match entry {
            Entry::File(inode) => Some((path, inode)),
            Entry::Directory => None,
        })
    }

    pub fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let directory = plain(directory);
        self.check_directory(directory)?;
        // Paths are in order by their components: what lies below follows its directory.
        let below = self.tree.range(directory.to_owned()..).map(|(path, _)| path);
        let below = below.take_while(|path| path.starts_with(directory));
        let here = below.filter(|path| path.parent() == Some(directory));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    pub fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        if is_root(path) {
            return Ok(());
        }
        match self.tree.get(path) {
            Some(Entry::Directory) => return Ok(()),
            Some(Entry::File(_)) => return Err(error(io::ErrorKind::AlreadyExists, path)),
            None => {}
        }
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        self.push(Op::Make(path.to_owned(), Entry::Directory));
        Ok(())
    }

    pub fn create(&mut self, path: &Path, inode: Arc<Inode>) -> io::Result<()> {
        self.check_directory(path.parent().unwrap_or(Path::new("")))?;
        if self.tree.contains_key(path) {
            return Err(error(io::ErrorKind::AlreadyExists, path));
        }
        self.push(Op::Make(path.to_owned(), Entry::File(inode)));
        Ok(())
    }

    /// Files only.
    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = Entry::File(Arc::clone(self.file(from)?));
        self.check_directory(to.parent().unwrap_or(Path::new("")))?;
        if matches!(self.tree.get(to), Some(Entry::Directory)) {
            return Err(error(io::ErrorKind::IsADirectory, to));
        }
        self.push(Op::Rename(from.to_owned(), to.to_owned(), entry));
        Ok(())
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.push(Op::Remove(path.to_owned()));
        Ok(())
    }

    pub fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.check_directory(path)?;
        // One after the other, as the real call does: a power cut may keep any of them.
        let below: Vec<PathBuf> =
            self.tree.keys().rev().filter(|name| name.starts_with(path)).cloned().collect();
        below.into_iter().for_each(|name| self.push(Op::Remove(name)));
        Ok(())
    }

    /// The newest change: what a sync that begins now will cover.
    pub fn change(&self) -> u64 {
        self.changes
    }

    /// A sync of `directory` that began at `upto` completed.
    pub fn synced(&mut self, directory: &Path, upto: u64) {
        let directory = plain(directory);
        let covers = |change: u64, op: &Op| change <= upto && op.name().parent() == Some(directory);
        let (done, rest) = std::mem::take(&mut self.unsynced).into_iter().partition(|(n, op)| covers(*n, op));
        self.unsynced = rest;
        for (number, op) in done {
            if let Op::Remove(gone) = &op {
                // What happened in a directory before it went went with it.
                self.unsynced.retain(|(other, op)| *other > number || !op.name().starts_with(gone));
            }
            op.apply(&mut self.durable);
        }
    }

    /// The tree that is left when the power goes now.
    pub fn after_power_cut(&self, rng: &mut impl Rng) -> Self {
        let mut left = self.durable.clone();
        // Journalling file systems keep a prefix of the changes, others any subset: half the cuts each.
        let prefix = rng.random_bool(0.5).then(|| rng.random_range(0..=self.unsynced.len()));
        for (position, (_, op)) in self.unsynced.iter().enumerate() {
            if prefix.map_or_else(|| rng.random_bool(0.5), |kept| position < kept) {
                op.clone().apply(&mut left);
            }
        }
        // Shorter paths come first, so a directory is judged before what it holds.
        let mut tree = Tree::new();
        for (path, entry) in left {
            let parent = path.parent().unwrap_or(Path::new(""));
            if is_root(parent) || matches!(tree.get(parent), Some(Entry::Directory)) {
                tree.insert(path, entry);
            }
        }
        Self { durable: tree.clone(), tree, ..Self::default() }
    }

    /// Replaces every file, now that nothing is unsynced.
    pub fn replace_files(&mut self, mut new: impl FnMut(&Path, &Arc<Inode>) -> Arc<Inode>) {
        for (path, entry) in &mut self.tree {
            if let Entry::File(inode) = entry {
                *inode = new(path, inode);
            }
        }
        self.durable = self.tree.clone();
    }

    pub fn check_directory(&self, path: &Path) -> io::Result<()> {
        let path = plain(path);
        if is_root(path) {
            return Ok(());
        }
        match self.get(path)? {
            Entry::Directory => Ok(()),
            Entry::File(_) => Err(error(io::ErrorKind::NotADirectory, path)),
        }
    }

    fn push(&mut self, op: Op) {
        self.changes += 1;
        op.clone().apply(&mut self.tree);
        self.unsynced.push((self.changes, op));
    }
}

/// The root, and the working directory of relative paths, always exist.
fn is_root(path: &Path) -> bool {
    plain(path).parent().is_none()
}

/// The working directory has two names.
fn plain(directory: &Path) -> &Path {
    if directory == Path::new(".") { Path::new("") } else { directory }
}

fn error(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}
