//! Several brokers' views, with groups that do what a test says, on a paused clock.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use headwater_consensus::transport::PeerIdentity;
use headwater_consensus::{ConsensusError, Follower, GroupMembership, Peer, Quiet};
use headwater_proto::types::{Incarnation, LogIndex, PartitionId, ReplicaId, TopicId};
use headwater_storage::log::LogId;
use tokio::time::sleep;

use super::*;

const SETTINGS: ClusterSettings = ClusterSettings {
    ping_interval: Duration::from_millis(200),
    ping_timeout: Duration::from_millis(600),
    quiesce_after: Some(Duration::from_secs(5)),
};

fn group_id(partition: i32) -> GroupId {
    GroupId { topic_id: TopicId([5; 16]), partition: PartitionId(partition) }
}

/// A replica of a group on brokers 1, 2 and 3, whose replica ids are the broker ids.
struct FakeGroup {
    id: GroupId,
    own: i32,
    role: watch::Sender<Role>,
    last: Mutex<LogId>,
    /// What the followers hold less than the leader.
    lag: Mutex<u64>,
    quiet: AtomicBool,
    /// Agrees when its leader says that the group is quiet.
    may_rest: AtomicBool,
    wakes: AtomicU32,
    outranks: Notify,
}

impl FakeGroup {
    fn new(own: i32, partition: i32) -> Arc<Self> {
        Arc::new(Self {
            id: group_id(partition),
            own,
            role: watch::Sender::new(Role::default()),
            last: Mutex::new(LogId { term: Term(1), index: LogIndex(1) }),
            lag: Mutex::new(0),
            quiet: AtomicBool::new(false),
            may_rest: AtomicBool::new(true),
            wakes: AtomicU32::new(0),
            outranks: Notify::new(),
        })
    }

    fn lead(&self, term: Option<u64>) {
        self.role.send_replace(Role { leads: term.map(Term), ..Role::default() });
    }

    fn append(&self) {
        let mut last = self.last.lock().unwrap();
        last.index = last.index.next();
    }

    fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl LocalGroup for FakeGroup {
    fn id(&self) -> GroupId {
        self.id
    }

    fn replica_id(&self) -> ReplicaId {
        ReplicaId(self.own.unsigned_abs().into())
    }

    fn role(&self) -> Role {
        *self.role.borrow()
    }

    async fn role_changed(&self, known: Role) -> Option<Role> {
        let mut role = self.role.subscribe();
        let found = *role.wait_for(|role| *role != known).await.ok()?;
        Some(found)
    }

    async fn outranked_a_candidate(&self) {
        self.outranks.notified().await;
    }

    fn membership(&self) -> GroupMembership {
        let peer = |n: i32| Peer { broker_id: BrokerId(n), incarnation: Incarnation([1; 16]) };
        let peers: BTreeMap<_, _> = (1..=3).map(|n: i32| (ReplicaId(n as u64), peer(n))).collect();
        GroupMembership { configs: vec![peers.keys().copied().collect()], peers, committed: true }
    }

    fn followers(&self) -> BTreeMap<ReplicaId, Follower> {
        let matched = LogIndex(self.last().index.get() - *self.lag.lock().unwrap());
        let others = (1..=3).filter(|n| *n != self.own);
        others.map(|n| (ReplicaId(n as u64), Follower { matched, last_heard: None })).collect()
    }

    fn last(&self) -> LogId {
        *self.last.lock().unwrap()
    }

    fn all_applied(&self) -> bool {
        true
    }

    fn quiet(&self) -> bool {
        self.is_quiet()
    }

    async fn fall_quiet(&self, _: &BTreeSet<BrokerId>) -> Option<Quiet> {
        let term = self.role().leads?;
        self.quiet.store(true, Ordering::SeqCst);
        Some(Quiet { term, last: self.last() })
    }

    fn rest(&self, _: Term, last: LogId) -> bool {
        let agrees = self.may_rest.load(Ordering::SeqCst) && last == self.last();
        if agrees {
            self.quiet.store(true, Ordering::SeqCst);
        }
        agrees
    }

    fn rest_without_leader(&self) -> bool {
        false
    }

    async fn wake(&self) {
        if self.quiet.swap(false, Ordering::SeqCst) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn campaign(&self) {
        self.wake().await;
    }

    async fn transfer_leadership(&self, _: ReplicaId, _: Duration) -> Result<(), ConsensusError> {
        Err(ConsensusError::TimedOut)
    }
}

/// Which brokers there are, and between whom answers are lost, by who answers and who asked.
#[derive(Default)]
struct Net {
    brokers: Mutex<BTreeMap<BrokerId, (u64, Arc<Cluster>)>>,
    answers_lost: Mutex<BTreeSet<(i32, i32)>>,
    announced: AtomicU32,
}

struct Link {
    own: BrokerId,
    boot: u64,
    net: Arc<Net>,
}

impl Link {
    fn identity(&self) -> PeerIdentity {
        PeerIdentity {
            broker_id: self.own,
            incarnation: Incarnation([1; 16]),
            boot_id: self.boot,
            software_version: String::new(),
            protocol: 1,
        }
    }
}

#[async_trait]
impl Pinger for Link {
    async fn ping(&self, broker: BrokerId, ping: Ping, within: Duration) -> Option<Pong> {
        sleep(Duration::from_millis(1)).await;
        let count = ping.announcements.len() + ping.withdrawn.len();
        self.net.announced.fetch_add(u32::try_from(count).unwrap(), Ordering::SeqCst);
        let target = self.net.brokers.lock().unwrap().get(&broker).map(|(_, cluster)| Arc::clone(cluster));
        let pong = target.map(|target| target.hear(&self.identity(), ping).unwrap());
        let lost = self.net.answers_lost.lock().unwrap().contains(&(broker.get(), self.own.get()));
        if lost || pong.is_none() {
            sleep(within).await;
            return None;
        }
        pong
    }
}

impl Net {
    async fn boot(self: &Arc<Self>, own: i32, boot: u64) -> Arc<Cluster> {
        let link = Link { own: BrokerId(own), boot, net: Arc::clone(self) };
        let cluster = Cluster::new(BrokerId(own), SETTINGS, Arc::new(link));
        let before = self.brokers.lock().unwrap().insert(BrokerId(own), (boot, Arc::clone(&cluster)));
        if let Some((_, before)) = before {
            before.stop().await;
        }
        cluster.know(&(1..=3).map(BrokerId).collect(), |_| true);
        cluster.start();
        cluster
    }

    async fn kill(&self, broker: i32) {
        let killed = self.brokers.lock().unwrap().remove(&BrokerId(broker));
        killed.unwrap().1.stop().await;
    }
}

/// Three brokers, each with its replica of one group for each partition.
async fn three(partitions: i32) -> (Arc<Net>, Vec<Arc<Cluster>>, Vec<Vec<Arc<FakeGroup>>>) {
    let net = Arc::new(Net::default());
    let (mut clusters, mut groups) = (Vec::new(), Vec::new());
    for own in 1..=3 {
        let cluster = net.boot(own, 100 + u64::try_from(own).unwrap()).await;
        let replicas: Vec<_> = (0..partitions).map(|partition| FakeGroup::new(own, partition)).collect();
        for replica in &replicas {
            cluster.enlist(Arc::clone(replica) as Arc<dyn LocalGroup>);
        }
        clusters.push(cluster);
        groups.push(replicas);
    }
    (net, clusters, groups)
}

async fn ms(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_known_everywhere_at_once() {
    let (_net, clusters, groups) = three(1).await;
    ms(450).await;
    groups[0][0].lead(Some(4));
    ms(20).await;
    for cluster in &clusters {
        let leader = cluster.leader(group_id(0)).unwrap();
        assert_eq!((leader.broker, leader.term), (BrokerId(1), Term(4)));
    }
    groups[1][0].lead(Some(5));
    ms(20).await;
    for cluster in &clusters {
        assert_eq!(cluster.leader(group_id(0)).unwrap().broker, BrokerId(2), "the highest term wins");
    }
    groups[0][0].lead(None);
    groups[1][0].lead(None);
    ms(20).await;
    for cluster in &clusters {
        assert_eq!(cluster.leader(group_id(0)), None);
        assert_eq!(cluster.highest_term(group_id(0)), Term(5));
    }
}

#[tokio::test(start_paused = true)]
async fn in_sync_are_those_that_are_alive_and_caught_up() {
    let (net, clusters, groups) = three(1).await;
    groups[0][0].lead(Some(4));
    ms(1_000).await;
    assert_eq!(clusters[2].in_sync(group_id(0)), [1, 2, 3].map(BrokerId));
    *groups[0][0].lag.lock().unwrap() = 1;
    for _ in 0..60 {
        groups[0][0].append();
        ms(200).await;
    }
    assert_eq!(clusters[2].in_sync(group_id(0)), [1, 2, 3].map(BrokerId), "a step behind is in sync");
    net.kill(2).await;
    ms(1_000).await;
    assert_eq!(clusters[2].in_sync(group_id(0)), [1, 3].map(BrokerId));
}

#[tokio::test(start_paused = true)]
async fn idle_groups_rest_cost_nothing_and_wake_with_their_leader() {
    let (net, _clusters, groups) = three(50).await;
    for group in &groups[0] {
        group.lead(Some(2));
    }
    for _ in 0..2 {
        ms(150).await;
        groups.iter().flatten().for_each(|group| group.append());
    }
    ms(150).await;
    groups.iter().flatten().for_each(|group| group.append());
    ms(4_000).await;
    assert!(!groups.iter().flatten().any(|group| group.is_quiet()));
    ms(2_500).await;
    assert!(groups.iter().flatten().all(|group| group.is_quiet()));
    let woken = || groups.iter().flatten().map(|group| group.wakes.load(Ordering::SeqCst)).sum::<u32>();
    let (said, before) = (net.announced.load(Ordering::SeqCst), woken());
    ms(60_000).await;
    assert_eq!(net.announced.load(Ordering::SeqCst), said, "nothing changed, nothing is said");
    assert_eq!(woken(), before);

    groups[0][7].append();
    groups[0][7].wake().await;
    ms(500).await;
    assert!(!groups[1][7].is_quiet() && !groups[2][7].is_quiet());
    assert_eq!(groups[1].iter().filter(|group| group.is_quiet()).count(), 49);
    for own in [1, 2] {
        groups[own][7].append();
    }
    ms(6_000).await;
    assert!(groups.iter().flatten().all(|group| group.is_quiet()), "and rests again");
}

#[tokio::test(start_paused = true)]
async fn followers_of_a_dead_leader_wake_one_after_the_other() {
    let (net, _clusters, groups) = three(2).await;
    groups[0][0].lead(Some(2));
    groups[0][1].lead(Some(2));
    ms(7_000).await;
    assert!(groups.iter().flatten().all(|group| group.is_quiet()));
    net.kill(1).await;
    ms(900).await;
    let awake = groups[1..].iter().flatten().map(|group| !group.is_quiet());
    assert_eq!(
        awake.collect::<Vec<_>>(),
        [true, true, false, false],
        "the next in the assignment comes first"
    );
    ms(3_300).await;
    assert!(!groups[1..].iter().flatten().any(|group| group.is_quiet()), "nobody was elected: the next ones");
}

#[tokio::test(start_paused = true)]
async fn a_group_that_its_leader_gave_up_wakes_though_the_broker_lives() {
    let (_net, _clusters, groups) = three(1).await;
    groups[0][0].lead(Some(2));
    ms(7_000).await;
    assert!(groups[1][0].is_quiet());
    groups[0][0].lead(None);
    ms(3_500).await;
    assert!(!groups[1][0].is_quiet(), "the next in turn");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_comes_back_wakes_the_groups_of_its_replicas() {
    let (net, _clusters, groups) = three(1).await;
    groups[0][0].lead(Some(2));
    ms(7_000).await;
    net.kill(3).await;
    ms(2_000).await;
    assert!(groups[0][0].is_quiet(), "a follower's death alone changes nothing");
    groups[0][0].wake().await;
    groups[0][0].append();
    groups[1][0].append();
    ms(7_000).await;
    assert!(groups[0][0].is_quiet(), "the dead are not waited for");
    let reborn = net.boot(3, 200).await;
    let replica = FakeGroup::new(3, 0);
    replica.append();
    reborn.enlist(Arc::clone(&replica) as Arc<dyn LocalGroup>);
    ms(500).await;
    assert_eq!(groups[0][0].wakes.load(Ordering::SeqCst), 2);
    assert_eq!(reborn.leader(group_id(0)).unwrap().broker, BrokerId(1));
    ms(3_000).await;
    assert!(groups[0][0].is_quiet() && replica.is_quiet(), "nothing was written: it rests again soon");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_cannot_rest_yet_is_asked_again() {
    let (_net, _clusters, groups) = three(1).await;
    groups[2][0].may_rest.store(false, Ordering::SeqCst);
    groups[0][0].lead(Some(2));
    ms(7_000).await;
    assert!(groups[1][0].is_quiet() && !groups[2][0].is_quiet());
    groups[2][0].may_rest.store(true, Ordering::SeqCst);
    ms(300).await;
    assert!(groups[2][0].is_quiet());
}

#[tokio::test(start_paused = true)]
async fn while_a_broker_does_not_hear_the_announcement_the_leader_stays_awake() {
    let (net, _clusters, groups) = three(1).await;
    // Broker 3 lives and hears broker 1, and its answers are lost: nobody knows what it knows.
    net.answers_lost.lock().unwrap().insert((3, 1));
    groups[0][0].lead(Some(2));
    ms(9_000).await;
    assert!(!groups[0][0].is_quiet());
    net.answers_lost.lock().unwrap().clear();
    ms(7_000).await;
    assert!(groups[0][0].is_quiet());
}

#[tokio::test(start_paused = true)]
async fn groups_that_start_at_rest_wake_in_turn_once_most_voters_are_there() {
    let net = Arc::new(Net::default());
    let first = net.boot(1, 101).await;
    let start = |own| {
        let group = FakeGroup::new(own, 0);
        group.quiet.store(true, Ordering::SeqCst);
        group
    };
    let one = start(1);
    first.enlist(Arc::clone(&one) as Arc<dyn LocalGroup>);
    ms(5_000).await;
    assert!(one.is_quiet(), "nobody is there to elect it");
    let second = net.boot(2, 102).await;
    let two = start(2);
    second.enlist(Arc::clone(&two) as Arc<dyn LocalGroup>);
    ms(700).await;
    assert!(!one.is_quiet() && two.is_quiet(), "the preferred leader comes first");
    ms(3_000).await;
    assert!(!two.is_quiet(), "it was not elected: the next one");

    let alone = Net::default();
    let (alone, three) = (Arc::new(alone), start(3));
    alone.boot(3, 103).await.enlist(Arc::clone(&three) as Arc<dyn LocalGroup>);
    ms(14_000).await;
    assert!(three.is_quiet());
    ms(2_000).await;
    assert!(!three.is_quiet(), "it does not wait for ever");
}

#[tokio::test(start_paused = true)]
async fn who_holds_more_than_a_candidate_does_not_wait_for_its_turn() {
    let (net, clusters, groups) = three(1).await;
    groups[0][0].lead(Some(2));
    ms(7_000).await;
    let two = &groups[1][0];
    groups[2][0].outranks.notify_one();
    ms(100).await;
    assert!(groups[2][0].is_quiet(), "there is a leader");
    clusters[2].hold_elections(true);
    net.kill(1).await;
    ms(900).await;
    assert!(!two.is_quiet(), "the next in the assignment");
    groups[2][0].outranks.notify_one();
    ms(10).await;
    assert!(groups[2][0].is_quiet(), "it may not campaign");
    clusters[2].hold_elections(false);
    groups[2][0].outranks.notify_one();
    ms(10).await;
    assert!(!groups[2][0].is_quiet());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_leader_does_not_wait_for_its_turn() {
    let (net, clusters, groups) = three(1).await;
    groups[0][0].lead(Some(2));
    ms(7_000).await;
    net.kill(1).await;
    ms(1_000).await;
    assert!(groups[2][0].is_quiet(), "its turn is later");
    clusters[2].hold_elections(true);
    clusters[2].want_leader(group_id(0));
    ms(10).await;
    assert!(groups[2][0].is_quiet(), "it may have been given up");
    clusters[2].hold_elections(false);
    clusters[2].want_leader(group_id(0));
    ms(1).await;
    assert!(!groups[2][0].is_quiet());
    assert!(groups[1][0].wakes.load(Ordering::SeqCst) > 0, "the first in turn");
}
