#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_consensus::{Follower, GroupMembership};
use headwater_core::machine::{Entry, EntryBody, Machine};
use headwater_core::metadata::{
    Broker, BrokerState, Command, MetadataError, Partition, Replica, command_batch,
};
use headwater_core::topic_config::Overrides;
use headwater_core::{MetadataState, placement};
use headwater_proto::record::RecordBatch;
use headwater_proto::types::{
    BrokerId, GroupId, Incarnation, LogIndex, PartitionId, ReplicaId, Term, TimestampMs, TopicId,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::decide::{Step, View, Wanted, Why, next_step};
use super::leaders::{Fitness, Steadiness};
use super::voters;

const TOPIC: TopicId = TopicId([7; 16]);
const FIRST: PartitionId = PartitionId(0);
const GROUP: GroupId = GroupId { topic_id: TOPIC, partition: FIRST };
/// The end of every log in the model.
const END: LogIndex = LogIndex(100);

fn apply(state: &mut MetadataState, command: &Command) -> Result<(), MetadataError> {
    let bytes = command_batch(command, TimestampMs(1)).unwrap();
    let batch = RecordBatch::trusted(bytes.clone()).unwrap();
    let entry = Entry {
        index: state.log.applied_index.next(),
        term: Term(1),
        base_offset: state.log.next_offset,
        header: batch.header(),
        body: EntryBody::Records(&bytes),
    };
    state.apply(entry).unwrap().map(|_| ())
}

fn broker(id: i32, disk: u8) -> Broker {
    Broker {
        id: BrokerId(id),
        incarnation: Incarnation([disk * 16 + id as u8; 16]),
        grpc_address: String::new(),
        kafka_address: String::new(),
        peer_address: String::new(),
        rack: String::new(),
        version: String::new(),
        state: BrokerState::Active,
    }
}

fn register(state: &mut MetadataState, id: i32, disk: u8, bootstrap: Option<u64>) {
    let metadata_replica = bootstrap.map(ReplicaId);
    apply(state, &Command::RegisterBroker { broker: broker(id, disk), metadata_replica }).unwrap();
}

fn set(state: &mut MetadataState, id: i32, to: BrokerState) {
    apply(state, &Command::SetBrokerState { id: BrokerId(id), state: to }).unwrap();
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// Five brokers, and a partition on some of them.
fn cluster(on: &[i32]) -> MetadataState {
    let mut state = MetadataState::default();
    (1..=5).for_each(|id| register(&mut state, id, 0, Some(id as u64)));
    let create = Command::CreateTopic {
        id: TOPIC,
        name: "a".to_owned(),
        assignments: vec![brokers(on)],
        overrides: Overrides::new(),
    };
    apply(&mut state, &create).unwrap();
    state
}

fn assigned(state: &MetadataState) -> &Partition {
    state.group(GROUP).unwrap()
}

fn reassign(state: &mut MetadataState, to: &[i32]) {
    let epoch = assigned(state).epoch;
    let command = Command::Reassign { topic: TOPIC, partition: FIRST, epoch, brokers: brokers(to) };
    apply(state, &command).unwrap();
}

/// A group of Raft without a log: who is a member, who leads, and how much each has.
#[derive(Debug, Clone)]
struct Raft {
    members: GroupMembership,
    leader: Option<ReplicaId>,
    has: BTreeMap<ReplicaId, LogIndex>,
    dead: BTreeSet<BrokerId>,
    /// Copies that their brokers were allowed to delete.
    deleted: BTreeSet<ReplicaId>,
}

impl Raft {
    fn of(replicas: &[Replica]) -> Self {
        let peers: BTreeMap<_, _> = replicas.iter().map(super::decide::member).collect();
        let voters = peers.keys().copied().collect();
        Self {
            members: GroupMembership { configs: vec![voters], peers, committed: true },
            leader: replicas.first().map(|replica| replica.id),
            has: replicas.iter().map(|replica| (replica.id, END)).collect(),
            dead: BTreeSet::new(),
            deleted: BTreeSet::new(),
        }
    }

    fn runs(&self, replica: ReplicaId) -> bool {
        self.members.peers.get(&replica).is_some_and(|peer| !self.dead.contains(&peer.broker_id))
    }

    /// Whether an entry can be committed: a majority of each configuration runs.
    fn commits(&self) -> bool {
        self.members
            .configs
            .iter()
            .all(|config| config.iter().filter(|replica| self.runs(**replica)).count() * 2 > config.len())
    }

    /// Somebody with everything and a vote leads, if anybody can.
    fn elect(&mut self, preference: usize) {
        let voters = self.members.voters();
        let candidates: Vec<_> = voters
            .into_iter()
            .filter(|replica| self.runs(*replica) && self.has.get(replica) == Some(&END))
            .collect();
        self.leader =
            if self.commits() { candidates.get(preference % candidates.len().max(1)).copied() } else { None };
    }

    fn kill(&mut self, broker: BrokerId) {
        self.dead.insert(broker);
        if self.leader.is_some_and(|leader| !self.runs(leader)) || !self.commits() {
            self.elect(0);
        }
    }

    fn followers(&self) -> BTreeMap<ReplicaId, Follower> {
        let follower = |matched| Follower { matched, last_heard: None };
        self.members
            .peers
            .keys()
            .map(|replica| (*replica, follower(*self.has.get(replica).unwrap_or(&LogIndex(0)))))
            .collect()
    }

    fn next_step(&self, wanted: &Wanted) -> Option<Step> {
        let own = self.leader?;
        let view = View {
            own,
            members: &self.members,
            followers: &self.followers(),
            caught_up_at: Some(END),
            alive: &|broker| !self.dead.contains(&broker),
            has_room: true,
        };
        Some(next_step(wanted, &view))
    }

    /// Makes a step, as openraft would; `breaks_off`: the leader dies in the middle of a change.
    fn make(&mut self, step: &Step, breaks_off: bool) {
        match step {
            Step::AddLearner(replica, peer) => {
                assert!(!self.deleted.contains(replica), "{replica} was given up");
                self.members.peers.insert(*replica, *peer);
            }
            Step::RemoveLearner(replica) => {
                assert!(!self.members.voters().contains(replica));
                self.members.peers.remove(replica);
            }
            Step::ChangeVoters(voters) => self.change_voters(voters, breaks_off),
            Step::HandOver(to) => {
                assert!(self.members.voters().contains(to) && self.runs(*to));
                self.leader = Some(*to);
            }
            Step::Settled | Step::Wait(_) | Step::Complete { .. } => {}
        }
        assert!(
            self.leader.is_none() || self.commits(),
            "{step:?} left a group that cannot commit: {self:?}"
        );
    }

    fn change_voters(&mut self, voters: &BTreeSet<ReplicaId>, breaks_off: bool) {
        assert!(voters.iter().all(|replica| self.members.peers.contains_key(replica)));
        let before = self.members.voters();
        let joins = voters.difference(&before);
        assert!(joins.into_iter().all(|replica| self.has.get(replica) == Some(&END)), "votes too early");
        let first = self.members.configs.first().cloned().unwrap();
        self.members.configs = vec![first, voters.clone()];
        if breaks_off {
            return self.elect(1);
        }
        assert!(self.commits(), "a change that cannot be committed: {self:?}");
        self.members.configs = vec![voters.clone()];
        self.members.peers.retain(|replica, _| voters.contains(replica) || !before.contains(replica));
        if self.leader.is_some_and(|leader| !voters.contains(&leader)) {
            self.elect(0);
        }
    }

    fn catch_up(&mut self) {
        if self.leader.is_some() {
            let running: Vec<_> =
                self.members.peers.keys().copied().filter(|replica| self.runs(*replica)).collect();
            self.has.extend(running.into_iter().map(|replica| (replica, END)));
        }
    }
}

/// Makes the next step, whoever leads; `None`: nothing is to be done, or can be.
fn steward(state: &mut MetadataState, raft: &mut Raft, breaks_off: bool) -> Option<Step> {
    let wanted = Wanted::of(assigned(state));
    let step = raft.next_step(&wanted)?;
    raft.make(&step, breaks_off);
    if let Step::Complete { epoch, removed } = &step {
        let complete = Command::CompleteReassign {
            topic: TOPIC,
            partition: FIRST,
            epoch: *epoch,
            removed: removed.clone(),
        };
        apply(state, &complete).unwrap();
        raft.deleted.extend(removed);
        assert!(removed.iter().all(|replica| !raft.members.peers.contains_key(replica)));
    }
    (!matches!(step, Step::Settled | Step::Wait(_))).then_some(step)
}

/// Steps until nothing is left to do; what was done, in order.
fn settle(state: &mut MetadataState, raft: &mut Raft) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..64 {
        raft.catch_up();
        match steward(state, raft, false) {
            Some(step) => steps.push(step),
            None => return steps,
        }
    }
    panic!("it never ends: {steps:?}");
}

fn replica_ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

#[test]
fn a_move_learns_first_votes_then_and_completes_last() {
    let mut state = cluster(&[1, 2, 3]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    assert_eq!(raft.next_step(&Wanted::of(assigned(&state))), Some(Step::Settled));
    reassign(&mut state, &[4, 2, 3]);
    let new = assigned(&state).replicas[0];
    let (id, peer) = super::decide::member(&new);
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::AddLearner(id, peer)));
    assert_eq!(raft.next_step(&Wanted::of(assigned(&state))), Some(Step::Wait(Why::CatchUp)));
    raft.catch_up();
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::HandOver(ReplicaId(1_001))));
    let voters = replica_ids(&[1_001, 1_002, 1_003]);
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::ChangeVoters(voters)));
    let removed = vec![ReplicaId(1_000)];
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::Complete { epoch: 1, removed }));
    assert_eq!(steward(&mut state, &mut raft, false), None);
    assert_eq!(assigned(&state).leaving, []);
}

