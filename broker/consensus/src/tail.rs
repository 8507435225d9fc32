//! A replica that lost the end of its log in a crash, and how it may vote again.
//!
//! What it cut off may have been acknowledged on the strength of its disk: a candidate without those entries must not
//! get its vote, nor may it be one itself. So it asks the voters where their logs end. A leader's answer, or those of
//! all voters of every configuration that any of them holds, give the *floor*: whoever ends at or behind it lacks
//! nothing that this replica helped to commit. Until its own log is durable that far it grants votes only to such
//! candidates and never campaigns; then the flag that the storage keeps falls.
//!
//! A voter whose data directory the cluster has retired counts as lost: it need not answer, and those that are left are
//! asked again, all of them, since nobody else may reach as far as it said. While a majority keeps its disks, either this
//! replica lost nothing that it had told, or they know what it helped to commit. Mere silence retires nobody.
//!
//! Invariants: a leader lets its record of this replica go back (`allow_next_revert`) before it answers, and only
//! until the replica has caught up; the replica takes nothing from a leader that may remember more of it than there
//! is; what this replica's vote was last given to bounds whose answer counts as a leader's: one of an earlier term may
//! lack what was acknowledged since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use headwater_core::mutant::{self, Mutant};
use headwater_core::{DecodeError, Machine};
use headwater_proto::types::{LogIndex, ReplicaId, Term};
use headwater_storage::log::{Log, LogId};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Duration, Instant, sleep};

use crate::encoding::{decode_membership, encode_membership};
use crate::error::ConsensusError;
use crate::group::Group;
use crate::peer::{Body, GroupRequest, Lane, Refusal, RequestKind};
use crate::types::{Membership, Peer};

/// A torn end that no leader has spoken of for so long may stay torn: half as long again as [`MAJORITY_AFTER`].
const STAYS_TORN_AFTER: Duration = Duration::from_secs(90);

/// After this long a majority of the voters has to do, and somebody has to know of it.
const MAJORITY_AFTER: Duration = Duration::from_secs(60);

const VERSION: u16 = 0;

/// What a replica with a torn tail has been told so far.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The term of this replica's vote when it started.
    pub(crate) voted: Term,
    /// Whom to ask if the log names no members.
    pub(crate) first_voters: BTreeMap<ReplicaId, Peer>,
    told: Mutex<Told>,
    since: Instant,
}

#[derive(Debug, Default, Clone, Copy)]
struct Told {
    floor: Option<LogId>,
    /// The term of the leader that lets this replica's log go back, and when it said so last.
    leader: Option<Term>,
    led: Option<Instant>,
    /// Nobody is known who could be asked.
    alone: bool,
}

