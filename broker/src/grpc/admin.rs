//! The `Admin` service.

use std::sync::Arc;

use headwater_core::metadata::Topic;
use headwater_core::topic_config::{TOPIC_CONFIGS, effective};
use headwater_proto::types::{BrokerId, Offset};
use headwater_proto::v1;
use headwater_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::convert::{check_partitions, check_topics, error_of, timeout_ms};
use crate::controller::{ConfigChange, NewTopic, TopicOutcome};
use crate::error::RequestError;
use crate::node::Node;

pub struct AdminApi {
    node: Arc<Node>,
}

impl AdminApi {
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// The named topics; all, when none is named.
    fn topics(&self, names: Vec<String>) -> Vec<(String, Result<Topic, RequestError>)> {
        let controller = self.node.controller();
        if names.is_empty() {
            let all: Vec<_> = controller.with_state(|state| state.topics().cloned().collect());
            return all.into_iter().map(|topic| (topic.name.clone(), Ok(topic))).collect();
        }
        names.into_iter().map(|name| (name.clone(), controller.topic(&name))).collect()
    }

    fn topic_metadata(&self, name: String, topic: Result<Topic, RequestError>) -> v1::TopicMetadata {
        let error = error_of(&topic);
        let Ok(topic) = topic else {
            return v1::TopicMetadata { name, error, ..v1::TopicMetadata::default() };
        };
        let partitions = topic.numbered().map(|(number, partition)| {
            let replicas: Vec<_> = partition.brokers().map(BrokerId::get).collect();
            let local = self.node.partition(&topic.name, number.get());
            let leader_epoch = local.as_ref().map_or(-1, |partition| partition.leader_epoch());
            let own = self.node.controller().broker_id().get();
            let leads = leader_epoch >= 0;
            // A damaged sole replica leads nothing, and is still where what is intact can be read.
            let serves = leads || (local.is_ok() && replicas == [own]);
            v1::PartitionMetadata {
                partition: number.get(),
                leader_id: if serves { own } else { -1 },
                leader_epoch,
                in_sync: if leads { replicas.clone() } else { Vec::new() },
                replicas,
                error: error_of(&local),
            }
        });
        v1::TopicMetadata {
            name,
            topic_id: topic.id.0.to_vec().into(),
            error: None,
            internal: false,
            partitions: partitions.collect(),
        }
    }

    fn describe_partitions_of(&self, topic: &Topic) -> Vec<v1::PartitionDescription> {
        let describe = |number: i32| match self.node.partition(&topic.name, number) {
            Ok(partition) => {
                description(&topic.name, number, self.node.controller().broker_id().get(), &partition)
            }
            Err(error) => v1::PartitionDescription {
                topic: topic.name.clone(),
                partition: number,
                error: Some(error.to_proto()),
                leader_id: -1,
                leader_epoch: -1,
                log_start_offset: -1,
                high_watermark: -1,
                ..v1::PartitionDescription::default()
            },
        };
        topic.numbered().map(|(number, _)| describe(number.get())).collect()
    }

    async fn delete_records_of(&self, wanted: &v1::DeleteRecordsPartition) -> Result<Offset, RequestError> {
        let partition = self.node.partition(&wanted.topic, wanted.partition)?;
        let before = (wanted.offset != -1).then_some(Offset(wanted.offset));
        partition.delete_records(before).await
    }

    async fn accept_loss_of(&self, wanted: &v1::TopicPartition) -> Result<(), RequestError> {
        self.node.partition(&wanted.topic, wanted.partition)?.accept_loss().await?;
        self.node.registry().reopen(&wanted.topic, wanted.partition).await
    }
}

fn description(
    topic: &str,
    number: i32,
    broker_id: i32,
    partition: &crate::partition::Partition,
) -> v1::PartitionDescription {
    let found = partition.describe();
    v1::PartitionDescription {
        topic: topic.to_owned(),
        partition: number,
        error: None,
        leader_id: if found.leader_epoch >= 0 { broker_id } else { -1 },
        leader_epoch: found.leader_epoch,
        log_start_offset: found.progress.log_start.get(),
        high_watermark: found.progress.high_watermark.get(),
        size_bytes: found.size_bytes(),
        segments: u32::try_from(found.segments.len()).unwrap_or(u32::MAX),
        first_log_index: found.first_index,
        last_log_index: found.last_index,
        committed_log_index: found.progress.applied.index.get(),
        damage: found.damage,
    }
}

fn topic_result(name: String, outcome: Result<TopicOutcome, RequestError>) -> v1::TopicResult {
    let error = error_of(&outcome);
    match outcome {
        Ok(topic) => v1::TopicResult {
            name,
            topic_id: topic.id.0.to_vec().into(),
            error,
            partitions: i32::try_from(topic.partitions).unwrap_or(i32::MAX),
            replicas: i32::try_from(topic.replicas).unwrap_or(i32::MAX),
        },
        Err(_) => v1::TopicResult { name, error, ..v1::TopicResult::default() },
    }
}

