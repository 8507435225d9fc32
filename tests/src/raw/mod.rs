//! What the machine gives without Headwater: the other side of every ratio in the README.

pub mod disk;
pub mod stream;
