//! Every order of asking, answering, crashing and wiping: one list, one cluster.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// One broker: what its disk holds, and the answers of the round of asking under way.
#[derive(Debug, Clone)]
struct Node {
    id: BrokerId,
    incarnation: Incarnation,
    member: Option<Member>,
    round: Vec<Answer>,
}

#[derive(Debug, Clone)]
struct World {
    listed: BTreeSet<BrokerId>,
    nodes: Vec<Node>,
    founded: Vec<ClusterId>,
    /// What the cluster has registered.
    registered: BTreeMap<Incarnation, ReplicaId>,
    drawn: u8,
}

#[derive(Debug, Clone)]
enum Event {
    /// The first asks the second, whose answer may get lost.
    Ask(usize, usize, bool),
    /// The answers of the round lead to a step; a crash comes before it is durable, or not at all.
    Decide(usize, bool),
    /// The process dies, and what it was told with it.
    Crash(usize),
    /// The disk is replaced by an empty one.
    Wipe(usize),
}

impl World {
    fn new(count: usize) -> Self {
        let ids: Vec<_> = (1..).map(BrokerId).take(count).collect();
        let node = |id: &BrokerId| Node {
            id: *id,
            incarnation: Incarnation([id.get() as u8; 16]),
            member: None,
            round: Vec::new(),
        };
        Self {
            listed: ids.iter().copied().collect(),
            nodes: ids.iter().map(node).collect(),
            founded: Vec::new(),
            registered: BTreeMap::new(),
            drawn: 100,
        }
    }

    fn candidate(&self, node: usize) -> Candidate {
        let node = &self.nodes[node];
        Candidate { broker_id: node.id, incarnation: node.incarnation, listed: self.listed.clone() }
    }

    fn answer(&self, asked: usize, asker: usize) -> Answer {
        match &self.nodes[asked].member {
            None => Answer::Empty(self.candidate(asked)),
            Some(member) => {
                let yours = self.registered.get(&self.nodes[asker].incarnation).copied();
                Answer::Member(Member { yours, ..member.clone() })
            }
        }
    }

    fn ask(&mut self, asker: usize, asked: usize) {
        if asker != asked && self.nodes[asker].member.is_none() {
            let answer = self.answer(asked, asker);
            let from = self.nodes[asked].id;
            let node = &mut self.nodes[asker];
            node.round.retain(|answer| match answer {
                Answer::Empty(candidate) => candidate.broker_id != from,
                Answer::Member(member) => member.broker_id != from,
            });
            node.round.push(answer);
        }
    }

    fn decide(&mut self, node: usize, crashes: bool) {
        let round = std::mem::take(&mut self.nodes[node].round);
        if self.nodes[node].member.is_some() {
            return;
        }
        let own = self.candidate(node);
        let step = own.next_step(&round).unwrap();
        let member =
            |cluster_id, founders| Member { broker_id: own.broker_id, cluster_id, founders, yours: None };
        let entered = match step {
            Step::Wait(_) => return,
            Step::Found(founders) => {
                assert_eq!(Some(&own.broker_id), self.listed.first());
                assert_eq!(founders.len(), self.listed.len());
                self.drawn += 1;
                let cluster_id = ClusterId([self.drawn; 16]);
                if !crashes {
                    self.founded.push(cluster_id);
                }
                member(cluster_id, founders)
            }
            Step::Adopt { cluster_id, replica_id, founders } => {
                let own = Peer { broker_id: own.broker_id, incarnation: own.incarnation };
                assert!(founders.is_empty() || founders[&replica_id] == own);
                member(cluster_id, founders)
            }
            Step::Join { cluster_id } => {
                let next = ReplicaId(1_000 + self.registered.len() as u64);
                self.registered.entry(own.incarnation).or_insert(next);
                member(cluster_id, BTreeMap::new())
            }
        };
        if !crashes {
            self.nodes[node].member = Some(entered);
        }
    }

    fn wipe(&mut self, node: usize) {
        self.drawn += 1;
        let node = &mut self.nodes[node];
        node.incarnation = Incarnation([self.drawn; 16]);
        (node.member, node.round) = (None, Vec::new());
    }

