//! The way of a broker with an empty data directory into a cluster: asks around until a step leads in.
//!
//! See [`super::founding`] for what is decided. Invariants: nothing is journalled but the outcome, once; until then
//! the broker says of itself that it is empty, and from then on that it is a member.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future;
use headwater_consensus::Peer;
use headwater_consensus::transport::Transport;
use headwater_proto::ErrorCode;
use headwater_proto::types::{BrokerId, ClusterId, Incarnation, ReplicaId, Term};
use headwater_proto::v1;
use headwater_proto::v1::join_response;
use thiserror::Error;

use super::founding::{Answer, Candidate, Member, Step, TwoClusters};
use super::identity::{Identity, IdentityError, new_cluster_id};
use super::{KnownBrokers, rejoin};
use crate::config::{ClusterConfig, Config};
use crate::host::Host;

/// How long one broker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Taking a broker in is a change of the metadata.
const JOIN_WITHIN: Duration = Duration::from_secs(10);
/// Between two rounds of asking.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Why a broker cannot enter a cluster, whatever it waits for.
#[derive(Debug, Error)]
pub enum EntranceError {
    #[error(transparent)]
    TwoClusters(#[from] TwoClusters),
    #[error("the cluster does not take this broker: {0}")]
    Refused(String),
    #[error(
        "the data directory belongs to cluster {own}, but the brokers of the configuration are in cluster {other}: \
         choose another --data-dir, or name the brokers of its own cluster"
    )]
    OtherCluster { own: ClusterId, other: ClusterId },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A broker on its way.
pub struct Entrance<'a> {
    pub host: &'a Host,
    /// What this broker says of itself when it asks to be taken in.
    pub introduction: v1::JoinRequest,
}

/// Brokers to ask, where the configuration says which one listens there.
pub fn seeds(cluster: &ClusterConfig, own: BrokerId) -> Vec<(Option<BrokerId>, String)> {
    let listed = cluster.nodes.0.iter().map(|(id, address)| (Some(BrokerId(*id)), address.to_string()));
    let joined = cluster.join.0.iter().map(|address| (None, address.to_string()));
    listed.filter(|(id, _)| *id != Some(own)).chain(joined).collect()
}

/// This broker, as it is before it belongs to a cluster.
pub fn candidate(config: &Config, incarnation: Incarnation) -> Candidate {
    let listed = config.cluster.nodes.0.keys().copied().map(BrokerId).collect();
    Candidate { broker_id: BrokerId(config.broker.node_id), incarnation, listed }
}

