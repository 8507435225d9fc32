//! Who should lead a partition.

use headwater_proto::types::BrokerId;

use crate::metadata::Partition;

/// The broker to which the leader of a partition hands it over; `None`: it keeps it.
///
/// The preferred leader is the first replica. `may_lead`: the broker is active and has been alive for a while;
/// `in_sync`: its replica has all that the leader has, or nearly. A leader whose broker may not lead hands over to
/// the next replica in line that may.
#[must_use]
pub fn better_leader(
    leader: BrokerId,
    partition: &Partition,
    may_lead: impl Fn(BrokerId) -> bool,
    in_sync: impl Fn(BrokerId) -> bool,
) -> Option<BrokerId> {
    let mut fit = partition.brokers().filter(|id| *id == leader || in_sync(*id)).filter(|id| may_lead(*id));
    let best = fit.next()?;
    let is_preferred = partition.brokers().next() == Some(best);
    let stays =
        best == leader || (may_lead(leader) && partition.brokers().any(|id| id == leader) && !is_preferred);
    (!stays).then_some(best)
}
