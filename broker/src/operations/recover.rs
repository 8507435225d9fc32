//! Going on with one replica after a majority is lost for good.
//!
//! Invariants: nothing is given up unless the caller says so, having been told what; a partition that has a leader,
//! or whose replicas could elect one, is left alone; the chosen replica goes on above every term that anybody was
//! ever heard to lead in.

use std::sync::Arc;

use headwater_core::metadata::{Command, Partition as Assignment, Survivor as Choice, Topic};
use headwater_core::placement::{Pool, regrow};
use headwater_proto::types::{BrokerId, GroupId, PartitionId, ReplicaId, Term};
use headwater_proto::v1::{FollowerLag, SurveyedReplica};

use super::survey::Surveyed;
use super::{find, known_broker};
use crate::error::RequestError;
use crate::node::Node;

/// A follower that was silent for as long does not help its leader: several times what any timer allows.
const LOST_AFTER_MS: u64 = 5_000;

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
    /// The highest term that anybody is known to have led in.
    pub above: Term,
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
        let (topic, assigned) = find(self, topic, partition).await?;
        let group = GroupId { topic_id: topic.id, partition: PartitionId(partition) };
        let survivor = match survivor {
            Some(broker) => Some(known_broker(self, broker).await?),
            None => None,
        };
        let survivors = survivors(self.survey(&[group]).await, &assigned);
        if let Some(hope) = hope(&survivors, &assigned) {
            return Err(RequestError::Invalid(hope));
        }
        let outlook = outlook(survivors, &assigned, survivor, self.cluster().highest_term(group));
        if accept_loss {
            self.give_up(&topic, group, &assigned, &outlook).await?;
        }
        Ok(outlook)
    }

    async fn give_up(
        &self,
        topic: &Topic,
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
        let (replicas, cluster) = (assigned.replicas.len().max(topic.replica_count()), self.cluster());
        let others = self.controller().with_state(|state| {
            regrow(topic, &Pool::of(state, |broker| cluster.alive(broker)), chosen, replicas)
        });
        tracing::warn!(
            topic = topic.name,
            %group,
            survivor = %chosen,
            ?others,
            loss = outlook.loss,
            "a loss is accepted: the partition goes on with one replica"
        );
        let command = Command::RecoverPartition {
            topic: group.topic_id,
            partition: group.partition,
            epoch: assigned.epoch,
            survivor: choice,
            above: outlook.above,
            others,
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

/// Why nothing is lost, if that is so: those that answer are enough to elect a leader, or a leader hears from enough.
/// A leader that lost the others does not step down, and says still that it leads. A replica that was only just begun,
/// on an emptied disk, holds nothing and has no vote.
fn hope(survivors: &[Survivor], assigned: &Assignment) -> Option<String> {
    let founders = || vec![assigned.created_with.iter().map(|replica| replica.id.get()).collect::<Vec<_>>()];
    let informed = survivors.iter().filter(|survivor| !survivor.found.configs.is_empty());
    let newest = informed.max_by_key(|survivor| (survivor.found.last_term, survivor.found.last_index));
    let configs = newest.map_or_else(founders, |newest| {
        newest.found.configs.iter().map(|config| config.replica_ids.clone()).collect()
    });
    let is_majority = |votes: &dyn Fn(u64) -> bool| {
        configs.iter().all(|voters| voters.iter().filter(|voter| votes(**voter)).count() * 2 > voters.len())
    };
    let is_whole = |voter| {
        survivors.iter().any(|s| s.found.replica_id == voter && s.found.damage.is_empty() && !s.found.torn)
    };
    let leader = survivors.iter().max_by_key(|s| s.found.leads_in).filter(|s| s.found.leads_in > 0);
    let hears = |leader: &Survivor, voter| {
        let heard = |follower: &FollowerLag| {
            follower.replica_id == voter && follower.silent_ms.is_some_and(|silent| silent < LOST_AFTER_MS)
        };
        leader.found.replica_id == voter || leader.found.followers.iter().any(heard)
    };
    match leader {
        Some(leader) if is_majority(&is_whole) || is_majority(&|voter| hears(leader, voter)) => {
            let broker = leader.broker;
            Some(format!("broker {broker} leads the partition: nothing is lost that could be given up"))
        }
        None if is_majority(&is_whole) => {
            Some("a majority of the voters is there and whole: they elect a leader by themselves".to_owned())
        }
        _ => None,
    }
}

fn outlook(
    survivors: Vec<Survivor>,
    assigned: &Assignment,
    named: Option<BrokerId>,
    announced: Term,
) -> Outlook {
    let last_terms = survivors.iter().map(|survivor| Term(survivor.found.last_term));
    // Each decision is above the one before, or nobody would see that there is another.
    let decided = assigned.recovered_above.map_or(Term(0), |above| Term(above.get() + 1));
    let above = last_terms.fold(announced.max(decided), Term::max);
    let chosen = named.or_else(|| survivors.first().map(|survivor| survivor.broker));
    let given_up = assigned.brokers().filter(|broker| Some(*broker) != chosen).collect();
    let kept = survivors.iter().find(|survivor| Some(survivor.broker) == chosen);
    let loss = match (kept, chosen) {
        (Some(Survivor { broker, found }), _) => format!(
            "broker {broker} holds the records below offset {}, of which those below {} are known to be committed; \
             what was acknowledged beyond {}, and is only on the replicas that are given up, is lost{}",
            found.log_end_offset,
            found.high_watermark,
            found.log_end_offset,
            if found.damage.is_empty() { String::new() } else { format!(" ({})", found.damage) },
        ),
        (None, Some(broker)) => format!("broker {broker} begins with nothing: every record is lost"),
        (None, None) => "no replica answers: every record is lost".to_owned(),
    };
    Outlook { survivors, chosen, given_up, above, loss }
}

#[cfg(test)]
mod tests {
    use headwater_core::metadata::Replica;
    use headwater_proto::types::Incarnation;
    use headwater_proto::v1::{self, SurveyReply};

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
    fn only_a_majority_of_those_who_vote_elects() {
        let elects = |answers: &[(u64, &str, &[&[u64]])]| {
            let survivor = |(replica, damage, configs): &(u64, &str, &[&[u64]])| Survivor {
                broker: BrokerId(1),
                found: SurveyedReplica {
                    replica_id: *replica,
                    last_index: configs.len() as u64,
                    damage: (*damage).to_owned(),
                    configs: configs.iter().map(|ids| v1::VoterSet { replica_ids: ids.to_vec() }).collect(),
                    ..SurveyedReplica::default()
                },
            };
            hope(&answers.iter().map(survivor).collect::<Vec<_>>(), &assigned()).is_some()
        };
        let voters: &[&[u64]] = &[&[1_001, 1_002, 1_003]];
        let joint: &[&[u64]] = &[&[1_001, 1_002, 1_003], &[1_001, 1_004, 1_005]];
        assert!(elects(&[(1_001, "", voters), (1_002, "", voters)]));
        assert!(!elects(&[(1_001, "", voters), (1_002, "rot", voters)]));
        assert!(!elects(&[(1_001, "", voters), (1_009, "", &[]), (1_010, "", &[])]), "just begun");
        assert!(!elects(&[(1_001, "", joint), (1_004, "", joint), (1_005, "", joint)]));
        assert!(elects(&[(1_001, "", joint), (1_004, "", joint), (1_002, "", joint)]));
        assert!(elects(&[(1_001, "", &[]), (1_002, "", &[])]), "founders");
        assert!(!elects(&[]));
    }

    #[test]
    fn a_leader_that_lost_the_others_leads_nothing() {
        let says = |silent_ms: &[Option<u64>]| {
            let lag = |(n, silent_ms): (u64, &Option<u64>)| v1::FollowerLag {
                replica_id: n,
                silent_ms: *silent_ms,
                ..v1::FollowerLag::default()
            };
            let found = SurveyedReplica {
                replica_id: 1_001,
                leads_in: 4,
                followers: (1_002..).zip(silent_ms).map(lag).collect(),
                ..SurveyedReplica::default()
            };
            hope(&[Survivor { broker: BrokerId(1), found }], &assigned())
        };
        assert!(says(&[Some(20), Some(9_000)]).is_some_and(|said| said.contains("broker 1 leads")));
        assert_eq!(says(&[Some(9_000), None]), None);
    }

    #[test]
    fn a_named_broker_goes_on_even_with_nothing() {
        let surveyed = [answer(1, (3, 9), "")].into();
        let outlook = outlook(survivors(surveyed, &assigned()), &assigned(), Some(BrokerId(2)), Term(7));
        assert_eq!(outlook.above, Term(7));
        assert_eq!(outlook.chosen, Some(BrokerId(2)));
        assert_eq!(outlook.given_up, [BrokerId(1), BrokerId(3)]);
        assert!(outlook.loss.contains("every record is lost"));
    }

    #[test]
    fn a_second_decision_is_above_the_first() {
        let decided = Assignment { recovered_above: Some(Term(7)), ..assigned() };
        let again = outlook(Vec::new(), &decided, Some(BrokerId(2)), Term(0));
        assert_eq!(again.above, Term(8));
    }
}
