//! Who leads, once all is calm.

use std::cell::Cell;
use std::time::Duration;

use headwater_core::metadata::BrokerState;
use headwater_proto::types::BrokerId;
use tokio::time::Instant;

use super::{assigned, cluster};
use crate::steward::leaders::{Fitness, Steadiness};

#[tokio::test(start_paused = true)]
async fn leaders_give_way_to_the_preferred_one_once_all_is_calm() {
    let state = cluster(&[1, 2, 3]);
    let partition = assigned(&state);
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let mut steadiness = Steadiness::default();
    let everyone = |alive: &'static [i32]| (1..=5).map(move |id| (BrokerId(id), alive.contains(&id)));
    steadiness.note(everyone(&[2, 3]), at(0));
    steadiness.note(everyone(&[1, 2, 3]), at(5));
    let behind = Cell::new(0);
    let successor = |own, led_since, now, drained: i32, steadiness: &Steadiness, after| {
        let state_of =
            |id| Some(if id == BrokerId(drained) { BrokerState::Draining } else { BrokerState::Active });
        let is_behind = |id| id == BrokerId(behind.get());
        let fitness = Fitness {
            state_of: &state_of,
            steadiness,
            is_behind: &is_behind,
            balance_after: after,
            now: at(now),
        };
        fitness.successor(BrokerId(own), partition, at(led_since), |_| true).map(BrokerId::get)
    };
    let after = Some(Duration::from_secs(10));
    assert_eq!(successor(2, 0, 14, 0, &steadiness, after), None, "the preferred one has just come back");
    assert_eq!(successor(2, 0, 15, 0, &steadiness, after), Some(1));
    behind.set(1);
    assert_eq!(successor(2, 0, 15, 0, &steadiness, after), None, "replicas are brought to the preferred one");
    behind.set(2);
    assert_eq!(successor(1, 6, 6, 1, &steadiness, after), Some(2), "who is drained does not wait for that");
    behind.set(0);
    assert_eq!(successor(2, 6, 15, 0, &steadiness, after), None, "it has just begun to lead");
    assert_eq!(successor(2, 0, 15, 0, &steadiness, None), None, "leaders stay");
    assert_eq!(successor(1, 0, 99, 0, &steadiness, after), None);
    assert_eq!(successor(1, 6, 6, 1, &steadiness, after), Some(2), "drained at once");
    assert_eq!(successor(2, 0, 99, 1, &steadiness, after), None, "the preferred one is drained");
    steadiness.note(everyone(&[1, 3]), at(20));
    assert_eq!(successor(1, 6, 20, 1, &steadiness, after), Some(3), "to one that is there");
}
