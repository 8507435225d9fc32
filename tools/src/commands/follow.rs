//! Following what the cluster does by itself, until it is done.
//!
//! A change of assignments goes on whatever becomes of the command that asked for it; asking again
//! changes nothing. So an interrupted command loses nothing, and the same one shows how far it got.

use std::time::Duration;

use headwater_client::{Admin, TopicPartition};
use headwater_proto::v1;

use crate::exit::{Exit, Failure};
use crate::output::{Output, counted, grouped};
use crate::progress::Spinner;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a look shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Done,
    /// Not yet: what is left, in words.
    Left(String),
}

/// Looks until it is done. A cluster that can't be reached for a while is waited for.
pub async fn until_done<F>(output: Output, look: impl Fn() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<Seen, Failure>>,
{
    let spinner = Spinner::new(output.quiet);
    let mut told = false;
    let outcome = loop {
        match look().await {
            Ok(Seen::Done) => break Ok(()),
            Ok(Seen::Left(left)) => {
                if !std::mem::replace(&mut told, true) {
                    output.note(
                        "waiting; if this is interrupted, it goes on, and the same command shows how far",
                    );
                }
                spinner.show(&left);
            }
            Err(failure) if failure.exit == Exit::Unreachable => spinner.show(&failure.message),
            Err(failure) => break Err(failure),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    spinner.finish();
    outcome
}

/// What the cluster says of these partitions, all of which it knows.
pub async fn look_at(
    admin: &Admin,
    partitions: &[TopicPartition],
) -> Result<Vec<v1::PartitionStatus>, Failure> {
    let mut topics: Vec<String> = partitions.iter().map(|p| p.topic.to_string()).collect();
    topics.sort();
    topics.dedup();
    let mut found = admin.list_partitions(topics, false).await?;
    found.retain(|one| {
        partitions.iter().any(|wanted| *wanted.topic == one.topic && wanted.partition == one.partition)
    });
    match found.len() < partitions.len() {
        false => Ok(found),
        true => {
            let missing = |wanted: &&TopicPartition| {
                !found.iter().any(|one| *wanted.topic == one.topic && wanted.partition == one.partition)
            };
            let missing: Vec<String> = partitions.iter().filter(missing).map(ToString::to_string).collect();
            Err(Failure::new(Exit::NotFound, format!("there is no partition {}", missing.join(", ")))
                .hint("`streamctl partition list` shows what there is"))
        }
    }
}

/// Brokers that the partition is assigned to, the preferred leader first.
pub fn assigned(partition: &v1::PartitionStatus) -> Vec<i32> {
    partition.replicas.iter().filter(|r| !r.leaving).map(|r| r.broker_id).collect()
}

/// Whether every assigned replica is a live voter that is caught up, and no other is left.
fn is_settled(partition: &v1::PartitionStatus) -> bool {
    partition.replicas.iter().all(|r| r.live && r.in_sync && !r.joining && !r.leaving)
}

/// Whether all partitions are as they are to be, by `wanted`, and what is left otherwise.
pub fn progress(partitions: &[v1::PartitionStatus], wanted: impl Fn(&v1::PartitionStatus) -> bool) -> Seen {
    let open: Vec<_> = partitions.iter().filter(|one| !wanted(one) || !is_settled(one)).collect();
    if open.is_empty() {
        return Seen::Done;
    }
    let replicas = || open.iter().flat_map(|one| &one.replicas);
    let joining = replicas().filter(|r| r.joining).count() as u64;
    let leaving = replicas().filter(|r| r.leaving).count() as u64;
    let lag: u64 = replicas().filter(|r| !r.leaving).filter_map(|r| r.lag_entries).sum();
    let left = counted(open.len() as u64, "partition");
    Seen::Left(format!("{left} to go: {joining} joining, {leaving} leaving, {} entries behind", grouped(lag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(broker_id: i32, joining: bool, leaving: bool) -> v1::ReplicaStatus {
        let lag_entries = Some(if joining { 1_500 } else { 0 });
        v1::ReplicaStatus {
            broker_id,
            live: true,
            in_sync: !joining,
            joining,
            leaving,
            lag_entries,
            ..Default::default()
        }
    }

    #[test]
    fn a_move_is_done_when_the_new_replicas_are_in_and_the_old_ones_out() {
        let mut partition = v1::PartitionStatus {
            replicas: vec![replica(2, false, false), replica(4, true, false), replica(1, false, true)],
            ..Default::default()
        };
        assert_eq!(assigned(&partition), [2, 4]);
        let there = |one: &v1::PartitionStatus| assigned(one) == [2, 4];
        let Seen::Left(left) = progress(&[partition.clone()], there) else { panic!("it is under way") };
        assert_eq!(left, "1 partition to go: 1 joining, 1 leaving, 1,500 entries behind");
        partition.replicas = vec![replica(2, false, false), replica(4, false, false)];
        assert_eq!(progress(&[partition.clone()], there), Seen::Done);
        assert_ne!(progress(&[partition], |one| assigned(one) == [2, 5]), Seen::Done);
    }
}
