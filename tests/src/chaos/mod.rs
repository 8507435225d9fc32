//! Faults for real broker processes: what the simulation does to simulated hosts, done to this machine's.

pub mod disk;
pub mod faults;
pub mod links;
