//! The store against a vector, with power cuts in between: whatever openraft may ask for, in any order.

use std::time::Duration;

use openraft::storage::{LogState, RaftLogStorage};
use proptest::prelude::*;

use super::support::{Fixture, Unit, blanks, raft_id, small_segments, vote};
use crate::types::{RaftLogId, RaftVote};

#[derive(Debug, Clone)]
enum Step {
    /// So many entries, in a term so much newer; waited for or not.
    Append {
        count: u64,
        newer: u64,
        wait: bool,
    },
    /// Keeps so many of the entries behind the purged one, as a share of 100.
    Truncate(u64),
    Purge(u64),
    Vote,
    PowerCut,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..12_u64, 0..2_u64, any::<bool>()).prop_map(|(count, newer, wait)| Step::Append { count, newer, wait }),
        2 => (0..=100_u64).prop_map(Step::Truncate),
        2 => (0..=100_u64).prop_map(Step::Purge),
        2 => Just(Step::Vote),
        2 => Just(Step::PowerCut),
    ]
}

#[derive(Debug, Default)]
struct Model {
    purged: Option<RaftLogId>,
    entries: Vec<RaftLogId>,
    /// How many of `entries` must survive a power cut.
    durable: usize,
    vote: Option<RaftVote>,
    term: u64,
}

impl Model {
    fn next_index(&self) -> u64 {
        self.entries.last().or(self.purged.as_ref()).map_or(0, |id| id.index + 1)
    }

    fn share(&self, percent: u64) -> usize {
        (self.entries.len() as u64 * percent / 100) as usize
    }

    async fn step(&mut self, step: Step, mut fixture: Fixture) -> Fixture {
        match step {
            Step::Append { count, newer, wait } => {
                self.term += newer;
                let next = self.next_index();
                let flushed = fixture.append(blanks(self.term, next..next + count)).await;
                self.entries.extend((next..next + count).map(|index| raft_id(self.term, index)));
                if wait {
                    flushed.await.unwrap().unwrap();
                    self.durable = self.entries.len();
                }
            }
            Step::Truncate(percent) => {
                let kept = self.share(percent);
                let last = kept.checked_sub(1).map(|at| self.entries[at]).or(self.purged);
                RaftLogStorage::<Unit>::truncate_after(&mut fixture.store, last).await.unwrap();
                if kept < self.entries.len() {
                    // A truncation makes what it keeps durable, and itself.
                    self.entries.truncate(kept);
                    self.durable = kept;
                }
            }
            Step::Purge(percent) => {
                let gone = self.share(percent);
                let Some(upto) = gone.checked_sub(1).map(|at| self.entries[at]) else { return fixture };
                RaftLogStorage::<Unit>::purge(&mut fixture.store, upto).await.unwrap();
                self.entries.drain(..gone);
                self.durable = self.durable.saturating_sub(gone);
                self.purged = Some(upto);
            }
            Step::Vote => {
                let saved = vote(self.term + 1);
                RaftLogStorage::<Unit>::save_vote(&mut fixture.store, &saved).await.unwrap();
                self.vote = Some(saved);
                self.durable = self.entries.len();
            }
            Step::PowerCut => {
                fixture = fixture.power_cut().await;
                let kept = fixture.log_ids().await.len();
                assert!(
                    (self.durable..=self.entries.len()).contains(&kept),
                    "{kept} entries left of {self:?}"
                );
                self.entries.truncate(kept);
                self.durable = kept;
            }
        }
        fixture
    }

    async fn check(&self, fixture: &mut Fixture) {
        assert_eq!(fixture.log_ids().await, self.entries);
        let state = RaftLogStorage::<Unit>::get_log_state(&mut fixture.store).await.unwrap();
        let last_log_id = self.entries.last().copied().or(self.purged);
        assert_eq!(state, LogState { last_purged_log_id: self.purged, last_log_id });
        assert_eq!(fixture.shared.vote(), self.vote);
    }
}

async fn run(seed: u64, steps: Vec<Step>) {
    let mut fixture = Fixture::new(seed, small_segments()).await;
    fixture.disk.set_sync_latency(Duration::from_millis(2));
    let mut model = Model::default();
    for step in steps {
        fixture = model.step(step, fixture).await;
        model.check(&mut fixture).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_vector_that_survives_power_cuts(
        seed in any::<u64>(),
        steps in prop::collection::vec(any_step(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed, steps));
    }
}
