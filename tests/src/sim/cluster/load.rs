//! The clients of a run: producers, readers, administrators, and the last read.

use std::sync::Arc;
use std::time::Duration;

use headwater_client::{
    Admin, BrokerStatus, Client, ClientConfig, ErrorCode, NewTopic, ProducerConfig, ProducerRecord,
    TopicPartition,
};
use tokio::sync::{mpsc, watch};

use super::coverage::Counters;
use super::nodes::{self, GRPC_PORT};
use crate::history::Recorder;
use crate::sim::Result;
use crate::sim::world::{SimEntropy, connector, now_ms};
use crate::workload::{self, Target, patiently};

/// The host of all clients.
pub const CLIENTS: &str = "clients";

const PRODUCERS: u32 = 3;
/// Pause of each producer after a record: a third more than the operations that a full run must have, and many seeds
/// more in the same time than with a pause half as long.
const PACE: Duration = Duration::from_millis(45);
/// Pause between two looks at the ends of the partitions.
const LIST_PAUSE: Duration = Duration::from_millis(150);
/// Every partition takes a write again this soon after the last fault.
const FRESH_WRITE_MAX: Duration = Duration::from_secs(20);

/// What an administrator is told to do.
#[derive(Debug, Clone)]
pub enum Order {
    Move { dice: u64, brokers: Vec<i32> },
    Transfer { dice: u64 },
    Drain { broker: i32, undo: bool },
}

/// What the clients of a run are given.
pub struct Clients {
    pub seed: u64,
    pub founders: i32,
    /// Of each partition.
    pub replicas: usize,
    pub recorder: Recorder,
    pub counters: Counters,
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// The load ends.
    pub stop: watch::Receiver<bool>,
    /// The cluster is whole again: the last read may begin.
    pub whole: watch::Receiver<bool>,
}

/// Topics of the load: one that keeps everything, one that loses its oldest records all the time.
pub fn targets() -> [Target; 2] {
    [Target::new("kept", 3), Target::new("trimmed", 2)]
}

impl Clients {
    /// The whole life of the clients.
    pub async fn run(mut self) -> Result<()> {
        let client = self.connect(0).await?;
        let [kept, trimmed] = targets();
        let replicas = i32::try_from(self.replicas)?;
        for target in [&kept, &trimmed] {
            let topic = NewTopic { replicas: Some(replicas), ..NewTopic::new(&*target.topic) };
            let topic = topic.partitions(target.partitions).config("segment.bytes", "16384");
            let expires = target.topic == trimmed.topic;
            create(&client, if expires { topic.config("retention.bytes", "49152") } else { topic }).await?;
        }

        let mut load = Vec::new();
        for number in 0..PRODUCERS {
            let producer = self.producer(number).await?;
            let targets = targets().to_vec();
            let run =
                workload::produce(producer, number, targets, self.recorder.clone(), self.stop.clone(), PACE);
            load.push(tokio::spawn(run));
        }
        let mut readers = Vec::new();
        for (number, rack) in [(1, None), (2, Some("rack-1".to_owned()))] {
            let client =
                Client::connect(ClientConfig { rack, ..self.config(100 + u64::from(number)) }).await?;
            let run =
                workload::follow(client, number, kept.clone(), self.recorder.clone(), self.stop.clone());
            readers.push(tokio::spawn(run));
        }
        let lister = workload::list(
            self.connect(7).await?,
            kept.clone(),
            self.recorder.clone(),
            self.stop.clone(),
            LIST_PAUSE,
        );
        load.push(tokio::spawn(lister));
        let churn = churn(self.connect(8).await?, trimmed.clone(), replicas, self.stop.clone());
        load.push(tokio::spawn(churn));
        let orders = std::mem::replace(&mut self.orders, mpsc::unbounded_channel().1);
        let administrator =
            administrate(self.connect(9).await?, orders, self.replicas, self.counters.clone());
        let administrator = tokio::spawn(administrator);
        for task in load {
            task.await?;
        }
        for reader in readers {
            reader.await??;
        }
        // The sender lives in the driver.
        let _ = self.whole.wait_for(|whole| *whole).await;
        administrator.abort();
        self.write_everywhere().await?;
        workload::read_finally(&client, &[kept, trimmed], &self.recorder).await?;
        Ok(())
    }

    fn config(&self, number: u64) -> ClientConfig {
        ClientConfig {
            connector: Some(connector()),
            clock: Arc::new(now_ms),
            seed: Some(self.seed ^ number.wrapping_mul(0x9e37_79b9)),
            request_timeout: Duration::from_secs(5),
            bootstrap_timeout: Duration::from_secs(60),
            ..ClientConfig::new((1..=self.founders).map(|id| format!("{}:{GRPC_PORT}", nodes::name(id))))
        }
    }

    async fn connect(&self, number: u64) -> Result<Client> {
        Ok(Client::connect(self.config(number)).await?)
    }

    async fn producer(&self, number: u32) -> Result<headwater_client::Producer> {
        let config = ProducerConfig {
            linger: Duration::from_millis(2),
            delivery_timeout: Duration::from_secs(20),
            ..ProducerConfig::default()
        };
        let client = self.connect(20 + u64::from(number)).await?;
        Ok(patiently(|| client.producer(config.clone())).await?)
    }

