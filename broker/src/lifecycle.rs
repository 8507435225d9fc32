//! How a node comes up, and follows the metadata.
//!
//! Invariants: what lies on disk is judged by metadata only once that is current, see [`crate::controller::Registry`];
//! nothing here waits for a quorum but in the background.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use headwater_consensus::Group;
use headwater_consensus::Health;
use headwater_core::Machine;
use headwater_proto::types::{BrokerId, ClusterId, ReplicaId, Term};
use tokio::sync::watch;

use crate::cluster::LocalGroup;
use crate::controller::rejoin::{self, Word};
use crate::controller::{EntranceError, IdentityError, cluster_of, probe_request, recovered_above, seeds};
use crate::error::RequestError;
use crate::failed;
use crate::node::{Node, NodeError};
use crate::operations::watch_disk;
use crate::retention;
use crate::scrub;
use crate::steward;

/// One attempt to learn how far the metadata is.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts at what needs the metadata's leader.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long a broker may take to say who it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Between two rounds of asking the other brokers whether this one belongs to them, while nobody leads the metadata,
/// and later.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);
const LOOK_AROUND_AFTER: Duration = Duration::from_secs(10);

/// Opens what can be opened, and leaves what needs other brokers to the background.
pub async fn bring_up(node: &Arc<Node>) -> Result<(), NodeError> {
    let group = node.controller().group();
    let looked_around = watch::Sender::new(false);
    if is_sole_voter(group) || group.health() != Health::Running {
        // Others may have been told to go on without it.
        if let Some(error) = objection(node, false).await {
            return Err(error);
        }
        group.wait_leader().await?;
        become_current(node).await?;
    } else {
        node.host().wait_for("waiting for the brokers that hold the metadata to elect a leader");
        node.cluster().hold_elections(true);
        node.registry().follow(group, false).await;
        node.tasks().spawn(catch_up(Arc::clone(node), looked_around.subscribe()));
    }
    node.tasks().spawn(look_around(Arc::clone(node), looked_around));
    learn_brokers(node).await;
    node.cluster().enlist(Arc::clone(node.controller().group()) as Arc<dyn LocalGroup>);
    node.cluster().start();
    node.tasks().spawn(watch_disk(Arc::clone(node)));
    node.tasks().spawn(follow_metadata(Arc::clone(node)));
    node.tasks().spawn(keep_metadata_log_short(Arc::clone(node)));
    node.tasks().spawn(steward::run(Arc::clone(node)));
    node.tasks().spawn(failed::run(Arc::clone(node)));
    node.tasks().spawn(retention::run(Arc::clone(node)));
    node.tasks().spawn(scrub::rounds(Arc::clone(node)));
    node.tasks().spawn(scrub::suspects(Arc::clone(node)));
    Ok(())
}

/// Whether nobody else votes in the group.
fn is_sole_voter<M: Machine>(group: &Group<M>) -> bool {
    group.membership().voters().into_iter().eq([group.replica_id()])
}

/// The metadata reflects everything that this broker went by before: says who it is, and clears up.
async fn become_current(node: &Arc<Node>) -> Result<(), NodeError> {
    let controller = node.controller();
    controller.register(node.host().broker()).await.map_err(NodeError::Register)?;
    controller.settle_recovery(node.data_dir()).await.map_err(NodeError::Register)?;
    node.registry().delete_leftovers(controller.group()).await.map_err(NodeError::Leftovers)?;
    controller.set_current();
    node.registry().follow(controller.group(), true).await;
    node.cluster().hold_elections(false);
    node.host().wait_for("");
    Ok(())
}

