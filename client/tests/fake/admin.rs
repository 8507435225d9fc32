//! The admin service of the fake broker: what the client's tests ask for.

use headwater_proto::v1::admin_server::Admin;
use headwater_proto::{ErrorCode, v1};
use tonic::{Request, Response, Status};

use super::data::error;
use super::{FakeLog, FakeNode};

type Reply<T> = Result<Response<T>, Status>;

impl FakeNode {
    /// The results, and whether their answer is lost.
    fn create(&self, request: v1::CreateTopicsRequest) -> (Vec<v1::TopicResult>, bool) {
        let mut state = self.lock();
        let mut topics = Vec::new();
        for topic in request.topics {
            let name = topic.name;
            if state.no_controller {
                topics.push(v1::TopicResult {
                    name,
                    error: error(ErrorCode::NotController),
                    ..Default::default()
                });
                continue;
            }
            if state.topics.contains_key(&name) {
                let error = error(ErrorCode::TopicAlreadyExists);
                topics.push(v1::TopicResult { name, error, ..Default::default() });
                continue;
            }
            if !request.validate_only {
                state.topics.insert(name.clone(), vec![FakeLog::default(); topic.partitions as usize]);
            }
            let partitions = topic.partitions;
            topics.push(v1::TopicResult { name, partitions, replicas: 1, ..Default::default() });
        }
        if state.lose_admin_answer {
            state.cut();
        }
        (topics, state.lose_admin_answer)
    }
}

#[tonic::async_trait]
impl Admin for FakeNode {
    async fn metadata(&self, request: Request<v1::MetadataRequest>) -> Reply<v1::MetadataResponse> {
        self.awake().await;
        let state = self.lock();
        let unaware = state.unaware == Some(self.id);
        let mut names = request.into_inner().topics;
        if names.is_empty() {
            names = state.topics.keys().cloned().collect();
        }
        let describe = |name: String| {
            let Some(logs) = state.topics.get(&name).filter(|_| !unaware) else {
                let error = error(ErrorCode::UnknownTopicOrPartition);
                return v1::TopicMetadata { name, error, ..Default::default() };
            };
            let partition = |(partition, log): (usize, &FakeLog)| {
                let (leader_id, leader_epoch) =
                    if state.leader_known { log.belief(self.id) } else { (-1, -1) };
                let in_sync: Vec<i32> =
                    (0..state.nodes.len() as i32).filter(|id| !log.ends.contains_key(id)).collect();
                v1::PartitionMetadata {
                    partition: partition as i32,
                    leader_id,
                    leader_epoch,
                    in_sync,
                    ..Default::default()
                }
            };
            let partitions = logs.iter().enumerate().map(partition).collect();
            v1::TopicMetadata { name, partitions, topic_id: vec![7; 16].into(), ..Default::default() }
        };
        let topics = names.into_iter().map(describe).collect();
        let broker = |(id, node): (usize, &super::Node)| v1::Broker {
            id: id as i32,
            grpc_address: node.address.clone(),
            rack: node.rack.clone(),
            ..Default::default()
        };
        let brokers = state.nodes.iter().enumerate().map(broker).collect();
        Ok(Response::new(v1::MetadataResponse { cluster_id: "c".into(), controller_id: 0, brokers, topics }))
    }

    async fn create_topics(&self, request: Request<v1::CreateTopicsRequest>) -> Reply<v1::TopicResults> {
        let request = request.into_inner();
        let (topics, lost) = self.create(request);
        if lost {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn delete_topics(&self, request: Request<v1::DeleteTopicsRequest>) -> Reply<v1::TopicResults> {
        let mut state = self.lock();
        let mut delete = |name: String| {
            let gone = state.topics.remove(&name).is_some();
            let error = if gone { None } else { error(ErrorCode::UnknownTopicOrPartition) };
            v1::TopicResult { name, error, ..Default::default() }
        };
        let topics = request.into_inner().topics.into_iter().map(&mut delete).collect();
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Reply<v1::TopicResults> {
        let mut state = self.lock();
        let mut topics = Vec::new();
        for topic in request.into_inner().topics {
            if let Some(logs) = state.topics.get_mut(&topic.topic) {
                logs.resize(topic.partitions as usize, FakeLog::default());
            }
            topics.push(v1::TopicResult { name: topic.topic, ..Default::default() });
        }
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn describe_configs(
        &self,
        request: Request<v1::DescribeConfigsRequest>,
    ) -> Reply<v1::DescribeConfigsResponse> {
        let config = v1::ConfigDescription { name: "retention.ms".into(), ..Default::default() };
        let describe = |topic| v1::TopicConfigs { topic, error: None, configs: vec![config.clone()] };
        let topics = request.into_inner().topics.into_iter().map(describe).collect();
        Ok(Response::new(v1::DescribeConfigsResponse { topics }))
    }

    async fn alter_configs(&self, request: Request<v1::AlterConfigsRequest>) -> Reply<v1::TopicResults> {
        let alter = |topic: v1::AlterTopicConfigs| {
            let known = topic.configs.iter().all(|config| config.name == "retention.ms");
            let error = if known { None } else { error(ErrorCode::InvalidConfig) };
            v1::TopicResult { name: topic.topic, error, ..Default::default() }
        };
        let topics = request.into_inner().topics.into_iter().map(alter).collect();
        Ok(Response::new(v1::TopicResults { topics }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Reply<v1::DeleteRecordsResponse> {
        let mut state = self.lock();
        let mut partitions = Vec::new();
        for asked in request.into_inner().partitions {
            let mut result = v1::DeleteRecordsResult {
                topic: asked.topic.clone(),
                partition: asked.partition,
                ..Default::default()
            };
            match state.log(&asked.topic, asked.partition) {
                Some(log) => {
                    log.log_start = if asked.offset == -1 { log.next_offset } else { asked.offset };
                    result.log_start_offset = log.log_start;
                }
                None => result.error = error(ErrorCode::UnknownTopicOrPartition),
            }
            partitions.push(result);
        }
        Ok(Response::new(v1::DeleteRecordsResponse { partitions }))
    }

    async fn describe_partitions(
        &self,
        _: Request<v1::DescribePartitionsRequest>,
    ) -> Reply<v1::DescribePartitionsResponse> {
        let state = self.lock();
        let mut partitions = Vec::new();
        for (topic, logs) in &state.topics {
            for (partition, log) in logs.iter().enumerate() {
                partitions.push(v1::PartitionDescription {
                    topic: topic.clone(),
                    partition: partition as i32,
                    high_watermark: log.next_offset,
                    ..Default::default()
                });
            }
        }
        Ok(Response::new(v1::DescribePartitionsResponse { partitions }))
    }

    async fn accept_loss(&self, request: Request<v1::AcceptLossRequest>) -> Reply<v1::AcceptLossResponse> {
        let mut state = self.lock();
        let accept = |asked: v1::TopicPartition| {
            let known = state.log(&asked.topic, asked.partition).is_some();
            let error = if known { None } else { error(ErrorCode::UnknownTopicOrPartition) };
            v1::AcceptLossResult { topic: asked.topic, partition: asked.partition, error }
        };
        let partitions = request.into_inner().partitions.into_iter().map(accept).collect();
        Ok(Response::new(v1::AcceptLossResponse { partitions }))
    }
}
