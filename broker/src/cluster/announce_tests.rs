use std::collections::BTreeMap;

use headwater_proto::types::{BrokerId, GroupId, LogIndex, PartitionId, ReplicaId, Term, TopicId};
use headwater_storage::log::LogId;
use proptest::prelude::*;

use super::*;

fn group(number: u8) -> GroupId {
    GroupId { topic_id: TopicId([1; 16]), partition: PartitionId(number.into()) }
}

fn said(term: u64) -> Announcement {
    let quiet = term.is_multiple_of(3).then_some(LogId { term: Term(term), index: LogIndex(term) });
    Announcement { term: Term(term), replica: ReplicaId(7), in_sync: vec![BrokerId(1)], quiet }
}

fn led(announcer: &Announcer) -> BTreeMap<GroupId, Announcement> {
    announcer.announced.iter().map(|(group, (_, said))| (*group, said.clone())).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Announce(u8, u64),
    Withdraw(u8),
    /// The sender pings, as it believes the receiver to hold.
    Send,
    /// Message `n` of those ever sent arrives, perhaps again.
    Deliver(usize),
    /// The answer to message `n` arrives, perhaps again.
    Answer(usize),
    SenderRestarts,
    ReceiverRestarts,
    Silence,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6u8, 1..20u64).prop_map(|(group, term)| Step::Announce(group, term)),
        2 => (0..6u8).prop_map(Step::Withdraw),
        4 => Just(Step::Send),
        4 => (0..40usize).prop_map(Step::Deliver),
        4 => (0..40usize).prop_map(Step::Answer),
        1 => Just(Step::SenderRestarts),
        1 => Just(Step::ReceiverRestarts),
        1 => Just(Step::Silence),
    ];
    proptest::collection::vec(step, 0..120)
}

/// One sender, one receiver, and every message that was ever between them.
#[derive(Default)]
struct World {
    boot: u64,
    sender: Announcer,
    /// What the sender believes that the receiver holds.
    believed: u64,
    receiver: Heard,
    /// What the receiver was told by its changes.
    seen: BTreeMap<GroupId, Announcement>,
    sent: Vec<(u64, Delta)>,
    answers: Vec<(u64, u64)>,
    /// Every state that the sender ever had.
    states: BTreeMap<(u64, u64), BTreeMap<GroupId, Announcement>>,
}

impl World {
    fn note(&mut self) {
        self.states.insert((self.boot, self.sender.sequence()), led(&self.sender));
    }

    fn send(&mut self) {
        self.sent.push((self.boot, self.sender.since(self.believed)));
    }

    fn deliver(&mut self, message: usize) {
        let Some((boot, delta)) = self.sent.get(message).cloned() else { return };
        let changes = self.receiver.hear(boot, delta);
        self.take(changes);
        let held = if self.receiver.boot() == boot { self.receiver.held() } else { 0 };
        self.answers.push((boot, held));
    }

    fn take(&mut self, changes: Changes) {
        for (group, said) in changes {
            match said {
                Some(said) => self.seen.insert(group, said),
                None => self.seen.remove(&group),
            };
        }
        assert_eq!(&self.seen, self.receiver.groups(), "changes are what changed");
        if self.receiver.held() > 0 {
            let state = &self.states[&(self.receiver.boot(), self.receiver.held())];
            assert_eq!(&self.seen, state, "what is held is a state that was");
        } else {
            assert!(self.seen.is_empty());
        }
    }

    fn answer(&mut self, answer: usize) {
        if let Some((boot, held)) = self.answers.get(answer)
            && *boot == self.boot
        {
            self.believed = *held;
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Announce(n, term) => drop(self.sender.announce(group(n), said(term))),
            Step::Withdraw(n) => drop(self.sender.withdraw(group(n))),
            Step::Send => self.send(),
            Step::Deliver(n) => self.deliver(n),
            Step::Answer(n) => self.answer(n),
            Step::SenderRestarts => {
                (self.boot, self.sender, self.believed) = (self.boot + 1, Announcer::default(), 0);
            }
            Step::ReceiverRestarts => {
                (self.receiver, self.seen) = (Heard::default(), BTreeMap::new());
            }
            Step::Silence => {
                let changes = self.receiver.forget();
                self.take(changes);
            }
        }
        self.note();
    }
}

proptest! {
    /// Whatever is lost, repeated, overtaken or restarted: what is held is always a state that the sender had, and two
    /// undisturbed rounds bring the newest one.
    #[test]
    fn any_loss_order_and_repetition_converges(steps in steps()) {
        let mut world = World { boot: 1, ..World::default() };
        world.note();
        for step in &steps {
            world.step(step);
        }
        for _ in 0..2 {
            world.send();
            world.deliver(world.sent.len() - 1);
            world.answer(world.answers.len() - 1);
        }
        prop_assert_eq!(world.receiver.groups(), &led(&world.sender));
        let idle = world.sender.since(world.believed);
        prop_assert!(idle.announced.is_empty() && idle.withdrawn.is_empty() && idle.base > 0, "{:?}", idle);
    }
}

#[test]
fn forgotten_withdrawals_lead_to_a_full_resync() {
    let mut announcer = Announcer::default();
    let name = |n: usize| GroupId { topic_id: TopicId([2; 16]), partition: PartitionId(n as i32) };
    for n in 0..=WITHDRAWN_MAX + 1 {
        announcer.announce(name(n), said(1));
    }
    let mut heard = Heard::default();
    heard.hear(1, announcer.since(0));
    let held = heard.held();
    for n in 0..=WITHDRAWN_MAX {
        announcer.withdraw(name(n));
    }
    let delta = announcer.since(held);
    assert_eq!((delta.base, delta.announced.len()), (0, 1));
    heard.hear(1, delta);
    assert_eq!(heard.groups().len(), 1);
}
