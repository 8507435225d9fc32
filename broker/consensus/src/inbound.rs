//! Answers what a replica's peers ask of it.
//!
//! Invariants: Raft sees only what was decoded and checked, byte for byte; a replica whose tail was torn neither votes
//! nor campaigns before that is made good; a vote is answered once it is durable; who has just voted grants no pre-vote
//! for half a time-out. A request that was answered already, or comes late, does no harm: Raft's rules see to that.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use headwater_core::{DecodeError, Machine};
use headwater_proto::types::Term;
use headwater_storage::log::LogId;
use openraft::errors::Fatal;
use openraft::raft::{AppendEntriesRequest, VoteResponse};
use tokio::time::{Duration, Instant};

use crate::applied::Applied;
use crate::driver::to_snapshot;
use crate::group::{Group, GroupRaft};
use crate::peer::{Body, GroupRequest, Refusal, Replica, RequestKind};
use crate::types::{Payload, RaftVote, Types, from_raft, to_raft};
use crate::wire;

/// When this replica last voted in earnest.
#[derive(Debug, Default)]
pub(crate) struct LastVote(Mutex<Option<Instant>>);

impl LastVote {
    fn at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        *self.at() = Some(Instant::now());
    }

    /// Whether its candidate is about to lead: who asks for a pre-vote now has only not heard of it yet, and would unseat
    /// it. Less than a time-out, so that who lost may ask again when its own is over.
    fn was_within(&self, lately: Duration) -> bool {
        self.at().is_some_and(|at| at.elapsed() < lately)
    }
}

/// How the peers of a group reach it. The group is whose handle is held elsewhere.
#[derive(Debug)]
pub(crate) struct Inbound<M: Machine>(pub(crate) Weak<Group<M>>);

#[async_trait]
impl<M: Machine> Replica for Inbound<M> {
    async fn answer(&self, request: GroupRequest) -> Result<Body, Refusal> {
        let Some(group) = self.0.upgrade() else {
            return Err(Refusal::Stopped("it was given up".to_owned()));
        };
        let Some(raft) = &group.raft else { return Err(Refusal::Stopped("its log is damaged".to_owned())) };
        group.stir(request.kind);
        let body = request.body.into_bytes();
        match request.kind {
            RequestKind::Append | RequestKind::Heartbeat => group.answer_append(raft, body).await,
            RequestKind::Vote => group.answer_vote(raft, body, false).await,
            RequestKind::PreVote => group.answer_vote(raft, body, true).await,
            RequestKind::TransferLeader => group.answer_transfer(raft, body).await,
            RequestKind::Snapshot => group.answer_snapshot(raft, body).await,
            RequestKind::LogEnds => group.answer_log_ends(request.from, body).await,
        }
    }
}

impl<M: Machine> Group<M> {
    async fn answer_append(&self, raft: &GroupRaft<M>, body: Bytes) -> Result<Body, Refusal> {
        let request = wire::decode_append(body).map_err(|error| unreadable(&error))?;
        self.check_sender(&request.vote)?;
        self.check_offset(&request)?;
        let answer = raft.append_entries(request).await.map_err(|error| stopped(&error))?;
        wire::encode_appended(&answer).ok_or_else(|| Refusal::Stopped("it took a part only".to_owned()))
    }

    /// A leader that remembers more of this replica than a torn tail left would take it for a broken one.
    fn check_sender(&self, leader: &RaftVote) -> Result<(), Refusal> {
        if self.may_append(Term(leader.leader_id.term)) { Ok(()) } else { Err(Refusal::TornTail) }
    }

    /// The leader's offsets must go on where this log's do. The store looks again as it appends, but there a
    /// contradiction ends the group.
    fn check_offset(&self, request: &AppendEntriesRequest<Types<M::Reply>>) -> Result<(), Refusal> {
        let (Some(first), Some(prev)) = (request.entries.first(), &request.prev_log_id) else {
            return Ok(());
        };
        let Payload::Stored(first) = &first.payload else { return Ok(()) };
        let prev = from_raft(prev);
        let held = self.log().entry(prev.index).ok().flatten().filter(|held| held.log_id() == prev);
        let Some(held) = held else { return Ok(()) };
        let expected = held.base_offset.get().saturating_add(i64::from(held.offset_count));
        if first.base_offset.get() == expected {
            return Ok(());
        }
        let reason = format!("offset {} behind entry {}, not {expected}", first.base_offset, prev.index);
        tracing::error!(group = %self.id, reason, "the leader's log contradicts this one");
        Err(Refusal::Malformed(reason))
    }

    async fn answer_vote(&self, raft: &GroupRaft<M>, body: Bytes, pre_vote: bool) -> Result<Body, Refusal> {
        let request = wire::decode_vote_request(body).map_err(|error| unreadable(&error))?;
        let last = request.last_log_id.as_ref().map(from_raft).unwrap_or_default();
        if !self.may_vote(last) {
            return Err(Refusal::TornTail);
        }
        self.note_candidate(last);
        let answer = if !pre_vote {
            raft.vote(request).await.map_err(|error| stopped(&error))?
        } else if self.last_vote.was_within(self.settings.election_timeout_min / 2) {
            self.deny(raft).await.map_err(|error| stopped(&error))?
        } else {
            raft.pre_vote(request).await.map_err(|error| stopped(&error))?
        };
        if !pre_vote && answer.vote_granted {
            self.last_vote.note();
        }
        Ok(wire::encode_voted(&answer))
    }

    async fn deny(
        &self,
        raft: &GroupRaft<M>,
    ) -> Result<VoteResponse<Types<M::Reply>>, Fatal<Types<M::Reply>>> {
        let last = self.log().bounds().last.and_then(to_raft);
        raft.with_raft_state(move |state| VoteResponse::new(state.vote_ref(), last, false)).await
    }

    async fn answer_transfer(&self, raft: &GroupRaft<M>, body: Bytes) -> Result<Body, Refusal> {
        let request = wire::decode_transfer(body).map_err(|error| unreadable(&error))?;
        // It would campaign, whatever it was told before.
        if self.torn() {
            return Err(Refusal::TornTail);
        }
        // It votes for itself.
        self.last_vote.note();
        let answer = raft.handle_transfer_leader(request).await.map_err(|error: Fatal<_>| stopped(&error))?;
        Ok(wire::encode_transferred(&answer))
    }

    async fn answer_snapshot(&self, raft: &GroupRaft<M>, body: Bytes) -> Result<Body, Refusal> {
        let (leader, tables) = wire::decode_snapshot(body).map_err(|error| unreadable(&error))?;
        self.check_sender(&leader)?;
        // Once Raft has it, a state that does not decode would end the group.
        Applied::<M>::from_tables(&tables).map_err(|error| Refusal::Malformed(error.to_string()))?;
        let committed = self.state.shared.committed().map(|id| from_raft(&id)).unwrap_or_default();
        if contradicts(tables.at, committed) {
            return Err(Refusal::Malformed(format!("a snapshot at {:?} behind {committed:?}", tables.at)));
        }
        let installed = raft.install_full_snapshot(leader, to_snapshot(&tables)).await;
        Ok(wire::encode_installed(&installed.map_err(|error| stopped(&error))?))
    }
}

/// Whether two entries cannot both be committed: a later term at no later place.
fn contradicts(snapshot: LogId, committed: LogId) -> bool {
    snapshot > committed && snapshot.index <= committed.index
}

fn unreadable(error: &DecodeError) -> Refusal {
    Refusal::Malformed(error.to_string())
}

fn stopped(error: &impl std::fmt::Display) -> Refusal {
    Refusal::Stopped(error.to_string())
}
