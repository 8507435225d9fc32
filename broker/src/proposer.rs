//! The leader's way into a group's log: decide, propose, settle.
//!
//! Invariants: the gate's decision on a batch and its proposal happen under one lock, in the order of the
//! calls; what was stamped is proposed, and settled with the gate, whether or not its caller is still
//! there (a stamp that got lost would bar the group for ever); a repeat of a proposal in flight waits for
//! the same outcome. After a refused proposal callers are told to retry until everything in flight is
//! answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use headwater_consensus::{Group, Health, Leadership, LocallyDurable, Pending, Proposal};
use headwater_core::{Decision, Gate, Machine, Original, Refusal, Stamp};
use headwater_proto::types::Offset;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::error::RequestError;
use crate::limits::MemoryPermit;

/// Memory that a proposal keeps charged until it is settled.
pub type Charge = Option<Arc<MemoryPermit>>;

type Outcome<R> = Result<R, RequestError>;

/// What was decided on a batch.
#[derive(Debug)]
pub enum Receipt<R> {
    /// It is in the log already, at this base offset.
    Applied(Offset),
    /// Its outcome, or its original's, comes here.
    Pending(oneshot::Receiver<Outcome<R>>),
    /// As much, but the leader's own disk is enough of an answer.
    Local { durable: LocallyDurable, pending: oneshot::Receiver<Outcome<R>> },
}

impl<R> Receipt<R> {
    /// Waits for the outcome; `Err` of the offset where no more is known: for a duplicate that was applied before, and
    /// for what is durable on the leader only.
    pub async fn outcome(self) -> Result<Result<R, Offset>, RequestError> {
        match self {
            Self::Applied(offset) => Ok(Err(offset)),
            Self::Pending(pending) => settled(pending).await,
            Self::Local { durable, pending } => {
                let mut pending = std::pin::pin!(settled(pending));
                tokio::select! {
                    biased;
                    outcome = &mut pending => outcome,
                    durable = durable => match durable {
                        Ok(offset) => Ok(Err(offset)),
                        // It was not stored as it is: its outcome says what became of it.
                        Err(_) => pending.await,
                    },
                }
            }
        }
    }
}

async fn settled<R>(pending: oneshot::Receiver<Outcome<R>>) -> Result<Result<R, Offset>, RequestError> {
    match pending.await {
        Ok(outcome) => outcome.map(Ok),
        Err(_) => Err(RequestError::Unknown("the broker stopped".to_owned())),
    }
}

/// What a proposer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Await {
    /// That it is committed and applied.
    Commit,
    /// That it is durable on this broker. It may yet be lost: no decision on later batches may depend on it.
    LocalDisk,
}

/// One proposal under way.
struct Flight<R: Send + Sync + 'static> {
    stamp: Stamp,
    pending: Pending<R>,
    _charge: Charge,
}

/// The state of one leadership.
struct Lead<R: Send + Sync + 'static> {
    gate: Option<Gate>,
    waiters: BTreeMap<Stamp, Vec<oneshot::Sender<Outcome<R>>>>,
    flights: VecDeque<Flight<R>>,
    /// Whether a task settles the flights; there is one only while there are any.
    settling: bool,
}

/// Proposes to one group.
pub struct Proposer<M: Machine> {
    group: Arc<Group<M>>,
    /// Held over decision and proposal: the order in which it is taken is the order in the log.
    order: Arc<tokio::sync::Mutex<()>>,
    lead: Mutex<Lead<M::Reply>>,
    base_offset: fn(&M::Reply) -> Offset,
}