/// Waits for a leader of the metadata, until there is one. The others are asked first whether this broker's replica was
/// given up: leaders of what was given up may elect one another.
async fn catch_up(node: Arc<Node>, mut looked_around: watch::Receiver<bool>) {
    let attempts = async {
        if looked_around.wait_for(|looked| *looked).await.is_err() {
            return;
        }
        loop {
            let error = match node.controller().catch_up(CATCH_UP_WITHIN).await {
                Ok(()) => match become_current(&node).await {
                    Ok(()) => return,
                    Err(NodeError::Register(error)) if is_final(&error) => {
                        let refused = EntranceError::Refused(error.to_string());
                        return node.host().fail(refused.into());
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            tracing::debug!(error, "not current yet");
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    };
    tokio::select! {
        () = attempts => {}
        () = node.stop().cancelled() => {}
    }
}

/// Whether the cluster will never have this broker.
fn is_final(error: &RequestError) -> bool {
    let code = error.code();
    !code.is_retriable() && matches!(error, RequestError::Metadata(_) | RequestError::Elsewhere { .. })
}

/// Asks the brokers of the configuration, and those that were known last, whether this broker belongs to them still.
async fn look_around(node: Arc<Node>, looked_around: watch::Sender<bool>) {
    loop {
        let is_current = *node.controller().current().borrow();
        let stop = node.stop().clone();
        let found = tokio::select! {
            found = objection(&node, is_current) => found,
            () = stop.cancelled() => return,
        };
        if let Some(error) = found {
            return node.host().fail(error);
        }
        looked_around.send_replace(true);
        let pause = if is_current { LOOK_AROUND_AFTER } else { ASK_AGAIN_AFTER };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Why this broker must not go on, as the others see it.
async fn objection(node: &Node, is_current: bool) -> Option<NodeError> {
    let (own, cluster_id) = (node.controller().broker_id(), node.controller().cluster_id());
    let request = probe_request(node.transport(), node.data_dir().incarnation());
    let mut asked = seeds(&node.config().cluster, own);
    let listed = asked.len();
    asked.extend(node.known().addresses().into_iter().map(|(id, address)| (Some(id), address)));
    let ask = |(_, address): (Option<BrokerId>, String)| {
        let request = request.clone();
        async move { node.transport().probe(&address, request, ANSWER_WITHIN).await }
    };
    let answers = join_all(asked.into_iter().map(ask)).await;
    let mut others = BTreeMap::new();
    for (place, answer) in answers.into_iter().enumerate() {
        let Ok(answer) = answer else { continue };
        let found = cluster_of(&answer);
        if found == Some(cluster_id) && !answer.refused.is_empty() {
            return Some(EntranceError::Refused(answer.refused).into());
        }
        let group = node.controller().group();
        let word = Word {
            recovered_above: Term(answer.metadata_recovered_above),
            yours: (answer.your_replica != 0).then_some(ReplicaId(answer.your_replica)),
        };
        if found == Some(cluster_id) && word.gives_up(group.replica_id(), recovered_above(group)) {
            let noted = rejoin::note_given_up(node.data_dir(), word.recovered_above).await;
            return Some(
                noted.map_or_else(|error| IdentityError::from(error).into(), |()| NodeError::GivenUp),
            );
        }
        if place < listed {
            others.insert(BrokerId(answer.broker_id), found);
        }
    }
    let other = elsewhere(cluster_id, listed, &others).filter(|_| !is_current)?;
    Some(EntranceError::OtherCluster { own: cluster_id, other }.into())
}

/// The cluster that all brokers of the configuration are in, where that is not this broker's.
fn elsewhere(
    own: ClusterId,
    listed: usize,
    answers: &BTreeMap<BrokerId, Option<ClusterId>>,
) -> Option<ClusterId> {
    let first = answers.values().next().copied().flatten().filter(|first| *first != own)?;
    let all = answers.len() == listed && answers.values().all(|answer| *answer == Some(first));
    all.then_some(first)
}

/// Opens and deletes replicas as the metadata changes.
async fn follow_metadata(node: Arc<Node>) {
    let (mut progress, mut current) = (node.controller().group().progress(), node.controller().current());
    loop {
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            _ = current.changed() => {}
            () = node.stop().cancelled() => return,
        }
        learn_brokers(&node).await;
        let is_current = *current.borrow_and_update();
        node.registry().follow(node.controller().group(), is_current).await;
    }
}

/// Who the other brokers are, for those who ping and dial them, and for the journal.
async fn learn_brokers(node: &Node) {
    let controller = node.controller();
    let is_current = *controller.current().borrow();
    let book = node.transport().addresses();
    let own = controller.broker_id();
    let (registered, groups): (Vec<_>, BTreeSet<_>) = controller.with_state(|state| {
        (state.brokers().cloned().collect(), state.groups().map(|(group, _)| group).collect())
    });
    let members = controller.group().membership().peers.into_values().chain(controller.founders());
    let mut brokers: BTreeSet<_> = members.map(|peer| peer.broker_id).collect();
    let mut addresses = BTreeMap::new();
    for broker in registered.into_iter().filter(|broker| broker.id != own) {
        book.register(broker.id, broker.incarnation, &broker.peer_address);
        brokers.insert(broker.id);
        addresses.insert(broker.id, broker.peer_address);
    }
    if is_current {
        for gone in book.brokers().into_iter().filter(|id| !brokers.contains(id)) {
            book.remove(gone);
        }
    }
    node.cluster().know(&brokers, |group| !is_current || groups.contains(&group));
    // A state that is behind knows less than the journal, and one without the others cannot lead to them.
    let known = node.known().addresses();
    let kept = known.into_iter().filter(|(id, _)| !is_current || brokers.contains(id));
    let addresses = kept.chain(addresses).collect();
    if let Err(error) = node.known().note(node.data_dir(), addresses).await {
        tracing::warn!(%error, "where the other brokers are could not be noted");
    }
}

async fn keep_metadata_log_short(node: Arc<Node>) {
    let segment_bytes = node.config().cluster.metadata_segment_bytes;
    let interval = Duration::from_millis(node.config().storage.retention_check_interval_ms);
    while tokio::time::timeout(interval, node.stop().cancelled()).await.is_err() {
        tokio::select! {
            () = node.controller().trim_log(segment_bytes) => {}
            () = node.stop().cancelled() => return,
        }
    }
}