impl Tail {
    pub(crate) fn new(voted: Term, first_voters: BTreeMap<ReplicaId, Peer>) -> Self {
        Self { voted, first_voters, told: Mutex::default(), since: Instant::now() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both a leader's word and that of all voters are enough: the lower floor is.
    fn lower(&self, floor: LogId, leader: Option<Term>) {
        let mut told = self.told();
        told.floor = Some(told.floor.map_or(floor, |known| known.min(floor)));
        if leader.is_some() {
            (told.leader, told.led) = (leader, Some(Instant::now()));
        }
    }
}

/// Whether a replica must neither vote nor campaign on its own word.
pub(crate) fn is_torn(log: &Log) -> bool {
    log.tail_cut().is_some() && !mutant::active(Mutant::CutReplicaVotes)
}

/// Where a log ends that a power cut would leave.
pub(crate) fn durable_end(log: &Log) -> LogId {
    let bounds = log.bounds();
    let durable = bounds.durable_index.unwrap_or_default();
    let entry = log.entry(durable).ok().flatten().map(|entry| entry.log_id());
    entry.max(bounds.purged).unwrap_or_default()
}

impl<M: Machine> Group<M> {
    /// Whether the end of this replica's log was lost and nobody has vouched for the rest yet.
    #[must_use]
    pub fn torn(&self) -> bool {
        self.log().tail_cut().is_some()
    }

    /// Whether nobody has vouched for the end of this replica's log for so long that it may stay so.
    #[must_use]
    pub fn torn_for_long(&self) -> bool {
        let since = self.tail.told().led.unwrap_or(self.tail.since);
        self.torn() && since.elapsed() > STAYS_TORN_AFTER
    }

    /// Whether a candidate whose log ends at `last` may be given this replica's vote.
    pub(crate) fn may_vote(&self, last: LogId) -> bool {
        !is_torn(self.log()) || self.tail.told().floor.is_some_and(|floor| last >= floor)
    }

    /// Whether entries, heartbeats and snapshots of a leader of `term` may be taken: not before it knows that this
    /// replica's log may have gone back, which a leader elected since the start cannot but know.
    pub(crate) fn may_append(&self, term: Term) -> bool {
        if !self.torn() || term > self.tail.voted {
            return true;
        }
        let told = self.tail.told();
        told.alone || told.leader == Some(term)
    }

    /// Asks around until this replica's end is vouched for; nothing to do for an intact one.
    pub(crate) fn watch_tail(self: &Arc<Self>) {
        if self.torn() && self.raft.is_some() {
            tracing::warn!(group = %self.id, end = ?durable_end(self.log()), "the end of the log was torn: asking the \
                other voters where it was");
            tokio::spawn(mend(Arc::downgrade(self), self.settings.election_timeout_min));
        }
    }

    /// One round of questions, and what follows from the answers.
    async fn ask_voters(&self, known: &mut Known) -> Result<(), ConsensusError> {
        let raft = self.raft()?;
        known.learn_members(raft.with_raft_state(|state| memberships(&state.membership_state)).await.ok());
        let voters = known.voters(&self.tail.first_voters);
        let is_lost =
            |replica: ReplicaId, peer| replica != self.replica_id && self.host.messenger.is_retired(peer);
        known.learn_lost(&voters, is_lost);
        known.ends.insert(self.replica_id, durable_end(self.log()));
        self.tail.told().alone = voters.is_empty();
        let others: Vec<_> = voters
            .iter()
            .filter(|(replica, _)| **replica != self.replica_id && !known.lost.contains(replica))
            .collect();
        let answers = join_all(others.into_iter().map(|(replica, peer)| self.ask(*replica, *peer, true)));
        for (replica, ends) in answers.await.into_iter().flatten() {
            known.learn_members(Some(ends.memberships));
            match ends.leads {
                Some(term) if term >= self.tail.voted => self.tail.lower(ends.end, Some(term)),
                _ => {}
            }
            known.ends.insert(replica, ends.end);
        }
        if let Some(floor) = known.floor(&self.tail.first_voters, false) {
            self.tail.lower(floor, None);
        } else if known.since.elapsed() >= MAJORITY_AFTER
            && self.tail.told().floor.is_none()
            && let Some(floor) = known.floor(&self.tail.first_voters, true)
        {
            tracing::error!(group = %self.id, ?floor, "ALARM: the end of the log was torn and not all voters answer: \
                a majority's word is taken, and what only the others hold may be lost");
            self.tail.lower(floor, None);
        }
        Ok(())
    }

    async fn ask(&self, target: ReplicaId, peer: Peer, torn: bool) -> Option<(ReplicaId, LogEnds)> {
        let body = Body::from(encode_question(torn));
        let request =
            GroupRequest { group: self.id, from: self.replica_id, target, kind: RequestKind::LogEnds, body };
        let within = self.settings.election_timeout_max;
        let answer = self.host.messenger.call(peer, Lane::Control, request, within).await;
        let ends = answer
            .map_err(|error| error.to_string())
            .and_then(|bytes| LogEnds::decode(bytes).map_err(|error| error.to_string()));
        match ends {
            Ok(ends) => Some((target, ends)),
            Err(error) => {
                tracing::info!(group = %self.id, %target, error, "a voter did not say where its log ends");
                None
            }
        }
    }

    /// Lets the flag fall once this replica's log is durable up to the floor. Whether it fell.
    async fn mended(&self, known: &Known) -> Result<bool, ConsensusError> {
        let told = *self.tail.told();
        let end = durable_end(self.log());
        if told.floor.is_none_or(|floor| end < floor) {
            return Ok(false);
        }
        self.log().clear_tail_cut().await?;
        self.raft()?.runtime_config().elect(true);
        tracing::info!(group = %self.id, ?end, floor = ?told.floor, "the end of the log is whole again");
        // From now on a log of this replica's that goes back is an error again.
        let voters = known.voters(&self.tail.first_voters);
        let others = voters.iter().filter(|(replica, _)| **replica != self.replica_id);
        join_all(others.map(|(replica, peer)| self.ask(*replica, *peer, false))).await;
        Ok(true)
    }

    /// Says where this replica's log ends. A leader lets its record of the one that asks go back first, or not any
    /// more.
    pub(crate) async fn answer_log_ends(&self, from: ReplicaId, body: Bytes) -> Result<Body, Refusal> {
        let torn = decode_question(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        let raft = self.raft.as_ref().ok_or_else(|| Refusal::Stopped("its log is damaged".to_owned()))?;
        let stopped = |error: &dyn std::fmt::Display| Refusal::Stopped(error.to_string());
        let own = self.replica_id;
        let leads = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.state.is_leader().then_some(metrics.vote)
        };
        let allowed = match leads {
            Some(_) => raft.trigger().allow_next_revert(&from, torn).await.map_err(|e| stopped(&e))?.is_ok(),
            None => false,
        };
        let state = raft.with_raft_state(|state| (*state.vote_ref(), memberships(&state.membership_state)));
        let (vote, memberships) = state.await.map_err(|error| stopped(&error))?;
        let last = self.log().bounds().last.unwrap_or_default();
        let leads = allowed && leads == Some(vote) && vote.committed && vote.leader_id.voted_for == own;
        let ends = match leads {
            true => LogEnds { leads: Some(Term(vote.leader_id.term)), end: last, memberships },
            false => LogEnds { leads: None, end: durable_end(self.log()), memberships },
        };
        Ok(Body::from(ends.encode()))
    }
}

/// Asks until the flag falls, or the group is given up.
async fn mend<M: Machine>(group: Weak<Group<M>>, interval: Duration) {
    let mut known = Known::new();
    loop {
        let Some(held) = group.upgrade() else { return };
        if held.check_running().is_err() {
            return;
        }
        let mended = match held.ask_voters(&mut known).await {
            Ok(()) => held.mended(&known).await,
            Err(error) => Err(error),
        };
        match mended {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(group = %held.id, %error, "the end of the log could not be vouched for")
            }
        }
        drop(held);
        sleep(interval).await;
    }
}

/// What the voters said so far.
#[derive(Debug)]
struct Known {
    since: Instant,
    memberships: Vec<Membership>,
    ends: BTreeMap<ReplicaId, LogId>,
    /// Voters whose data directories were retired.
    lost: BTreeSet<ReplicaId>,
}

impl Known {
    fn new() -> Self {
        Self { since: Instant::now(), memberships: Vec::new(), ends: BTreeMap::new(), lost: BTreeSet::new() }
    }

