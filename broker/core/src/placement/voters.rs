//! Which brokers vote in the metadata group. All the others follow it as learners.

use std::collections::BTreeSet;

use headwater_proto::types::BrokerId;

use super::Pool;

/// Voters of the metadata group: more would cost every change of the cluster, and survive no likely failure more.
pub const VOTERS_MAX: usize = 5;

/// The brokers that should vote: one of one or two brokers, three of three or four, five of five or more; an even
/// number would survive no more failures than the odd one below it.
///
/// Voters stay as they are: one is replaced when its broker is being removed, or when it is not alive and a broker that
/// does not vote is. `pool.alive` should therefore mean "not gone for long".
#[must_use]
pub fn metadata_voters(pool: &Pool, voters: &BTreeSet<BrokerId>, max: usize) -> BTreeSet<BrokerId> {
    let eligible = || pool.candidates.iter().filter(|(_, candidate)| candidate.is_eligible());
    let wanted = match eligible().count().min(max).min(VOTERS_MAX) {
        0 => return voters.clone(),
        count if count % 2 == 0 => count - 1,
        count => count,
    };
    let mut chosen: Vec<BrokerId> = Vec::new();
    while chosen.len() < wanted {
        let rack = |id: &BrokerId| pool.candidates.get(id).map(|candidate| candidate.rack.as_str());
        let others = eligible().filter(|(id, _)| !chosen.contains(id));
        let best = others.min_by_key(|(id, candidate)| {
            let in_rack = chosen.iter().filter(|other| rack(other) == rack(id)).count();
            (!candidate.alive, !voters.contains(id), in_rack, **id)
        });
        match best {
            Some((id, _)) => chosen.push(*id),
            None => break,
        }
    }
    chosen.into_iter().collect()
}
