//! What other brokers ask of this one, apart from its replicas: who it is, to be taken in, metadata changes, pings.
//!
//! Invariants: a broker says that it belongs to no cluster only while its journal says so; a data directory that
//! was replaced is admitted no more; what must be decided by the leader of the metadata group is decided by no one
//! else.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use headwater_consensus::peer::Refusal;
use headwater_consensus::transport::{NodeHandler, NodeRequest, NodeResponse, PeerIdentity, Transport};
use headwater_core::metadata::{Broker, BrokerState, Command, Effect};
use headwater_proto::types::{BrokerId, ClusterId, GroupId, Incarnation, ReplicaId, Term};
use headwater_proto::v1;
use headwater_proto::v1::{join_response, read_index_reply};
use headwater_storage::data_dir::DataDir;
use tonic::Status;

use super::entrance::candidate;
use super::identity::Identity;
use super::submit::{Attempt, to_proto};
use crate::config::Config;
use crate::error::RequestError;
use crate::node::Node;
use crate::operations::{answer_hand_over, answer_survey};

/// A joiner waits as long.
const REGISTER_WITHIN: Duration = Duration::from_secs(8);

/// Answers other brokers from the moment on at which the data directory is open.
pub struct Peers {
    config: Arc<Config>,
    data_dir: Arc<DataDir>,
    transport: Transport,
    node: OnceLock<Weak<Node>>,
}

impl Peers {
    pub fn new(config: Arc<Config>, data_dir: Arc<DataDir>, transport: Transport) -> Arc<Self> {
        Arc::new(Self { config, data_dir, transport, node: OnceLock::new() })
    }

    /// From now on, what concerns a member of a cluster is answered. Only the first call counts.
    pub fn serve(&self, node: &Arc<Node>) {
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    fn who_am_i(&self) -> v1::ProbeResponse {
        let local = self.transport.local();
        let book = self.transport.addresses();
        let address = |id: BrokerId| {
            let address = book.addresses(id).into_iter().next()?;
            Some(v1::PeerAddress { broker_id: id.get(), address })
        };
        v1::ProbeResponse {
            broker_id: local.broker_id.get(),
            incarnation: bytes(self.data_dir.incarnation()),
            boot_id: local.boot_id,
            software_version: local.software_version.clone(),
            addresses: book.brokers().into_iter().filter_map(address).collect(),
            ..v1::ProbeResponse::default()
        }
    }

    fn tell_of_the_cluster(&self, asker: (BrokerId, Incarnation), response: &mut v1::ProbeResponse) {
        let Some(node) = self.node() else { return };
        let controller = node.controller();
        controller.with_state(|state| {
            let recovered = state.group(GroupId::METADATA).and_then(|group| group.recovered_above);
            response.metadata_recovered_above = recovered.map_or(0, Term::get);
            let own = state.metadata_replica(asker.0).filter(|replica| replica.incarnation == asker.1);
            response.your_replica = own.map_or(0, |replica| replica.id.get());
            if state.is_retired(asker.0, asker.1) {
                response.refused = retired(asker);
            }
        });
    }

    async fn take_in(&self, request: v1::JoinRequest) -> Result<v1::Joined, RequestError> {
        let node = self.node().ok_or(RequestError::NoMetadataLeader)?;
        let controller = node.controller();
        let own_cluster = controller.cluster_id();
        if !request.cluster_id.is_empty() && *request.cluster_id != own_cluster.0 {
            return Err(RequestError::Invalid(format!(
                "this is cluster {own_cluster}, not the one to be joined"
            )));
        }
        let incarnation = incarnation(&request.incarnation)
            .ok_or_else(|| RequestError::Invalid("a data directory is named by 16 bytes".to_owned()))?;
        let broker_id = BrokerId(request.broker_id);
        if broker_id == controller.broker_id() || node.is_alive_elsewhere(broker_id, incarnation) {
            return Err(RequestError::BrokerIdInUse(broker_id));
        }
        let broker = Broker {
            id: broker_id,
            incarnation,
            grpc_address: request.grpc_address,
            kafka_address: request.kafka_address,
            peer_address: request.peer_address,
            rack: request.rack,
            version: request.software_version,
            state: BrokerState::Active,
        };
        let register = Command::RegisterBroker { broker, metadata_replica: None };
        let mut replica = match controller.submit_within(register, REGISTER_WITHIN).await? {
            Effect::BrokerRegistered { metadata_replica } => metadata_replica,
            other => {
                return Err(RequestError::Internal(format!(
                    "a broker registered, and the effect was {other:?}"
                )));
            }
        };
        if replica == ReplicaId(request.lost_replica) {
            replica = self.replace(&node, replica).await?;
        }
        Ok(v1::Joined { cluster_id: own_cluster.0.to_vec().into(), metadata_replica: replica.get() })
    }

    /// Another replica of the metadata group for a broker that cannot use the one it has.
    async fn replace(&self, node: &Node, lost: ReplicaId) -> Result<ReplicaId, RequestError> {
        let GroupId { topic_id: topic, partition } = GroupId::METADATA;
        let rebuild = Command::RebuildReplica { topic, partition, replica: lost };
        match node.controller().submit_within(rebuild, REGISTER_WITHIN).await? {
            Effect::ReplicaRebuilt { replica } => Ok(replica.id),
            other => {
                Err(RequestError::Internal(format!("a replica was replaced, and the effect was {other:?}")))
            }
        }
    }
}

#[async_trait]
impl NodeHandler for Peers {
    /// What is let in unknown does no harm: its replicas have ids of their own.
    fn admits(&self, broker: BrokerId, incarnation: Incarnation) -> bool {
        let retired =
            |node: Arc<Node>| node.controller().with_state(|state| state.is_retired(broker, incarnation));
        !self.node().is_some_and(retired)
    }

