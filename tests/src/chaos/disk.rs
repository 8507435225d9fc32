//! A file system of its own for one broker, so that it can be filled up without harm to anybody else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; unmounted when dropped. Its fsync does nothing: it is there for its bounds.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts it; `None` where this process may not.
    pub fn mount(path: &Path, mebibytes: u64) -> io::Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then(|| Self { path: path.to_owned() }))
    }

    /// Takes all space that is left.
    pub fn fill(&self) -> io::Result<()> {
        const STEP_BYTES: usize = 1 << 20;
        let mut file = fs::File::create(self.filler())?;
        loop {
            match io::Write::write_all(&mut file, &[0; STEP_BYTES]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it back.
    pub fn free(&self) -> io::Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed may still be on its way out.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