    /// Forgets everything that was told when another voter turns out to be lost.
    fn learn_lost(&mut self, voters: &BTreeMap<ReplicaId, Peer>, is_lost: impl Fn(ReplicaId, Peer) -> bool) {
        let lost = voters.iter().filter(|(replica, peer)| is_lost(**replica, **peer));
        let known = self.lost.len();
        self.lost.extend(lost.map(|(replica, _)| *replica));
        if self.lost.len() > known {
            self.ends.clear();
            self.since = Instant::now();
        }
    }

    fn learn_members(&mut self, memberships: Option<Vec<Membership>>) {
        for membership in memberships.into_iter().flatten() {
            if !self.memberships.contains(&membership) {
                self.memberships.push(membership);
            }
        }
    }

    fn configs(&self, first_voters: &BTreeMap<ReplicaId, Peer>) -> Vec<BTreeSet<ReplicaId>> {
        let mut configs: Vec<_> =
            self.memberships.iter().flat_map(|m| m.get_joint_config().iter().cloned()).collect();
        configs.retain(|config| !config.is_empty());
        if configs.is_empty() && !first_voters.is_empty() {
            configs.push(first_voters.keys().copied().collect());
        }
        configs
    }

    fn voters(&self, first_voters: &BTreeMap<ReplicaId, Peer>) -> BTreeMap<ReplicaId, Peer> {
        let peer = |replica: &ReplicaId| {
            let named = self.memberships.iter().find_map(|membership| membership.get_node(replica));
            named.or_else(|| first_voters.get(replica)).copied()
        };
        let configs = self.configs(first_voters);
        configs.iter().flatten().filter_map(|replica| Some((*replica, peer(replica)?))).collect()
    }

