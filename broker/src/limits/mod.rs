//! What clients may take together: connections, receive windows, memory for messages.
//!
//! Invariant: a permit is given back when it is dropped, and nothing is taken before its permit is held.

mod connections;
mod memory;
mod windows;

pub use connections::ConnectionLimits;
#[cfg(test)]
pub use memory::MESSAGE_OVERHEAD_BYTES;
pub use memory::{ConnectionMemory, MemoryBudget, MemoryPermit, MessageMemory, Pending};
pub use windows::WindowBudget;