#[test]
fn a_sole_replica_moves_with_its_successor_beside_it_for_a_while() {
    let mut state = cluster(&[1]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    reassign(&mut state, &[2]);
    let steps = settle(&mut state, &mut raft);
    let both = replica_ids(&[1_000, 1_001]);
    assert!(matches!(steps[0], Step::AddLearner(..)));
    assert_eq!(steps[1..3], [Step::ChangeVoters(both), Step::HandOver(ReplicaId(1_001))]);
    assert_eq!(steps[3], Step::ChangeVoters(replica_ids(&[1_001])));
    assert!(matches!(steps[4], Step::Complete { .. }));
    assert_eq!(raft.members.peers.len(), 1);
}

#[test]
fn nobody_is_removed_where_the_rest_could_not_commit() {
    let mut state = cluster(&[1, 2, 3]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    raft.kill(BrokerId(2));
    reassign(&mut state, &[1, 2]);
    assert_eq!(raft.next_step(&Wanted::of(assigned(&state))), Some(Step::Wait(Why::TooFewAlive)));
    raft.dead.clear();
    settle(&mut state, &mut raft);
    assert_eq!(raft.members.voters(), replica_ids(&[1_000, 1_001]));
}

#[test]
fn a_dead_broker_is_not_made_a_learner_and_a_full_house_waits() {
    let mut state = cluster(&[1, 2, 3]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    reassign(&mut state, &[1, 2, 4]);
    raft.kill(BrokerId(4));
    let wanted = Wanted::of(assigned(&state));
    assert_eq!(raft.next_step(&wanted), Some(Step::Wait(Why::Dead)));
    raft.dead.clear();
    let members = raft.members.clone();
    let view = View {
        own: ReplicaId(1_000),
        members: &members,
        followers: &raft.followers(),
        caught_up_at: None,
        alive: &|_| true,
        has_room: false,
    };
    assert_eq!(next_step(&wanted, &view), Step::Wait(Why::Room));
}

#[derive(Debug, Clone)]
enum Event {
    Reassign(Vec<i32>),
    Rebuild(usize),
    Kill(i32),
    Revive(i32),
    Elect(usize),
    CatchUp,
    Step { breaks_off: bool },
}

fn any_event() -> impl Strategy<Value = Event> {
    let on = prop::sample::subsequence(vec![1, 2, 3, 4, 5], 1..=4).prop_shuffle();
    prop_oneof![
        2 => on.prop_map(Event::Reassign),
        1 => (0_usize..4).prop_map(Event::Rebuild),
        2 => (1..6_i32).prop_map(Event::Kill),
        2 => (1..6_i32).prop_map(Event::Revive),
        1 => (0_usize..4).prop_map(Event::Elect),
        4 => Just(Event::CatchUp),
        8 => prop::bool::weighted(0.2).prop_map(|breaks_off| Event::Step { breaks_off }),
    ]
}

fn happen(event: Event, state: &mut MetadataState, raft: &mut Raft) {
    match event {
        Event::Reassign(to) => reassign(state, &to),
        Event::Rebuild(nth) => {
            let replicas = &assigned(state).replicas;
            let replica = replicas[nth % replicas.len()].id;
            // A damaged replica asks for it, which another one leads.
            if raft.leader != Some(replica) {
                let rebuild = Command::RebuildReplica { topic: TOPIC, partition: FIRST, replica };
                let _ = apply(state, &rebuild);
            }
        }
        Event::Kill(broker) => raft.kill(BrokerId(broker)),
        Event::Revive(broker) => {
            raft.dead.remove(&BrokerId(broker));
            if raft.leader.is_none() {
                raft.elect(0);
            }
        }
        Event::Elect(preference) => raft.elect(preference),
        Event::CatchUp => raft.catch_up(),
        Event::Step { breaks_off } => {
            steward(state, raft, breaks_off);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever happens meanwhile, and whoever leads, a group ends up with the members that metadata asks for.
    #[test]
    fn members_follow_the_assignment_through_deaths_and_changes_of_mind(
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut state = cluster(&[1, 2, 3]);
        let mut raft = Raft::of(&assigned(&state).replicas);
        for event in events {
            happen(event, &mut state, &mut raft);
        }
        raft.dead.clear();
        raft.elect(0);
        settle(&mut state, &mut raft);
        let wanted = Wanted::of(assigned(&state));
        prop_assert_eq!(&raft.members.peers, &wanted.voters);
        prop_assert_eq!(&raft.members.configs, &vec![wanted.voters.keys().copied().collect::<BTreeSet<_>>()]);
        prop_assert!(assigned(&state).leaving.is_empty());
    }
}

fn metadata_members(voters: &[u64], learners: &[u64], state: &MetadataState) -> GroupMembership {
    let assigned = state.group(GroupId::METADATA).unwrap();
    let known = assigned.holders().map(super::decide::member);
    let mut peers: BTreeMap<_, _> =
        known.filter(|(id, _)| voters.contains(&id.0) || learners.contains(&id.0)).collect();
    for id in voters {
        // Not registered yet.
        let broker = broker(*id as i32, 0);
        let peer = headwater_consensus::Peer { broker_id: broker.id, incarnation: broker.incarnation };
        peers.entry(ReplicaId(*id)).or_insert(peer);
    }
    GroupMembership { configs: vec![replica_ids(voters)], peers, committed: true }
}

#[test]
fn founders_keep_their_votes_until_they_have_registered() {
    let mut state = MetadataState::default();
    register(&mut state, 1, 0, Some(1));
    let members = metadata_members(&[1, 2, 3], &[], &state);
    let wanted = voters::wanted(&state, &members, |_| true);
    assert!(wanted.hold_voters);
    assert_eq!(wanted.spared, replica_ids(&[2, 3]));
    register(&mut state, 2, 0, Some(2));
    // The third one lost its disk before it ever registered.
    register(&mut state, 3, 1, None);
    let wanted = voters::wanted(&state, &members, |_| true);
    assert!(!wanted.hold_voters);
    assert_eq!(wanted.voters.keys().copied().collect::<BTreeSet<_>>(), replica_ids(&[1, 2, 1_000]));
}

#[test]
fn everybody_follows_the_metadata_and_an_odd_few_vote() {
    let mut state = cluster(&[1]);
    register(&mut state, 6, 0, None);
    let wanted = |state: &MetadataState, gone: i32| {
        let members = metadata_members(&[1, 2, 3, 4, 5], &[1_001], state);
        voters::wanted(state, &members, |broker| broker != BrokerId(gone))
    };
    let ids = |members: &BTreeMap<ReplicaId, _>| members.keys().copied().collect::<BTreeSet<_>>();
    assert_eq!(ids(&wanted(&state, 9).voters), replica_ids(&[1, 2, 3, 4, 5]));
    assert_eq!(ids(&wanted(&state, 9).learners), replica_ids(&[1_001]));
    assert_eq!(ids(&wanted(&state, 3).voters), replica_ids(&[1, 2, 4, 5, 1_001]), "gone for long");
    set(&mut state, 2, BrokerState::Leaving);
    assert_eq!(ids(&wanted(&state, 9).voters), replica_ids(&[1, 3, 4, 5, 1_001]));
    apply(&mut state, &Command::UnregisterBroker { id: BrokerId(2) }).unwrap();
    let without = wanted(&state, 9);
    assert_eq!(without.leaving, vec![ReplicaId(2)]);
    assert!(without.spared.is_empty() && !without.hold_voters, "it is known to be gone");
}

#[test]
fn the_leader_rebuilds_what_lay_on_a_replaced_disk_and_empties_who_leaves() {
    let mut state = cluster(&[1, 2, 3]);
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), []);
    register(&mut state, 2, 1, None);
    let commands = voters::commands(&state, BrokerId(1), |_| true);
    let rebuild = Command::RebuildReplica { topic: TOPIC, partition: FIRST, replica: ReplicaId(1_001) };
    assert_eq!(commands, [rebuild]);
    commands.iter().for_each(|command| apply(&mut state, command).unwrap());
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), [], "once");

    set(&mut state, 3, BrokerState::Leaving);
    let commands = voters::commands(&state, BrokerId(1), |_| true);
    assert!(matches!(&commands[..], [Command::Reassign { brokers, .. }] if !brokers.contains(&BrokerId(3))));
    commands.iter().for_each(|command| apply(&mut state, command).unwrap());
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), [], "its copy is kept still");
    let leaving: Vec<_> = assigned(&state).leaving.iter().map(|replica| replica.id).collect();
    let epoch = assigned(&state).epoch;
    let complete = Command::CompleteReassign { topic: TOPIC, partition: FIRST, epoch, removed: leaving };
    apply(&mut state, &complete).unwrap();
    assert_eq!(
        voters::commands(&state, BrokerId(1), |_| true),
        [Command::UnregisterBroker { id: BrokerId(3) }]
    );
    assert_eq!(voters::commands(&state, BrokerId(3), |_| true), [], "another one says farewell");
}

