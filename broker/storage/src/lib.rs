//! The log on disk.

pub mod disk;
pub mod host;
pub mod log;
