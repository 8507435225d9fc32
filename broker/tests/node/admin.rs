//! Topics and their configs.

use headwater_proto::v1;

use super::harness::*;

async fn alter(broker: &mut Harness, name: &str, value: Option<&str>) -> Option<v1::Error> {
    let config = v1::ConfigEntry { name: name.to_owned(), value: value.map(str::to_owned) };
    let topic = v1::AlterTopicConfigs { topic: "t".to_owned(), configs: vec![config] };
    let request = v1::AlterConfigsRequest { topics: vec![topic], validate_only: false };
    broker.admin.alter_configs(request).await.unwrap().into_inner().topics.remove(0).error
}

async fn grow(broker: &mut Harness, topic: &str, partitions: i32) -> v1::TopicResult {
    let topic = v1::NewPartitions { topic: topic.to_owned(), partitions };
    let request = v1::CreatePartitionsRequest { topics: vec![topic], validate_only: false };
    broker.admin.create_partitions(request).await.unwrap().into_inner().topics.remove(0)
}

async fn delete(broker: &mut Harness, topic: &str) -> v1::TopicResult {
    let request = v1::DeleteTopicsRequest { topics: vec![topic.to_owned()] };
    broker.admin.delete_topics(request).await.unwrap().into_inner().topics.remove(0)
}

#[tokio::test]
async fn topics_are_created_listed_grown_and_deleted() {
    let mut broker = Harness::start().await;
    let created = broker.create("t", 3, &[("retention.ms", "1000")]).await;
    assert_eq!((&created.error, created.partitions, created.replicas), (&None, 3, 1));
    for (name, partitions, expected) in [
        ("t", 1, "TOPIC_ALREADY_EXISTS"),
        ("a/b", 1, "INVALID_TOPIC_EXCEPTION"),
        ("n", -1, "INVALID_PARTITIONS"),
        ("n", i32::MAX, "POLICY_VIOLATION"),
    ] {
        assert_eq!(code(&broker.create(name, partitions, &[]).await.error), expected, "{name} {partitions}");
    }
    assert_eq!(code(&broker.create("n", 1, &[("cleanup.policy", "compact")]).await.error), "INVALID_CONFIG");
    assert_eq!(code(&grow(&mut broker, "t", 3).await.error), "INVALID_PARTITIONS");
    assert_eq!(grow(&mut broker, "t", 4).await.error, None);
    for restarted in [false, true] {
        if restarted {
            broker.restart().await;
        }
        let all = v1::MetadataRequest { topics: Vec::new() };
        let metadata = broker.admin.metadata(all).await.unwrap().into_inner();
        let [topic] = &metadata.topics[..] else { panic!("one topic: {metadata:?}") };
        assert_eq!((topic.name.as_str(), &topic.topic_id), ("t", &created.topic_id));
        assert_eq!(topic.partitions.len(), 4);
        assert!(topic.partitions.iter().all(|one| one.leader_id == 1 && one.leader_epoch >= 0));
        assert_eq!(metadata.brokers[0].id, 1);
    }
    let mut request = produce_request("t", 3, 0, batch(&["in the new one"]));
    request.partitions[0].leader_epoch = 99;
    let mut answers = broker.data.produce(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(code(&answer.partitions[0].error), "UNKNOWN_LEADER_EPOCH");
    broker.produce("t", vec![batch(&["a"])]).await;
    assert_eq!(delete(&mut broker, "t").await.error, None);
    assert_eq!(code(&delete(&mut broker, "t").await.error), "UNKNOWN_TOPIC_OR_PARTITION");
    let again = broker.create("t", 1, &[]).await;
    assert_ne!(again.topic_id, created.topic_id);
    assert_eq!(broker.read("t", 0, 0).await, [], "nothing of the old topic");
    let group = format!("{:0>32x}", u128::from_be_bytes(created.topic_id[..].try_into().unwrap()));
    let left = broker.disk.paths().into_iter().filter(|path| path.to_string_lossy().contains(&group));
    assert_eq!(left.count(), 0, "its files are gone");
    broker.stop().await;
}

#[tokio::test]
async fn configs_are_described_altered_and_refused_by_name() {
    let mut broker = Harness::start().await;
    broker.create("t", 1, &[]).await;
    assert_eq!(code(&alter(&mut broker, "write.caching", Some("true")).await), "INVALID_CONFIG");
    assert_eq!(code(&alter(&mut broker, "no.such.config", None).await), "INVALID_CONFIG");
    assert_eq!(alter(&mut broker, "max.message.bytes", Some("100")).await, None);
    broker.restart().await;
    let long = "x".repeat(100);
    eventually("the new limit is in force", || {
        let mut data = broker.data.clone();
        let request = produce_request("t", 0, 0, batch(&[&long]));
        async move {
            let mut answers = data.produce(tokio_stream::iter([request])).await.unwrap().into_inner();
            answers.message().await.unwrap().unwrap().partitions[0].error.is_some()
        }
    })
    .await;
    let request = v1::DescribeConfigsRequest { topics: vec!["t".to_owned()] };
    let configs = broker.admin.describe_configs(request).await.unwrap().into_inner().topics.remove(0).configs;
    let find = |name: &str| configs.iter().find(|config| config.name == name).unwrap();
    assert_eq!(
        (find("max.message.bytes").value.as_str(), find("max.message.bytes").is_default),
        ("100", false)
    );
    assert!(find("retention.ms").is_default && find("retention.ms").refused_because.is_empty());
    assert!(!find("flush.ms").refused_because.is_empty());
    assert_eq!(alter(&mut broker, "max.message.bytes", None).await, None);
    broker.stop().await;
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_broker() {
    use headwater_broker::env::{OsEntropy, SystemClock, TcpNetwork};
    use headwater_broker::{Broker, Env};
    let disk = std::sync::Arc::new(headwater_storage::disk::SimDisk::new(1));
    let start = |node_id| {
        let mut config = headwater_broker::config::Config::default();
        let free = "127.0.0.1:0".parse().unwrap();
        let broker = &mut config.broker;
        (broker.kafka_addr, broker.grpc_addr, broker.peer_addr, broker.http_addr) = (free, free, free, free);
        (broker.data_dir, broker.node_id) = ("/data".into(), node_id);
        let env = Env {
            disk: disk.clone(),
            clock: std::sync::Arc::new(SystemClock),
            entropy: std::sync::Arc::new(OsEntropy::new().unwrap()),
            network: std::sync::Arc::new(TcpNetwork::default()),
        };
        Broker::start(config, env)
    };
    let first = start(1).await.unwrap();
    let busy = start(1).await.unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    first.shutdown().await;
    let other = start(2).await.unwrap_err().to_string();
    assert!(other.contains("belongs to broker 1"), "{other}");
    start(1).await.unwrap().shutdown().await;
}