    /// The highest end, once every voter that is not lost has answered, or a majority of each configuration.
    fn floor(&self, first_voters: &BTreeMap<ReplicaId, Peer>, majority: bool) -> Option<LogId> {
        let configs = self.configs(first_voters);
        let enough = |config: &BTreeSet<ReplicaId>| {
            let answered = config.iter().filter(|replica| self.ends.contains_key(replica)).count();
            let lost = config.intersection(&self.lost).count();
            // Voters that are all lost vouch for nothing.
            if majority {
                answered > config.len() / 2
            } else {
                answered > 0 && answered + lost == config.len()
            }
        };
        (!configs.is_empty() && configs.iter().all(enough)).then(|| self.ends.values().max().copied())?
    }
}

fn memberships<CLID>(state: &openraft::MembershipState<CLID, ReplicaId, Peer>) -> Vec<Membership>
where
    CLID: openraft::vote::RaftCommittedLeaderId,
{
    vec![state.committed().membership().clone(), state.effective().membership().clone()]
}

/// A voter's answer.
#[derive(Debug, Clone, PartialEq)]
struct LogEnds {
    /// Its term, if it leads and lets the log of the one that asks go back.
    leads: Option<Term>,
    /// A leader's last entry; another's last durable one. Index 0: none.
    end: LogId,
    /// Its committed configuration, and that in force.
    memberships: Vec<Membership>,
}

impl LogEnds {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u16(VERSION);
        out.put_u8(self.leads.is_some().into());
        out.put_u64(self.leads.unwrap_or_default().get());
        out.put_u64(self.end.term.get());
        out.put_u64(self.end.index.get());
        out.put_u8(self.memberships.len() as u8);
        for membership in &self.memberships {
            let bytes = encode_membership(membership);
            out.put_u32(bytes.len() as u32);
            out.put_slice(&bytes);
        }
        out.freeze()
    }

    fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        const WHAT: &str = "log ends";
        check_version(WHAT, &mut bytes)?;
        need(WHAT, &bytes, 1 + 8 + 16 + 1)?;
        let leads = flag(WHAT, bytes.get_u8())?;
        let term = Term(bytes.get_u64());
        let end = LogId { term: Term(bytes.get_u64()), index: LogIndex(bytes.get_u64()) };
        let mut memberships = Vec::new();
        for _ in 0..bytes.get_u8() {
            need(WHAT, &bytes, 4)?;
            let length = bytes.get_u32() as usize;
            need(WHAT, &bytes, length)?;
            memberships.push(decode_membership(&bytes.split_to(length))?);
        }
        Ok(Self { leads: leads.then_some(term), end, memberships })
    }
}

/// Whether the one that asks is still torn.
fn encode_question(torn: bool) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16(VERSION);
    out.put_u8(torn.into());
    out.freeze()
}

fn decode_question(mut bytes: Bytes) -> Result<bool, DecodeError> {
    const WHAT: &str = "question for log ends";
    check_version(WHAT, &mut bytes)?;
    need(WHAT, &bytes, 1)?;
    flag(WHAT, bytes.get_u8())
}

fn check_version(what: &'static str, bytes: &mut Bytes) -> Result<(), DecodeError> {
    need(what, bytes, 2)?;
    match bytes.get_u16() {
        VERSION => Ok(()),
        found => Err(DecodeError::Version { what, found: found.into(), supported: VERSION.into() }),
    }
}

fn need(what: &'static str, bytes: &Bytes, count: usize) -> Result<(), DecodeError> {
    if bytes.remaining() < count { Err(DecodeError::Truncated { what }) } else { Ok(()) }
}

fn flag(what: &'static str, byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        flag => Err(DecodeError::Malformed { what, reason: format!("flag {flag}") }),
    }
}