    /// Whether most founders hold what the founder decided: nothing can be acknowledged before that.
    fn is_established(&self) -> bool {
        let Some(founders) = self.nodes.iter().find_map(|node| {
            node.member.as_ref().map(|member| &member.founders).filter(|founders| !founders.is_empty())
        }) else {
            return false;
        };
        let holds = |node: &&Node| {
            let own = Peer { broker_id: node.id, incarnation: node.incarnation };
            node.member.is_some() && founders.values().any(|founder| *founder == own)
        };
        self.nodes.iter().filter(holds).count() > founders.len() / 2
    }

    fn run(&mut self, event: &Event) {
        let count = self.nodes.len();
        match event {
            Event::Ask(asker, asked, lost) => {
                if !lost {
                    self.ask(asker % count, asked % count);
                }
            }
            Event::Decide(node, crashes) => self.decide(node % count, *crashes),
            Event::Crash(node) => self.nodes[node % count].round.clear(),
            // The disks of a minority, and not before there is anything to lose.
            Event::Wipe(node) => {
                let before = self.clone();
                if self.is_established() {
                    self.wipe(node % count);
                    if !self.is_established() {
                        *self = before;
                    }
                }
            }
        }
    }

    /// Everybody is up, and asks everybody.
    fn settle(&mut self) {
        for _ in 0..3 {
            for node in 0..self.nodes.len() {
                for asked in 0..self.nodes.len() {
                    self.ask(node, asked);
                }
                self.decide(node, false);
            }
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..8_usize;
    prop_oneof![
        8 => (node.clone(), node.clone(), prop::bool::weighted(0.2)).prop_map(|(a, b, lost)| Event::Ask(a, b, lost)),
        4 => (node.clone(), prop::bool::weighted(0.3)).prop_map(|(node, crashes)| Event::Decide(node, crashes)),
        1 => node.clone().prop_map(Event::Crash),
        1 => node.prop_map(Event::Wipe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn one_list_makes_exactly_one_cluster(count in 2..6_usize, events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new(count);
        for event in &events {
            world.run(event);
            prop_assert!(world.founded.len() <= 1);
        }
        world.settle();
        prop_assert_eq!(world.founded.len(), 1);
        for node in &world.nodes {
            prop_assert_eq!(node.member.as_ref().map(|member| member.cluster_id), Some(world.founded[0]));
        }
        // Where no disk was replaced, everybody is a voter of the first hour.
        if events.iter().all(|event| !matches!(event, Event::Wipe(_))) {
            prop_assert!(world.registered.is_empty());
        }
    }
}

fn ids(ids: &[i32]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn candidate(id: i32, listed: &[i32]) -> Candidate {
    Candidate { broker_id: BrokerId(id), incarnation: Incarnation([id as u8; 16]), listed: ids(listed) }
}

fn member(id: i32, cluster: u8) -> Answer {
    let cluster_id = ClusterId([cluster; 16]);
    Answer::Member(Member { broker_id: BrokerId(id), cluster_id, founders: BTreeMap::new(), yours: None })
}

#[test]
fn what_is_missing_is_said() {
    let (one, two) = (candidate(1, &[1, 2, 3]), candidate(2, &[1, 2, 3]));
    let empty = |candidate: &Candidate| Answer::Empty(candidate.clone());
    let cases = [
        (&one, vec![], Waiting::Silent(ids(&[2, 3]))),
        (&one, vec![empty(&two)], Waiting::Silent(ids(&[3]))),
        (&two, vec![empty(&one), empty(&candidate(3, &[1, 2, 3]))], Waiting::Founder(BrokerId(1))),
        (&one, vec![empty(&two), empty(&candidate(3, &[3, 4]))], Waiting::OtherList(BrokerId(3))),
    ];
    for (own, answers, expected) in cases {
        assert_eq!(own.next_step(&answers), Ok(Step::Wait(expected)), "{answers:?}");
    }
    let joiner = candidate(4, &[]);
    assert_eq!(joiner.next_step(&[empty(&one)]), Ok(Step::Wait(Waiting::NobodyToJoin)));
    let joined = Step::Join { cluster_id: ClusterId([7; 16]) };
    assert_eq!(joiner.next_step(&[empty(&one), member(2, 7)]), Ok(joined));
}

#[test]
fn brokers_of_two_clusters_are_no_answer() {
    let error = candidate(1, &[1, 2, 3]).next_step(&[member(2, 7), member(3, 8)]).unwrap_err();
    assert_eq!(error.first, (BrokerId(2), ClusterId([7; 16])));
    assert!(error.to_string().contains("broker 3 in cluster"), "{error}");
}