impl Entrance<'_> {
    /// Returns once the data directory belongs to a cluster, however long that takes.
    pub async fn enter(&self) -> Result<Identity, EntranceError> {
        let candidate = candidate(&self.host.context.config, self.host.data_dir.incarnation());
        let seeds = seeds(&self.host.context.config.cluster, candidate.broker_id);
        loop {
            let (mut found, mut troubles) = (Vec::new(), Vec::new());
            for answered in self.ask(&candidate, &seeds).await {
                match answered {
                    Ok(answer) => found.push(answer),
                    Err(trouble) => troubles.push(trouble),
                }
            }
            let answers: Vec<_> = found.iter().map(|found| found.answer.clone()).collect();
            let entered = match candidate.next_step(&answers)? {
                Step::Wait(waiting) => {
                    self.host.wait_for(&troubles.into_iter().next().unwrap_or_else(|| waiting.to_string()));
                    None
                }
                Step::Found(founders) => Some(self.found(&candidate, founders)),
                Step::Adopt { cluster_id, replica_id, founders } => {
                    Some(Identity { cluster_id, broker_id: candidate.broker_id, replica_id, founders })
                }
                Step::Join { cluster_id } => self.join(&candidate, cluster_id, &found).await?,
            };
            if let Some(identity) = entered {
                identity.write(&self.host.data_dir).await?;
                return Ok(identity);
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Returns once the cluster has given this broker another replica of the metadata group, and that has begun.
    pub async fn rejoin(&self, identity: &Identity) -> Result<Identity, EntranceError> {
        let (host, lost) = (self.host, identity.replica_id);
        let request = v1::JoinRequest {
            cluster_id: identity.cluster_id.0.to_vec().into(),
            lost_replica: lost.get(),
            ..self.introduction.clone()
        };
        let known = KnownBrokers::read(&host.data_dir).addresses();
        let mut asked = seeds(&host.context.config.cluster, identity.broker_id);
        asked.extend(known.into_iter().map(|(broker, address)| (Some(broker), address)));
        loop {
            host.wait_for(
                "this broker's replica of the metadata is damaged or given up: waiting for another broker to give it \
                 a new one",
            );
            for address in self.who_gives(identity.cluster_id, &asked).await {
                let Ok(response) = self.transport().join(&address, request.clone(), JOIN_WITHIN).await else {
                    continue;
                };
                match response.outcome {
                    Some(join_response::Outcome::Joined(joined)) if joined.metadata_replica != lost.get() => {
                        let replica_id = ReplicaId(joined.metadata_replica);
                        rejoin::begin(&host.data_dir, replica_id).await.map_err(IdentityError::from)?;
                        tracing::warn!(%lost, %replica_id, "the metadata is built anew from the other brokers");
                        return Ok(Identity { replica_id, founders: BTreeMap::new(), ..identity.clone() });
                    }
                    Some(join_response::Outcome::Failed(failed)) if is_final(&failed) => {
                        return Err(EntranceError::Refused(failed.message));
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Of the brokers of the cluster, those that know of its last forced recovery: others may still go by what it gave
    /// up, and what they allocate is worth nothing.
    async fn who_gives(&self, cluster_id: ClusterId, asked: &[(Option<BrokerId>, String)]) -> Vec<String> {
        let request = probe_request(self.transport(), self.host.data_dir.incarnation());
        let ask = |(_, address): &(Option<BrokerId>, String)| {
            let (address, request) = (address.clone(), request.clone());
            async move {
                let answer = self.transport().probe(&address, request, ANSWER_WITHIN).await.ok()?;
                let is_member = super::cluster_of(&answer) == Some(cluster_id);
                is_member.then_some((answer.metadata_recovered_above, address))
            }
        };
        let answers: Vec<_> = future::join_all(asked.iter().map(ask)).await.into_iter().flatten().collect();
        let known = rejoin::is_due(&self.host.data_dir).map_or(0, Term::get);
        let newest = answers.iter().map(|(above, _)| *above).fold(known, u64::max);
        answers.into_iter().filter(|(above, _)| *above == newest).map(|(_, address)| address).collect()
    }

    fn found(&self, candidate: &Candidate, founders: BTreeMap<ReplicaId, Peer>) -> Identity {
        let own = founders.iter().find(|(_, peer)| peer.broker_id == candidate.broker_id);
        let replica_id = own.map_or(ReplicaId(1), |(replica_id, _)| *replica_id);
        let cluster_id = new_cluster_id(self.host.context.env.entropy.as_ref());
        tracing::info!(%cluster_id, brokers = founders.len(), "a new cluster");
        Identity { cluster_id, broker_id: candidate.broker_id, replica_id, founders }
    }

    /// One round: the answers of those who gave one, and in words those that help nobody.
    async fn ask(&self, own: &Candidate, seeds: &[(Option<BrokerId>, String)]) -> Vec<Result<Found, String>> {
        let request = probe_request(self.transport(), own.incarnation);
        let ask = |(expected, address): &(Option<BrokerId>, String)| {
            let (request, expected, address) = (request.clone(), *expected, address.clone());
            async move {
                let response = self.transport().probe(&address, request, ANSWER_WITHIN).await.ok()?;
                self.check(own, expected, &address, response).transpose()
            }
        };
        future::join_all(seeds.iter().map(ask)).await.into_iter().flatten().collect()
    }

    /// What an answer says; nothing where it is this broker's own.
    fn check(
        &self,
        own: &Candidate,
        expected: Option<BrokerId>,
        address: &str,
        response: v1::ProbeResponse,
    ) -> Result<Option<Found>, String> {
        let Some(found) = Found::read(address, response) else {
            return Err(format!("what listens at {address} is no broker that this one understands"));
        };
        let broker_id = found.answer.broker_id();
        if found.incarnation == own.incarnation {
            // A list of brokers to join may well have this one in it.
            return Ok(None);
        }
        if broker_id == own.broker_id {
            return Err(format!(
                "the broker at {address} has node_id {broker_id} too: give each one its own"
            ));
        }
        if let Some(expected) = expected.filter(|expected| *expected != broker_id) {
            return Err(format!("at {address} there is broker {broker_id}, where the list says {expected}"));
        }
        self.transport().addresses().suggest(broker_id, address);
        for (id, address) in &found.addresses {
            self.transport().addresses().suggest(*id, address);
        }
        Ok(Some(found))
    }

    /// Asks the members that answered, one after the other, to be taken in.
    async fn join(
        &self,
        own: &Candidate,
        cluster_id: ClusterId,
        found: &[Found],
    ) -> Result<Option<Identity>, EntranceError> {
        let request =
            v1::JoinRequest { cluster_id: cluster_id.0.to_vec().into(), ..self.introduction.clone() };
        for member in found.iter().filter(|found| matches!(found.answer, Answer::Member(_))) {
            let answered = self.transport().join(&member.address, request.clone(), JOIN_WITHIN).await;
            let response = match answered {
                Ok(response) => response,
                Err(status) => {
                    let reason = status.message();
                    self.host
                        .wait_for(&format!("{} does not take this broker in yet: {reason}", member.address));
                    continue;
                }
            };
            for address in response.addresses {
                self.transport().addresses().suggest(BrokerId(address.broker_id), &address.address);
            }
            match response.outcome {
                Some(join_response::Outcome::Joined(joined)) => {
                    let replica_id = ReplicaId(joined.metadata_replica);
                    let founders = BTreeMap::new();
                    return Ok(Some(Identity { cluster_id, broker_id: own.broker_id, replica_id, founders }));
                }
                Some(join_response::Outcome::Failed(failed)) if is_final(&failed) => {
                    return Err(EntranceError::Refused(failed.message));
                }
                Some(join_response::Outcome::Failed(failed)) => self.host.wait_for(&failed.message),
                None => {
                    let unclear = "answered in a way that this broker does not understand";
                    self.host.wait_for(&format!("{} {unclear}", member.address));
                }
            }
        }
        Ok(None)
    }

    fn transport(&self) -> &Transport {
        &self.host.context.transport
    }
}

/// What a broker is asked by one that has that data directory.
pub fn probe_request(transport: &Transport, incarnation: Incarnation) -> v1::ProbeRequest {
    let broker_id = transport.local().broker_id.get();
    v1::ProbeRequest { broker_id, incarnation: incarnation.0.to_vec().into() }
}

/// Whether asking again leads nowhere.
fn is_final(failed: &v1::SubmitFailed) -> bool {
    let code = ErrorCode::from_number(failed.code);
    // The broker of that id may be one that is just going away.
    code.is_some_and(|code| !code.is_retriable() && code != ErrorCode::DuplicateBrokerRegistration)
}

/// What one address answered.
#[derive(Debug, Clone)]
struct Found {
    address: String,
    incarnation: Incarnation,
    answer: Answer,
    /// Where others are.
    addresses: Vec<(BrokerId, String)>,
}

impl Found {
    /// `None`: what was said makes no sense.
    fn read(address: &str, response: v1::ProbeResponse) -> Option<Self> {
        let broker_id = BrokerId(response.broker_id);
        let incarnation = Incarnation(response.incarnation.as_ref().try_into().ok()?);
        let answer = if response.cluster_id.is_empty() {
            let listed = response.listed.into_iter().map(BrokerId).collect();
            Answer::Empty(Candidate { broker_id, incarnation, listed })
        } else {
            let cluster_id = ClusterId(response.cluster_id.as_ref().try_into().ok()?);
            let founders = response.voters.iter().map(founder).collect::<Option<_>>()?;
            let yours = (response.your_replica != 0).then_some(ReplicaId(response.your_replica));
            Answer::Member(Member { broker_id, cluster_id, founders, yours })
        };
        let addresses =
            response.addresses.into_iter().map(|known| (BrokerId(known.broker_id), known.address));
        Some(Self { address: address.to_owned(), incarnation, answer, addresses: addresses.collect() })
    }
}

fn founder(voter: &v1::Voter) -> Option<(ReplicaId, Peer)> {
    let incarnation = Incarnation(voter.incarnation.as_ref().try_into().ok()?);
    Some((ReplicaId(voter.replica_id), Peer { broker_id: BrokerId(voter.broker_id), incarnation }))
}