    /// Liveness: once everything is mended, every partition takes writes.
    async fn write_everywhere(&self) -> Result<()> {
        let producer = self.producer(PRODUCERS).await?;
        let mut under_way = Vec::new();
        for (number, partition) in targets().iter().flat_map(Target::all).enumerate() {
            let value = (u64::from(PRODUCERS) << 40) | number as u64;
            let record = ProducerRecord::new(Arc::clone(&partition.topic), workload::payload(value))
                .partition(partition.partition);
            let begun = self.recorder.now();
            under_way.push((partition, value, begun, producer.send(record).await?));
        }
        for (partition, value, begun, delivery) in under_way {
            let outcome = tokio::time::timeout(FRESH_WRITE_MAX, delivery).await;
            let delivered =
                outcome.map_err(|_| format!("{partition} takes no writes after everything was mended"))?;
            let offset =
                delivered.map_err(|error| format!("{partition}, after everything was mended: {error}"))?;
            workload::note_acked(&self.recorder, &partition, PRODUCERS, value, offset.offset, begun);
        }
        Ok(())
    }
}

/// Until the cluster has founded itself there are too few brokers: asked again, as any other refusal is.
async fn create(client: &Client, topic: NewTopic) -> Result<()> {
    const ATTEMPTS: usize = 100;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        let created = client.admin().create_topics(vec![topic.clone()], false).await;
        let result = created.map(|created| created.into_iter().find_map(|(_, result)| result.err()));
        match result {
            Ok(None) => return Ok(()),
            // After an unknown outcome it may be there already.
            Ok(Some(error)) if error.code() == Some(ErrorCode::TopicAlreadyExists) => return Ok(()),
            Ok(Some(error)) | Err(error) => refused = Some(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{} was not created: {refused:?}", topic.name).into())
}

/// Topics come and go, configurations change, records are deleted. Any outcome is fine: what is tested is what the
/// brokers make of it.
async fn churn(client: Client, trimmed: Target, replicas: i32, stop: watch::Receiver<bool>) {
    let admin = client.admin();
    for round in 0_i64.. {
        if *stop.borrow() {
            return;
        }
        let topic = format!("churn-{}", round % 3);
        let new = NewTopic { replicas: Some(replicas), ..NewTopic::new(&*topic) }.partitions(1);
        let _ = admin.create_topics(vec![new], false).await;
        let segment_bytes = Some((16_384 + 1_024 * (round % 7)).to_string());
        let _ = admin.alter_configs("kept", vec![("segment.bytes".to_owned(), segment_bytes)], false).await;
        for partition in trimmed.all() {
            let _ = admin.delete_records(vec![(partition, Some(100 * round))]).await;
        }
        tokio::time::sleep(Duration::from_millis(3_000)).await;
        if round % 2 == 1 {
            let _ = admin.delete_topics([topic]).await;
        }
    }
}

/// Carries out orders, one after the other; a refusal is an answer too.
async fn administrate(
    client: Client,
    mut orders: mpsc::UnboundedReceiver<Order>,
    replicas: usize,
    counters: Counters,
) {
    let admin = client.admin();
    let mut led_before = None;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Transfer { dice } => {
                let (partition, entropy) = any_partition(dice);
                let to = Some(1 + entropy.below(3) as i32);
                if let Ok(results) = admin.transfer_leaders(vec![(partition, to)]).await
                    && results.iter().all(|(_, result)| result.is_ok())
                {
                    counters.count("path:transfer");
                }
            }
            Order::Move { dice, mut brokers } => {
                let (partition, entropy) = any_partition(dice);
                while brokers.len() > replicas {
                    brokers.remove(entropy.below(brokers.len() as u64) as usize);
                }
                let first = entropy.below(brokers.len() as u64) as usize;
                brokers.rotate_left(first);
                let _ = admin.reassign(vec![(partition, brokers)], false).await;
            }
            Order::Drain { broker, undo: false } => {
                led_before = leaders(&admin, broker).await;
                let _ = admin.drain_node(broker, false).await;
            }
            Order::Drain { broker, undo: true } => {
                if led_before.take() > Some(0) && leaders(&admin, broker).await == Some(0) {
                    counters.count("path:drain");
                }
                let _ = admin.drain_node(broker, true).await;
            }
        }
    }
}

/// How many partitions a broker leads, as far as the cluster knows.
async fn leaders(admin: &Admin, id: i32) -> Option<u32> {
    let status = admin.cluster_status().await.ok()?;
    let is_it = |status: &&BrokerStatus| status.broker.as_ref().is_some_and(|broker| broker.id == id);
    status.brokers.iter().find(is_it).map(|status| status.leaders)
}

fn any_partition(dice: u64) -> (TopicPartition, SimEntropy) {
    let entropy = SimEntropy::new(dice);
    let all: Vec<TopicPartition> =
        targets().iter().flat_map(|target| target.all().collect::<Vec<_>>()).collect();
    (all[entropy.below(all.len() as u64) as usize].clone(), entropy)
}
