//! The `Admin` service.

use std::sync::Arc;

use headwater_core::metadata::Topic;
use headwater_core::topic_config::{TOPIC_CONFIGS, effective};
use headwater_proto::types::Offset;
use headwater_proto::v1;
use headwater_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::convert::{check_partitions, check_topics, error_at, error_of, timeout_ms};
use super::metadata;
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
        let topics = self.topics(names).into_iter();
        let topics = topics.map(|(name, topic)| metadata::of_topic(&self.node, name, topic)).collect();
        Ok(Response::new(metadata::of_cluster(&self.node, topics)))
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
                error: error_at(&self.node, &one.topic, one.partition, &outcome),
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
                Ok(topic) => partitions.extend(metadata::descriptions(&self.node, &topic)),
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
            let error = error_at(&self.node, &one.topic, one.partition, &self.accept_loss_of(&one).await);
            partitions.push(v1::AcceptLossResult { topic: one.topic, partition: one.partition, error });
        }
        Ok(Response::new(v1::AcceptLossResponse { partitions }))
    }
}
