//! The log on disk.

pub mod data_dir;
pub mod disk;
pub mod flusher;
pub mod host;
pub mod journal;
pub mod log;
mod map;
mod codec;
pub mod index;
mod recovery;
mod segment;
pub mod inspect;
pub mod scrub;
mod tables;
