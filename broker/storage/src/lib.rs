//! The log on disk.

pub mod disk;
