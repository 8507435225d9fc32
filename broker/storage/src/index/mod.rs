//! The index file of a segment: header, entries, and a footer once it is sealed.
//!
//! The header is the identity of the segment and is synced before its first entry counts. Entries are
//! derived from the data while the segment is active; the footer, synced at the seal, makes them
//! authoritative. The footer stands at the very end of the file, wherever the entries end.

mod entry;
mod layout;

pub use entry::{ENTRY_BYTES, IndexEntry};
pub use layout::{FOOTER_BYTES, HEADER_BYTES, IndexFooter, IndexHeader};

/// Where entry number `n` of a segment begins in its index file.
#[must_use]
pub const fn entry_position(n: u32) -> u64 {
    HEADER_BYTES as u64 + n as u64 * ENTRY_BYTES as u64
}