    async fn answer(&self, from: &PeerIdentity, request: NodeRequest) -> Result<NodeResponse, Refusal> {
        let starting = || Refusal::Stopped("the broker is starting".to_owned());
        let node = self.node().ok_or_else(starting)?;
        let controller = node.controller();
        match request {
            NodeRequest::Ping(ping) => Ok(NodeResponse::Ping(node.cluster().hear(from, ping)?)),
            NodeRequest::Submit(submit) => {
                let command =
                    Command::decode(&submit.command).map_err(|e| Refusal::Malformed(e.to_string()))?;
                let attempt = match controller.group().leadership() {
                    Some(_) => controller.decide(&command).await,
                    None => Attempt::NotAppended(RequestError::NotLeader),
                };
                Ok(NodeResponse::Submit(to_proto(attempt, controller.leader())))
            }
            NodeRequest::ReadIndex(_) => {
                let outcome = match controller.read_index().await {
                    Ok(index) => read_index_reply::Outcome::Index(index.get()),
                    Err(_) => {
                        read_index_reply::Outcome::LeaderId(controller.leader().map_or(-1, BrokerId::get))
                    }
                };
                Ok(NodeResponse::ReadIndex(v1::ReadIndexReply { outcome: Some(outcome) }))
            }
            NodeRequest::Survey(request) => {
                let reply = answer_survey(&node, &request).map_err(Refusal::Malformed)?;
                Ok(NodeResponse::Survey(reply))
            }
            NodeRequest::HandOver(request) => {
                let reply = answer_hand_over(&node, &request).await.map_err(Refusal::Malformed)?;
                Ok(NodeResponse::HandOver(reply))
            }
        }
    }

    async fn probe(&self, request: v1::ProbeRequest) -> Result<v1::ProbeResponse, Status> {
        let unusable = |error: super::IdentityError| Status::failed_precondition(error.to_string());
        let mut response = self.who_am_i();
        match Identity::read(&self.data_dir, self.transport.local().broker_id).map_err(unusable)? {
            None => {
                let candidate = candidate(&self.config, self.data_dir.incarnation());
                response.listed = candidate.listed.into_iter().map(BrokerId::get).collect();
            }
            Some(identity) => {
                response.cluster_id = identity.cluster_id.0.to_vec().into();
                let founder = |(replica_id, peer): (&_, &headwater_consensus::Peer)| v1::Voter {
                    replica_id: headwater_proto::types::ReplicaId::get(*replica_id),
                    broker_id: peer.broker_id.get(),
                    incarnation: bytes(peer.incarnation),
                };
                response.voters = identity.founders.iter().map(founder).collect();
                if let Some(incarnation) = incarnation(&request.incarnation) {
                    self.tell_of_the_cluster((BrokerId(request.broker_id), incarnation), &mut response);
                }
            }
        }
        Ok(response)
    }

    async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinResponse, Status> {
        let outcome = match self.take_in(request).await {
            Ok(joined) => join_response::Outcome::Joined(joined),
            Err(error) => join_response::Outcome::Failed(v1::SubmitFailed {
                code: error.code().number().into(),
                message: error.to_string(),
                not_appended: false,
            }),
        };
        let addresses = self.who_am_i().addresses;
        Ok(v1::JoinResponse { outcome: Some(outcome), addresses })
    }
}

fn bytes(incarnation: Incarnation) -> bytes::Bytes {
    incarnation.0.to_vec().into()
}

fn incarnation(bytes: &[u8]) -> Option<Incarnation> {
    bytes.try_into().ok().map(Incarnation)
}

fn retired((broker, incarnation): (BrokerId, Incarnation)) -> String {
    headwater_core::metadata::MetadataError::RetiredIncarnation { broker, incarnation }.to_string()
}

/// The cluster of a probe's answer, if the broker has one.
pub fn cluster_of(response: &v1::ProbeResponse) -> Option<ClusterId> {
    response.cluster_id.as_ref().try_into().ok().map(ClusterId)
}