#[test]
fn the_only_copy_on_a_replaced_disk_is_not_replaced_by_an_empty_one() {
    let mut state = cluster(&[2]);
    register(&mut state, 2, 1, None);
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), []);
    assert!(placement::leave(&state, &mut placement::Pool::of(&state, |_| true)).0.is_empty());
}

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
    let successor = |own, led_since, now, drained: i32, steadiness: &Steadiness, after| {
        let state_of =
            |id| Some(if id == BrokerId(drained) { BrokerState::Draining } else { BrokerState::Active });
        let fitness = Fitness { state_of: &state_of, steadiness, balance_after: after, now: at(now) };
        fitness.successor(BrokerId(own), partition, at(led_since), |_| true).map(BrokerId::get)
    };
    let after = Some(Duration::from_secs(10));
    assert_eq!(successor(2, 0, 14, 0, &steadiness, after), None, "the preferred one has just come back");
    assert_eq!(successor(2, 0, 15, 0, &steadiness, after), Some(1));
    assert_eq!(successor(2, 6, 15, 0, &steadiness, after), None, "it has just begun to lead");
    assert_eq!(successor(2, 0, 15, 0, &steadiness, None), None, "leaders stay");
    assert_eq!(successor(1, 0, 99, 0, &steadiness, after), None);
    assert_eq!(successor(1, 6, 6, 1, &steadiness, after), Some(2), "drained at once");
    assert_eq!(successor(2, 0, 99, 1, &steadiness, after), None, "the preferred one is drained");
    steadiness.note(everyone(&[1, 3]), at(20));
    assert_eq!(successor(1, 6, 20, 1, &steadiness, after), Some(3), "to one that is there");
}