fn changes(configs: Vec<v1::ConfigEntry>) -> Vec<ConfigChange> {
    configs.into_iter().map(|config| (config.name, config.value)).collect()
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn metadata(
        &self,
        request: Request<v1::MetadataRequest>,
    ) -> Result<Response<v1::MetadataResponse>, Status> {
        let names = request.into_inner().topics;
        check_topics(&self.node, names.len())?;
        let controller = self.node.controller();
        let broker = |broker: &headwater_core::metadata::Broker| v1::Broker {
            id: broker.id.get(),
            grpc_address: broker.grpc_address.clone(),
            kafka_address: broker.kafka_address.clone(),
            rack: broker.rack.clone(),
            version: broker.version.clone(),
        };
        let topics = self.topics(names).into_iter().map(|(name, topic)| self.topic_metadata(name, topic));
        Ok(Response::new(v1::MetadataResponse {
            cluster_id: controller.cluster_id().to_string(),
            controller_id: controller.broker_id().get(),
            brokers: controller.with_state(|state| state.brokers().map(broker).collect()),
            topics: topics.collect(),
        }))
    }

    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Response<v1::TopicResults>, Status> {
        let request = request.into_inner();
        check_topics(&self.node, request.topics.len())?;
        let timeout_ms = timeout_ms(&self.node, request.timeout_ms);
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let name = topic.name.clone();
            let new = NewTopic {
                name: topic.name,
                partitions: topic.partitions,
                replicas: topic.replicas,
                configs: changes(topic.configs),
            };
            let outcome = self.node.controller().create_topic(new, request.validate_only, timeout_ms).await;
            topics.push(topic_result(name, outcome));
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Response<v1::TopicResults>, Status> {
        let names = request.into_inner().topics;
        check_topics(&self.node, names.len())?;
        let timeout_ms = timeout_ms(&self.node, 0);
        let mut topics = Vec::with_capacity(names.len());
        for name in names {
            let outcome = self.node.controller().delete_topic(&name, timeout_ms).await;
            topics.push(topic_result(name, outcome));
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::TopicResults>, Status> {
        let request = request.into_inner();
        check_topics(&self.node, request.topics.len())?;
        let (controller, timeout_ms) = (self.node.controller(), timeout_ms(&self.node, 0));
        let mut topics = Vec::with_capacity(request.topics.len());
        for v1::NewPartitions { topic, partitions } in request.topics {
            let validate_only = request.validate_only;
            let outcome = controller.create_partitions(&topic, partitions, validate_only, timeout_ms).await;
            topics.push(topic_result(topic, outcome));
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn describe_configs(
        &self,
        request: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Response<v1::DescribeConfigsResponse>, Status> {
        let names = request.into_inner().topics;
        check_topics(&self.node, names.len())?;
        let describe = |(name, topic): (String, Result<Topic, RequestError>)| {
            let configs = topic.iter().flat_map(|topic| {
                TOPIC_CONFIGS.iter().map(|spec| {
                    let (value, is_default) = effective(spec, &topic.overrides);
                    v1::ConfigDescription {
                        name: spec.name.to_owned(),
                        value: value.to_owned(),
                        default_value: spec.default.to_owned(),
                        is_default,
                        documentation: spec.documentation.to_owned(),
                        refused_because: spec.refused_because().to_owned(),
                    }
                })
            });
            v1::TopicConfigs { topic: name, configs: configs.collect(), error: error_of(&topic) }
        };
        let topics = self.topics(names).into_iter().map(describe).collect();
        Ok(Response::new(v1::DescribeConfigsResponse { topics }))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::TopicResults>, Status> {
        let request = request.into_inner();
        check_topics(&self.node, request.topics.len())?;
        let (controller, timeout_ms) = (self.node.controller(), timeout_ms(&self.node, 0));
        let mut topics = Vec::with_capacity(request.topics.len());
        for v1::AlterTopicConfigs { topic, configs } in request.topics {
            let (changes, validate_only) = (changes(configs), request.validate_only);
            let outcome = controller.alter_configs(&topic, changes, validate_only, timeout_ms).await;
            topics.push(topic_result(topic, outcome));
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let wanted = request.into_inner().partitions;
        check_partitions(&self.node, wanted.len())?;
        let mut partitions = Vec::with_capacity(wanted.len());
        for one in wanted {
            let outcome = self.delete_records_of(&one).await;
            partitions.push(v1::DeleteRecordsResult {
                error: error_of(&outcome),
                log_start_offset: outcome.map_or(-1, |offset| offset.get()),
                topic: one.topic,
                partition: one.partition,
            });
        }
        Ok(Response::new(v1::DeleteRecordsResponse { partitions }))
    }

    async fn describe_partitions(
        &self,
        request: Request<v1::DescribePartitionsRequest>,
    ) -> Result<Response<v1::DescribePartitionsResponse>, Status> {
        let names = request.into_inner().topics;
        check_topics(&self.node, names.len())?;
        let mut partitions = Vec::new();
        for (name, topic) in self.topics(names) {
            match topic {
                Ok(topic) => partitions.extend(self.describe_partitions_of(&topic)),
                Err(error) => partitions.push(v1::PartitionDescription {
                    topic: name,
                    partition: -1,
                    error: Some(error.to_proto()),
                    leader_id: -1,
                    ..v1::PartitionDescription::default()
                }),
            }
        }
        Ok(Response::new(v1::DescribePartitionsResponse { partitions }))
    }

    async fn accept_loss(
        &self,
        request: Request<v1::AcceptLossRequest>,
    ) -> Result<Response<v1::AcceptLossResponse>, Status> {
        let wanted = request.into_inner().partitions;
        check_partitions(&self.node, wanted.len())?;
        let mut partitions = Vec::with_capacity(wanted.len());
        for one in wanted {
            let error = error_of(&self.accept_loss_of(&one).await);
            partitions.push(v1::AcceptLossResult { topic: one.topic, partition: one.partition, error });
        }
        Ok(Response::new(v1::AcceptLossResponse { partitions }))
    }
}
