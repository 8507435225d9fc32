//! Following what the cluster does by itself, until it is done.
//!
//! A change of assignments goes on whatever becomes of the command that asked for it; asking again
//! changes nothing. So an interrupted command loses nothing, and the same one shows how far it got.

use std::time::Duration;

use headwater_client::{Admin, TopicPartition};
use headwater_proto::v1;
use tokio::time::Instant;

use crate::exit::{Exit, Failure};
use crate::output::{Output, counted, grouped};
use crate::progress::Spinner;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An amount that changes all the time is told again after this, where there is no terminal to draw it on.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Partitions that are named; of more, only the number.
const NAMES_MAX: usize = 5;

/// What a look shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Done,
    /// Not yet: what is left, in words, and what of it changes all the time.
    Left {
        what: String,
        detail: String,
    },
}

/// Looks until it is done. A cluster that can't be reached for a while is waited for.
pub async fn until_done<F>(output: Output, look: impl Fn() -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<Seen, Failure>>,
{
    let mut teller = Teller::new(output);
    let outcome = loop {
        match look().await {
            Ok(Seen::Done) => break Ok(()),
            Ok(Seen::Left { what, detail }) => teller.tell(&what, &detail),
            Err(failure) if failure.exit == Exit::Unreachable => teller.tell(&failure.message, ""),
            Err(failure) => break Err(failure),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    teller.spinner.finish();
    outcome
}

/// Shows what is left: drawn on a terminal, and otherwise on a line when it has changed.
struct Teller {
    output: Output,
    spinner: Spinner,
    told: Option<Told>,
}

struct Told {
    what: String,
    detail: String,
    at: Instant,
}

impl Teller {
    fn new(output: Output) -> Self {
        Self { output, spinner: Spinner::new(output.quiet), told: None }
    }

    fn tell(&mut self, what: &str, detail: &str) {
        let line = if detail.is_empty() { what.to_owned() } else { format!("{what} ({detail})") };
        if self.told.is_none() {
            self.output
                .note("waiting; if this is interrupted, it goes on, and the same command shows how far");
        }
        self.spinner.show(&line);
        if !is_news(self.told.as_ref(), what, detail, Instant::now()) {
            return;
        }
        if !self.spinner.is_drawn() {
            self.output.note(&line);
        }
        self.told = Some(Told { what: what.to_owned(), detail: detail.to_owned(), at: Instant::now() });
    }
}

fn is_news(told: Option<&Told>, what: &str, detail: &str, now: Instant) -> bool {
    told.is_none_or(|told| {
        told.what != what || (told.detail != detail && now.saturating_duration_since(told.at) >= TELL_EVERY)
    })
}

/// `orders/3, orders/4`, and how many more.
pub fn names(partitions: &[v1::PartitionStatus]) -> String {
    let mut all: Vec<(&str, i32)> =
        partitions.iter().map(|one| (one.topic.as_str(), one.partition)).collect();
    all.sort_unstable();
    let named: Vec<String> =
        all.iter().take(NAMES_MAX).map(|(topic, partition)| format!("{topic}/{partition}")).collect();
    match all.len().saturating_sub(NAMES_MAX) {
        0 => named.join(", "),
        more => format!("{} and {} more", named.join(", "), grouped(more as u64)),
    }
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
            Err(no_partition(&missing.join(", ")))
        }
    }
}

pub fn no_partition(names: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no partition {names}"))
        .hint("`streamctl partition list` shows what there is")
}

/// Brokers that the partition is assigned to, the preferred leader first.
pub fn assigned(partition: &v1::PartitionStatus) -> Vec<i32> {
    partition.replicas.iter().filter(|r| !r.leaving).map(|r| r.broker_id).collect()
}

/// Whether a replica is still to come, or to go.
pub fn is_moving(partition: &v1::PartitionStatus) -> bool {
    partition.replicas.iter().any(|replica| replica.joining || replica.leaving)
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
    let open: Vec<v1::PartitionStatus> = open.iter().map(|one| (*one).clone()).collect();
    Seen::Left {
        what: format!("{left} to go: {}; {joining} joining, {leaving} leaving", names(&open)),
        detail: format!("{} entries behind", grouped(lag)),
    }
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
            topic: "orders".into(),
            partition: 3,
            replicas: vec![replica(2, false, false), replica(4, true, false), replica(1, false, true)],
            ..Default::default()
        };
        assert_eq!(assigned(&partition), [2, 4]);
        let there = |one: &v1::PartitionStatus| assigned(one) == [2, 4];
        let left = Seen::Left {
            what: "1 partition to go: orders/3; 1 joining, 1 leaving".into(),
            detail: "1,500 entries behind".into(),
        };
        assert_eq!(progress(&[partition.clone()], there), left);
        partition.replicas = vec![replica(2, false, false), replica(4, false, false)];
        assert_eq!(progress(&[partition.clone()], there), Seen::Done);
        assert_ne!(progress(&[partition], |one| assigned(one) == [2, 5]), Seen::Done);
    }

    #[test]
    fn many_partitions_are_counted_and_a_few_named() {
        let partitions: Vec<v1::PartitionStatus> = (0..12)
            .rev()
            .map(|partition| v1::PartitionStatus { topic: "t".into(), partition, ..Default::default() })
            .collect();
        assert_eq!(names(&partitions), "t/0, t/1, t/2, t/3, t/4 and 7 more");
        assert_eq!(names(&partitions[10..]), "t/0, t/1");
    }

    #[test]
    fn a_change_is_told_at_once_and_an_amount_now_and_then() {
        let at = Instant::now();
        let told = Told { what: "2 to go".into(), detail: "9 behind".into(), at };
        let is_news = |what, detail, after| is_news(Some(&told), what, detail, at + after);
        assert!(is_news("1 to go", "9 behind", Duration::ZERO));
        assert!(!is_news("2 to go", "8 behind", Duration::ZERO));
        assert!(is_news("2 to go", "8 behind", TELL_EVERY));
        assert!(!is_news("2 to go", "9 behind", TELL_EVERY));
    }
}