impl<M> Proposer<M>
where
    M: Machine,
    M::Reply: Clone,
{
    /// `base_offset` tells where a reply says that its entry begins.
    pub fn new(group: Arc<Group<M>>, base_offset: fn(&M::Reply) -> Offset) -> Arc<Self> {
        let lead = Lead { gate: None, waiters: BTreeMap::new(), flights: VecDeque::new(), settling: false };
        Arc::new(Self { group, order: Arc::default(), lead: Mutex::new(lead), base_offset })
    }

    pub const fn group(&self) -> &Arc<Group<M>> {
        &self.group
    }

    /// Lets `decide` look at the gate and the applied state, and proposes the batch that it returns if it
    /// says so.
    ///
    /// # Errors
    /// The batch was certainly not appended.
    pub async fn propose(
        self: &Arc<Self>,
        charge: Charge,
        until: Await,
        decide: impl FnOnce(&mut Gate, &M) -> (Decision, Bytes),
    ) -> Result<Receipt<M::Reply>, RequestError> {
        let in_order = Arc::clone(&self.order).lock_owned().await;
        let leadership = self.check_leads()?;
        let (answer, pending) = oneshot::channel();
        let proposal = {
            let mut lead = self.lead();
            let gate = lead.gate(leadership);
            let (decision, batch) = self.group.with_state(|state| decide(gate, state));
            match decision {
                Decision::Append(stamp) => {
                    lead.waiters.insert(stamp, vec![answer]);
                    Proposal::new(stamp, batch)
                }
                Decision::Duplicate(Original::Applied(offset)) => return Ok(Receipt::Applied(offset)),
                Decision::Duplicate(Original::InFlight(original)) => {
                    lead.wait_for(original, answer);
                    return Ok(Receipt::Pending(pending));
                }
                Decision::Refuse(refusal) => return Err(refusal.into()),
            }
        };
        let (proposal, receipt) = match until {
            Await::Commit => (proposal, Receipt::Pending(pending)),
            Await::LocalDisk => {
                let (proposal, durable) = proposal.watched();
                (proposal, Receipt::Local { durable, pending })
            }
        };
        let mut enqueued = Box::pin(Arc::clone(self).enqueue(in_order, proposal, charge));
        match futures_util::poll!(&mut enqueued) {
            Poll::Ready(enqueued) => enqueued?,
            // Raft's queue is full. From here on the caller may go away, the proposal may not.
            Poll::Pending => tokio::spawn(enqueued).await.map_err(|_| RequestError::Stopping)??,
        }
        Ok(receipt)
    }

    async fn enqueue(
        self: Arc<Self>,
        _in_order: OwnedMutexGuard<()>,
        proposal: Proposal,
        charge: Charge,
    ) -> Result<(), RequestError> {
        let stamp = proposal.stamp;
        match self.group.propose(proposal).await {
            Ok(pending) => {
                self.fly(Flight { stamp, pending, _charge: charge });
                Ok(())
            }
            Err(error) => {
                let error = RequestError::from(error);
                self.lead().settle(stamp, Err(error.clone()), self.base_offset);
                Err(error)
            }
        }
    }

    /// Proposes what no decision depends on: a control entry, or a metadata command.
    ///
    /// # Errors
    /// As [`Proposer::propose`].
    pub async fn propose_plain(self: &Arc<Self>, batch: Bytes) -> Result<Receipt<M::Reply>, RequestError> {
        let decide = |gate: &mut Gate, _: &M| {
            (gate.control().map_or(Decision::Refuse(Refusal::Draining), Decision::Append), batch)
        };
        self.propose(None, Await::Commit, decide).await
    }

    fn check_leads(&self) -> Result<Leadership, RequestError> {
        match self.group.health() {
            Health::Running => self.group.leadership().ok_or(RequestError::NotLeader),
            Health::NoSpace => Err(RequestError::DiskFull),
            Health::Damaged(_) => Err(RequestError::Storage(
                "part of its log is damaged: what is intact can be read, and nothing is written until an \
                 operator accepts the loss"
                    .to_owned(),
            )),
            Health::Failed(reason) => Err(RequestError::Storage(reason)),
            Health::Stopped => Err(RequestError::Stopping),
        }
    }

    fn fly(self: &Arc<Self>, flight: Flight<M::Reply>) {
        let mut lead = self.lead();
        lead.flights.push_back(flight);
        if !lead.settling {
            lead.settling = true;
            tokio::spawn(Arc::clone(self).settle_all());
        }
    }

    /// Settles flights in the order of the log until none is left.
    async fn settle_all(self: Arc<Self>) {
        loop {
            let flight = {
                let mut lead = self.lead();
                match lead.flights.pop_front() {
                    Some(flight) => flight,
                    None => {
                        lead.settling = false;
                        return;
                    }
                }
            };
            let outcome = flight.pending.await.map(|committed| committed.reply).map_err(RequestError::from);
            self.lead().settle(flight.stamp, outcome, self.base_offset);
        }
    }

    fn lead(&self) -> MutexGuard<'_, Lead<M::Reply>> {
        self.lead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Clone + Send + Sync + 'static> Lead<R> {
    /// The gate of this leadership, opened at its first call.
    fn gate(&mut self, leadership: Leadership) -> &mut Gate {
        let term = leadership.term;
        if self.gate.as_ref().is_some_and(|gate| gate.term() != term) {
            self.gate = None;
        }
        let gate = self.gate.get_or_insert_with(|| Gate::open(term));
        gate.reopen();
        gate
    }

    /// Joins those who wait for a proposal of the open session.
    fn wait_for(&mut self, original: u64, answer: oneshot::Sender<Outcome<R>>) {
        let found = self.waiters.iter_mut().rev().find(|(stamp, _)| stamp.n == original);
        if let Some((_, waiters)) = found {
            waiters.push(answer);
        }
    }

    fn settle(&mut self, stamp: Stamp, outcome: Outcome<R>, base_offset: fn(&R) -> Offset) {
        if let Some(gate) = self.gate.as_mut().filter(|gate| gate.term() == stamp.term) {
            match &outcome {
                Ok(reply) => gate.on_applied(stamp.n, base_offset(reply)),
                Err(_) => gate.on_refused(stamp.n),
            }
        }
        for waiter in self.waiters.remove(&stamp).unwrap_or_default() {
            // Nobody listens any more where the client went away.
            let _ = waiter.send(outcome.clone());
        }
    }
}
