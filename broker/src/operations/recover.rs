//! Going on with one replica after a majority is lost for good.
//!
//! Invariants: nothing is given up unless the caller says so, having been told what; a partition that has a leader,
//! or whose replicas could elect one, is left alone; the chosen replica goes on above every term that anybody was
//! ever heard to lead in.

use std::sync::Arc;

use headwater_core::metadata::{Command, Partition as Assignment, Survivor as Choice};
use headwater_proto::types::{BrokerId, GroupId, PartitionId, ReplicaId, Term};
use headwater_proto::v1::SurveyedReplica;

use super::survey::Surveyed;
use super::{find, known_broker};
use crate::error::RequestError;
use crate::node::Node;

/// A replica that is left.
#[derive(Debug, Clone)]
pub struct Survivor {
    pub broker: BrokerId,
    pub found: SurveyedReplica,
}

/// What a recovery would go on with, and what it would give up.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// The one that holds most first.
    pub survivors: Vec<Survivor>,
    /// `None`: nobody answers, and none was named.
    pub chosen: Option<BrokerId>,
    pub given_up: Vec<BrokerId>,
    pub loss: String,
}

impl Node {
    /// What would be lost; with `accept_loss`, goes on without it.
    ///
    /// # Errors
    /// There is nothing to recover, or nobody to go on with.
    pub async fn recover_partition(
        self: &Arc<Self>,
        topic: &str,
        partition: i32,
        survivor: Option<i32>,
        accept_loss: bool,
    ) -> Result<Outlook, RequestError> {
        let (topic, assigned) = find(self, topic, partition)?;
        let group = GroupId { topic_id: topic.id, partition: PartitionId(partition) };
        if let Some(leader) = self.cluster().leader(group) {
            let leader = leader.broker;
            return Err(RequestError::Invalid(format!(
                "broker {leader} leads the partition: nothing is lost that could be given up"
            )));
        }
        let survivor = survivor.map(|broker| known_broker(self, broker)).transpose()?;
        let survivors = survivors(self.survey(&[group]).await, &assigned);
        let whole = survivors.iter().filter(|survivor| survivor.found.damage.is_empty()).count();
        if whole > assigned.replicas.len() / 2 {
            return Err(RequestError::Invalid(format!(
                "{whole} of {} replicas are there and whole: they elect a leader by themselves",
                assigned.replicas.len()
            )));
        }
        let outlook = outlook(survivors, &assigned, survivor);
        if accept_loss {
            self.give_up(group, &assigned, &outlook).await?;
        }
        Ok(outlook)
    }

    async fn give_up(
        &self,
        group: GroupId,
        assigned: &Assignment,
        outlook: &Outlook,
    ) -> Result<(), RequestError> {
        let chosen = outlook.chosen.ok_or_else(|| {
            RequestError::Invalid(
                "no replica answers: name the broker that is to begin with nothing".to_owned(),
            )
        })?;
        let survivor = outlook.survivors.iter().find(|survivor| survivor.broker == chosen);
        let choice = match survivor {
            Some(survivor) => Choice::Replica(ReplicaId(survivor.found.replica_id)),
            None => Choice::Empty(chosen),
        };
        let last_terms = outlook.survivors.iter().map(|survivor| Term(survivor.found.last_term));
        let above = last_terms.fold(self.cluster().highest_term(group), Term::max);
        let (topic, partition) = super::name_of(self, group);
        tracing::warn!(
            topic,
            partition,
            survivor = %chosen,
            loss = outlook.loss,
            "a loss is accepted: the partition goes on with one replica"
        );
        let command = Command::RecoverPartition {
            topic: group.topic_id,
            partition: group.partition,
            epoch: assigned.epoch,
            survivor: choice,
            above,
        };
        self.controller().submit(command).await.map(|_| ())
    }
}

