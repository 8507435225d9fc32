//! The log on disk.

pub mod data_dir;
pub mod disk;
pub mod flusher;
pub mod host;
pub mod journal;
pub mod log;
