//! What the four files of a journal say after a crash.
//!
//! A frame counts where either copy has it intact. The chain ends where neither has; that is a torn tail,
//! unless an intact frame with a later sequence exists anywhere: rounds follow each other strictly, so that
//! what came before it was durable once, and is lost.

use bytes::Bytes;

use super::Facts;
use super::frame::{self, ALIGN_BYTES, Frame};

/// The contents of both copies of one slot. Copies may be of different length, or empty.
pub type Slot = [Bytes; 2];

/// The last state that the journal vouches for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub facts: Facts,
    pub generation: u64,
    pub slot: usize,
    pub sequence: u64,
    pub crc: u32,
}

/// Follows the chain of the newest generation. The error says what makes the journal unreadable.
pub fn recover(slots: &[Slot; 2]) -> Result<Recovered, String> {
    let newest = |slot: &usize| first(&slots[*slot]).map(|frame| frame.link.generation);
    let slot = (0..slots.len()).max_by_key(newest).unwrap_or(0);
    let Some(start) = first(&slots[slot]) else {
        return Err("no intact frame begins a generation".into());
    };
    let mut recovered = Recovered { slot, generation: start.link.generation, ..Recovered::default() };
    let mut position = 0;
    let mut next = Some(start);
    while let Some(frame) = next {
        position += frame.bytes;
        recovered.sequence = frame.link.sequence;
        recovered.crc = frame.crc;
        recovered.facts.apply(frame.changes);
        next = follow(&slots[slot], position, &recovered)?;
    }
    match slots.iter().flatten().find_map(|copy| later_frame(copy, recovered.sequence)) {
        Some(sequence) => Err(format!(
            "both copies are damaged at byte {position} of generation {}, frame {}, and frame {sequence} is intact",
            recovered.generation,
            recovered.sequence + 1,
        )),
        None => Ok(recovered),
    }
}

/// The newest frame that begins either copy.
fn first(slot: &Slot) -> Option<Frame> {
    slot.iter().filter_map(frame::decode).max_by_key(|frame| frame.link.generation)
}

/// The frame at `position` that continues the chain.
fn follow(slot: &Slot, position: u64, last: &Recovered) -> Result<Option<Frame>, String> {
    let continues = |frame: &Frame| {
        let link = frame.link;
        link.generation == last.generation
            && link.sequence == last.sequence + 1
            && link.previous_crc == last.crc
    };
    let mut found = slot.iter().filter_map(|copy| decode_at(copy, position)).filter(continues);
    let (first, second) = (found.next(), found.next());
    match (&first, &second) {
        (Some(one), Some(other)) if one != other => {
            Err(format!("the copies contradict each other at byte {position}"))
        }
        _ => Ok(first),
    }
}

/// Sequence of an intact frame that is later than `sequence`, if there is one.
fn later_frame(copy: &Bytes, sequence: u64) -> Option<u64> {
    (0..copy.len() as u64)
        .step_by(ALIGN_BYTES as usize)
        .filter_map(|position| decode_at(copy, position))
        .map(|frame| frame.link.sequence)
        .find(|found| *found > sequence)
}

fn decode_at(copy: &Bytes, position: u64) -> Option<Frame> {
    let position = usize::try_from(position).ok().filter(|position| *position < copy.len())?;
    frame::decode(&copy.slice(position..))
}