/// The replicas that answered, the one that holds most first: whole before damaged.
fn survivors(surveyed: Surveyed, assigned: &Assignment) -> Vec<Survivor> {
    let is_held = |replica: u64| assigned.holders().any(|holder| holder.id.get() == replica);
    let found = surveyed.into_iter().flat_map(|(broker, reply)| {
        let held = reply.replicas.into_iter().filter(|found| is_held(found.replica_id));
        held.map(move |found| Survivor { broker, found })
    });
    let mut survivors: Vec<_> = found.collect();
    survivors.sort_by_key(|Survivor { broker, found }| {
        std::cmp::Reverse((
            found.damage.is_empty(),
            found.last_term,
            found.last_index,
            std::cmp::Reverse(*broker),
        ))
    });
    survivors
}

fn outlook(survivors: Vec<Survivor>, assigned: &Assignment, named: Option<BrokerId>) -> Outlook {
    let chosen = named.or_else(|| survivors.first().map(|survivor| survivor.broker));
    let given_up = assigned.brokers().filter(|broker| Some(*broker) != chosen).collect();
    let kept = survivors.iter().find(|survivor| Some(survivor.broker) == chosen);
    let loss = match (kept, chosen) {
        (Some(Survivor { broker, found }), _) => format!(
            "broker {broker} holds the records below offset {}, of which those below {} are known to be committed; \
             what was acknowledged beyond that, and is only on the replicas that are given up, is lost{}",
            found.log_end_offset,
            found.high_watermark,
            if found.damage.is_empty() { String::new() } else { format!(" ({})", found.damage) },
        ),
        (None, Some(broker)) => format!("broker {broker} begins with nothing: every record is lost"),
        (None, None) => "no replica answers: every record is lost".to_owned(),
    };
    Outlook { survivors, chosen, given_up, loss }
}

#[cfg(test)]
mod tests {
    use headwater_core::metadata::Replica;
    use headwater_proto::types::Incarnation;
    use headwater_proto::v1::SurveyReply;

    use super::*;

    fn assigned() -> Assignment {
        let replica = |n: i32| Replica {
            id: ReplicaId(1_000 + u64::from(n.unsigned_abs())),
            broker: BrokerId(n),
            incarnation: Incarnation([1; 16]),
        };
        Assignment::created((1..=3).map(replica).collect())
    }

    fn answer(broker: i32, last: (u64, u64), damage: &str) -> (BrokerId, SurveyReply) {
        let found = SurveyedReplica {
            replica_id: 1_000 + u64::from(broker.unsigned_abs()),
            last_term: last.0,
            last_index: last.1,
            damage: damage.to_owned(),
            ..SurveyedReplica::default()
        };
        (BrokerId(broker), SurveyReply { replicas: vec![found], ..SurveyReply::default() })
    }

    fn order(answers: &[(i32, (u64, u64), &str)]) -> Vec<i32> {
        let surveyed = answers.iter().map(|(broker, last, damage)| answer(*broker, *last, damage)).collect();
        survivors(surveyed, &assigned()).iter().map(|survivor| survivor.broker.get()).collect()
    }

    #[test]
    fn who_holds_most_goes_on_whole_before_damaged() {
        assert_eq!(order(&[(1, (3, 9), ""), (2, (4, 5), ""), (3, (4, 7), "")]), [3, 2, 1]);
        assert_eq!(order(&[(1, (9, 9), "rot"), (2, (4, 5), "")]), [2, 1]);
        assert_eq!(order(&[(2, (4, 5), ""), (1, (4, 5), "")]), [1, 2]);
        assert_eq!(order(&[(7, (9, 9), "")]), [0; 0], "no replica of this partition");
    }

    #[test]
    fn a_named_broker_goes_on_even_with_nothing() {
        let surveyed = [answer(1, (3, 9), "")].into();
        let outlook = outlook(survivors(surveyed, &assigned()), &assigned(), Some(BrokerId(2)));
        assert_eq!(outlook.chosen, Some(BrokerId(2)));
        assert_eq!(outlook.given_up, [BrokerId(1), BrokerId(3)]);
        assert!(outlook.loss.contains("every record is lost"));
    }
}
