//! What a replica is in its group, and when that changes.

use headwater_core::Machine;
use headwater_proto::types::{ReplicaId, Term};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::applied::Progress;
use crate::group::Group;

/// A replica's part in its group, as it knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Role {
    /// The term in which it leads, with everything of earlier terms applied.
    pub leads: Option<Term>,
    /// The replica that leads.
    pub leader: Option<ReplicaId>,
    pub term: Term,
}

impl<M: Machine> Group<M> {
    /// What this replica is now.
    #[must_use]
    pub fn role(&self) -> Role {
        let Some(raft) = &self.raft else { return Role::default() };
        let leads = self.leadership().map(|leadership| leadership.term);
        let server = raft.server_metrics();
        let server = server.borrow_watched();
        Role { leads, leader: server.current_leader, term: Term(server.vote.leader_id.term) }
    }

    /// Waits until the role is another than `known`. Costs nothing meanwhile, however busy the group is, unless it
    /// was elected and has not applied what came before. `None`: the group has stopped, or never ran.
    pub async fn role_changed(&self, known: Role) -> Option<Role> {
        let raft = self.raft.as_ref()?;
        let (mut server, mut metrics) = (raft.server_metrics(), raft.metrics());
        let mut progress = self.progress();
        loop {
            // Marked as seen before it is looked at: what changes from here on wakes the wait.
            let elected = server.borrow_and_update().state.is_leader();
            progress.borrow_and_update();
            metrics.borrow_and_update();
            let role = self.role();
            if role != known {
                return Some(role);
            }
            let about_to_lead = elected && role.leads.is_none();
            tokio::select! {
                changed = server.changed() => changed.ok()?,
                () = applied_more(&mut progress, about_to_lead) => {}
                // Raft publishes what a quorum answered, and all of what it is, after the news of its election, and
                // maybe after the entry was applied: without this, who looked in between would wait for ever.
                changed = metrics.changed(), if about_to_lead => changed.ok()?,
            }
        }
    }
}

async fn applied_more(progress: &mut watch::Receiver<Progress>, matters: bool) {
    if !matters || progress.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
