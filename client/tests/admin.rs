//! Admin requests, and what a lost answer means.

#![allow(clippy::unwrap_used)]

mod fake;

use std::time::Duration;

use fake::Fake;
use headwater_client::{Client, ClientError, ErrorCode, NewTopic, OffsetSpec, TopicPartition};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn topics_are_created_described_and_deleted() {
    let fake = Fake::start(1, 2);
    let admin = fake.client(1).await.admin();
    assert_eq!(admin.cluster().await.unwrap().brokers.len(), 1);
    let topics = vec![NewTopic::new("new").partitions(3), NewTopic::new("t").partitions(1)];
    let created = admin.create_topics(topics, false).await.unwrap();
    assert_eq!(created[0].1.as_ref().unwrap().partitions, 3);
    let error = created[1].1.as_ref().unwrap_err();
    assert_eq!((created[1].0.as_str(), error.code()), ("t", Some(ErrorCode::TopicAlreadyExists)));
    assert!(!error.is_retriable());
    admin.create_partitions(vec![("new".into(), 5)], false).await.unwrap()[0].1.as_ref().unwrap();
    let described = admin.describe_topics(["new", "nope"]).await.unwrap();
    assert_eq!(described[0].1.as_ref().unwrap().partitions.len(), 5);
    assert_eq!(described[1].1.as_ref().unwrap_err().code(), Some(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(admin.describe_partitions(["new"]).await.unwrap().len(), 7);
    admin.delete_topics(["new"]).await.unwrap()[0].1.as_ref().unwrap();
    let left: Vec<String> = admin.list_topics().await.unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(left, ["t"]);
}

#[tokio::test(start_paused = true)]
async fn configs_offsets_and_record_deletion_answer_by_name() {
    let fake = Fake::start(1, 1);
    let admin = fake.client(1).await.admin();
    let configs = admin.describe_configs(["t"]).await.unwrap();
    assert_eq!(configs[0].1.as_ref().unwrap()[0].name, "retention.ms");
    admin.alter_configs("t", vec![("retention.ms".into(), Some("1".into()))], false).await.unwrap();
    let refused = admin.alter_configs("t", vec![("wrong".into(), None)], false).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidConfig));
    let (there, not_there) = (TopicPartition::new("t", 0), TopicPartition::new("t", 9));
    fake.lock().log("t", 0).unwrap().next_offset = 7;
    let started = admin.delete_records(vec![(there.clone(), None), (not_there.clone(), None)]).await.unwrap();
    assert_eq!(started[&there], Ok(7));
    assert_eq!(started[&not_there].as_ref().unwrap_err().code(), Some(ErrorCode::UnknownTopicOrPartition));
    let asked = vec![(there.clone(), OffsetSpec::LogStart), (not_there.clone(), OffsetSpec::LogStart)];
    let listed = admin.list_offsets(asked).await.unwrap();
    assert_eq!(listed[&there].as_ref().unwrap().offset, Some(7));
    assert!(listed[&not_there].is_err());
    assert_eq!(admin.accept_loss(vec![there.clone()]).await.unwrap()[&there], Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_answer_is_lost_is_not_repeated() {
    let fake = Fake::start(1, 1);
    let admin = fake.client(1).await.admin();
    fake.lock().lose_admin_answer = true;
    let error = admin.create_topics(vec![NewTopic::new("new").partitions(1)], false).await.unwrap_err();
    assert!(error.is_outcome_unknown(), "{error}");
    assert_eq!(admin.list_topics().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_starting_is_waited_for_and_one_that_is_not_there_is_named() {
    let fake = Fake::start(1, 1);
    fake.lock().down = true;
    let waiting = tokio::spawn(Client::connect(fake.config(1)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    fake.lock().down = false;
    waiting.await.unwrap().unwrap();

    fake.lock().down = true;
    let error = Client::connect(fake.config(1)).await.err().unwrap();
    assert!(matches!(&error, ClientError::Unreachable { brokers, .. } if brokers.contains("fake:9093")));
    let mut config = fake.config(1);
    config.brokers = vec!["no port".to_owned()];
    assert!(matches!(Client::connect(config).await.err().unwrap(), ClientError::Config { .. }));
}

#[tokio::test(start_paused = true)]
async fn one_broker_that_answers_is_enough_to_see_the_cluster() {
    for hung in [[1, 2], [0, 2], [0, 1]] {
        let fake = Fake::cluster(1, 3, 1);
        let mut config = fake.config(1);
        config.request_timeout = Duration::from_secs(4);
        let admin = Client::connect(config).await.unwrap().admin();
        hung.into_iter().for_each(|id| fake.lock().node(id).hung = true);
        for _ in 0..3 {
            let started = Instant::now();
            let status = admin.cluster_status().await.unwrap();
            assert!(!hung.contains(&status.controller_id), "{hung:?}");
            assert!(started.elapsed() < Duration::from_millis(1_100), "{hung:?}: {:?}", started.elapsed());
        }
    }
}

/// It asks others itself, and one of those may be silent.
#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_long_to_see_the_cluster_is_waited_for() {
    let fake = Fake::cluster(1, 3, 1);
    let mut config = fake.config(1);
    config.request_timeout = Duration::from_secs(4);
    let admin = Client::connect(config).await.unwrap().admin();
    fake.lock().status_takes = Duration::from_secs(3);
    let started = Instant::now();
    admin.cluster_status().await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(3_200), "{:?}", started.elapsed());
    fake.lock().status_takes = Duration::from_secs(30);
    let error = admin.cluster_status().await.unwrap_err().to_string();
    assert!(["fake:9093", "fake-1:9093", "fake-2:9093"].iter().all(|name| error.contains(name)), "{error}");
}
