//! Trouble in a cluster: who leads, who is down, who hangs, from one seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use super::Fake;

/// How long a cluster takes to replace a leader that is gone.
const FAILOVER_MS: u64 = 900;

/// What happens meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub seed: u64,
    pub lasts: Duration,
}

/// Plays a script to its end; all is well again then. Gives how often each kind of trouble came.
pub async fn trouble(fake: Fake, script: Script) -> [u32; 5] {
    let mut rng = StdRng::seed_from_u64(script.seed);
    let until = Instant::now() + script.lasts;
    let mut kinds = [0; 5];
    while Instant::now() < until {
        let kind = rng.random_range(0..kinds.len());
        kinds[kind] += 1;
        match kind {
            0 => hand_over(&fake, &mut rng).await,
            1 => elect_after_a_gap(&fake, &mut rng).await,
            2 => {
                let node = any_node(&fake, &mut rng);
                fake.lock().cut_node(node);
            }
            3 => kill(&fake, &mut rng).await,
            _ => hang(&fake, &mut rng).await,
        }
        sleep(Duration::from_millis(rng.random_range(0..150))).await;
    }
    fake.change(|state| {
        for node in &mut state.nodes {
            (node.down, node.hung) = (false, false);
        }
        state.topics.values_mut().flatten().for_each(super::FakeLog::inform);
    });
    kinds
}

fn any_node(fake: &Fake, rng: &mut StdRng) -> i32 {
    rng.random_range(0..fake.lock().nodes.len() as i32)
}

fn any_partition(fake: &Fake, rng: &mut StdRng) -> i32 {
    rng.random_range(0..fake.lock().topics["t"].len() as i32)
}

fn inform(fake: &Fake, partition: i32) {
    fake.change(|state| state.log("t", partition).unwrap().inform());
}

/// A live leader gives way to another; some hear of it late, the old leader perhaps among them.
async fn hand_over(fake: &Fake, rng: &mut StdRng) {
    let partition = any_partition(fake, rng);
    let to = any_node(fake, rng);
    let nodes = fake.lock().nodes.len() as i32;
    let uninformed: Vec<i32> = (0..nodes).filter(|_| rng.random_bool(0.5)).collect();
    fake.elect(partition, to, &uninformed);
    sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
    inform(fake, partition);
}

/// Nobody leads for a while.
async fn elect_after_a_gap(fake: &Fake, rng: &mut StdRng) {
    let partition = any_partition(fake, rng);
    fake.elect(partition, -1, &[]);
    sleep(Duration::from_millis(rng.random_range(50..FAILOVER_MS))).await;
    let to = any_node(fake, rng);
    fake.elect(partition, to, &[]);
}

/// A broker is gone for a while; others take over what it led.
async fn kill(fake: &Fake, rng: &mut StdRng) {
    let node = any_node(fake, rng);
    fake.lock().kill(node);
    replace_leader(fake, rng, node, &[]).await;
    fake.change(|state| state.node(node).down = false);
}

/// A broker stops in the middle of everything, goes on later, and learns last what has happened.
async fn hang(fake: &Fake, rng: &mut StdRng) {
    let node = any_node(fake, rng);
    fake.lock().node(node).hung = true;
    replace_leader(fake, rng, node, &[node]).await;
    fake.change(|state| state.node(node).hung = false);
    sleep(Duration::from_millis(rng.random_range(0..50))).await;
    fake.change(|state| state.topics.values_mut().flatten().for_each(super::FakeLog::inform));
}

async fn replace_leader(fake: &Fake, rng: &mut StdRng, gone: i32, uninformed: &[i32]) {
    sleep(Duration::from_millis(FAILOVER_MS)).await;
    let nodes = fake.lock().nodes.len() as i32;
    let partitions = fake.lock().topics["t"].len() as i32;
    for partition in 0..partitions {
        if fake.lock().log("t", partition).unwrap().leader == gone {
            let to = (gone + rng.random_range(1..nodes)) % nodes;
            fake.elect(partition, to, uninformed);
        }
    }
    sleep(Duration::from_millis(rng.random_range(0..1_000))).await;
}
