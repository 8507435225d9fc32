//! A load on brokers that run as processes, from its topics to the verdict on what they kept: what `chaos`, `crash`
//! and `failover` have in common.
//!
//! Invariant: each producer and each reader has a connection of its own, as programs have.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headwater_client::{Client, ClientConfig, NewTopic, ProducerConfig, Topic};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Partition, Recorder};
use crate::workload::{self, Target, patiently};

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, AnyError>;

/// Replicas are in sync again this long after the last fault, or the run has failed.
const IN_SYNC_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LIST_PAUSE: Duration = Duration::from_millis(150);

/// Producers and readers in the background, and the history that they note.
pub struct Load {
    bootstrap: String,
    client: Client,
    recorder: Recorder,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
    producers: u32,
    readers: u32,
}

impl Load {
    /// Connects to brokers, whose gRPC addresses are separated by commas.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn on(bootstrap: &str) -> Result<Self> {
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            client: connect(bootstrap).await?,
            recorder: Recorder::real_time(),
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
            producers: 0,
            readers: 0,
        })
    }

    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.bootstrap).await
    }

    /// Creates the topic of a target, with so many replicas and these configs.
    ///
    /// # Errors
    /// The cluster refuses, or no broker answered.
    pub async fn create(&self, target: &Target, replicas: usize, configs: &[(&str, &str)]) -> Result<()> {
        let topic = NewTopic::new(&*target.topic).partitions(target.partitions);
        let topic = configs.iter().fold(topic, |topic, (name, value)| topic.config(*name, *value));
        let topic = NewTopic { replicas: Some(i32::try_from(replicas)?), ..topic };
        for (_, created) in self.client.admin().create_topics(vec![topic], false).await? {
            created?;
        }
        Ok(())
    }

    /// One more producer, which pauses for `pace` between records.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn produce(
        &mut self,
        config: ProducerConfig,
        targets: &[&Target],
        pace: Duration,
    ) -> Result<()> {
        let producer = self.connect().await?.producer(config).await?;
        let targets = targets.iter().copied().cloned().collect();
        let number = self.producers;
        self.producers += 1;
        let produce =
            workload::produce(producer, number, targets, self.recorder.clone(), self.stopped(), pace);
        self.spawn(async {
            produce.await;
            Ok(())
        });
        Ok(())
    }

    /// One more reader.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn follow(&mut self, target: &Target) -> Result<()> {
        let reader = self.connect().await?;
        let number = self.readers;
        self.readers += 1;
        let follow = workload::follow(reader, number, target.clone(), self.recorder.clone(), self.stopped());
        self.spawn(async { Ok(follow.await?) });
        Ok(())
    }

    /// Asks for the ends of the partitions, all the time.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn list(&mut self, target: &Target) -> Result<()> {
        let client = self.connect().await?;
        let list = workload::list(client, target.clone(), self.recorder.clone(), self.stopped(), LIST_PAUSE);
        self.spawn(async {
            list.await;
            Ok(())
        });
        Ok(())
    }

    /// Something else that goes on until the load is stopped.
    pub fn spawn(&mut self, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Becomes true when the load is to end.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Records acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.recorder.note(|history| history.acked_count())
    }

    /// Waits until each partition has a leader and all its replicas are in sync.
    ///
    /// # Errors
    /// They are not within a minute.
    pub async fn in_sync(&self, targets: &[&Target], replicas: usize) -> Result<()> {
        let admin = self.client.admin();
        let names = || targets.iter().map(|target| target.topic.to_string());
        let whole = |topic: &Topic| {
            topic.partitions.iter().all(|p| p.leader_id.is_some() && p.in_sync.len() == replicas)
        };
        let started = Instant::now();
        loop {
            let topics = patiently(|| async { admin.describe_topics(names()).await }).await?;
            if topics.iter().all(|(_, topic)| topic.as_ref().is_ok_and(whole)) {
                return Ok(());
            }
            if started.elapsed() > IN_SYNC_WITHIN {
                return Err(format!("not in sync after {IN_SYNC_WITHIN:?}: {topics:?}").into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Stops all, and waits until each has what it had under way.
    ///
    /// # Errors
    /// A reader has failed, or what was spawned.
    pub async fn end(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(task) = self.tasks.join_next().await {
            task??;
        }
        Ok(())
    }

    /// Reads all that is there and prints what is wrong with it: whether nothing is, and where the logs start.
    ///
    /// # Errors
    /// What is there cannot be read.
    pub async fn verdict(&self, targets: &[Target]) -> Result<(bool, BTreeMap<Partition, i64>)> {
        let (findings, starts) = workload::conclude(&self.client, targets, &self.recorder).await?;
        let acked = self.acked();
        println!("{acked} records acknowledged, {findings}");
        findings.lines().for_each(|line| println!("ANOMALY {line}"));
        Ok((findings.is_empty() && acked > 0, starts))
    }
}

async fn connect(bootstrap: &str) -> Result<Client> {
    Ok(Client::connect(ClientConfig::new(bootstrap.split(','))).await?)
}
