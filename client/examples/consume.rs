//! Prints a topic from its start up to where its end is now.
//!
//! ```text
//! cargo run -p headwater-client --example consume -- TOPIC [HOST:PORT]
//! ```

use std::error::Error;

use headwater_client::{Client, ClientConfig, ConsumerConfig, OffsetSpec, Position, TopicPartition};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: consume TOPIC [HOST:PORT]")?;
    let broker = arguments.next().unwrap_or_else(|| "127.0.0.1:9093".to_owned());

    let client = Client::connect(ClientConfig::new([broker])).await?;
    let admin = client.admin();
    let mut asked = Vec::new();
    for (_, described) in admin.describe_topics([topic.as_str()]).await? {
        for partition in described?.partitions {
            let partition = TopicPartition::new(topic.as_str(), partition.partition);
            asked.push((partition, OffsetSpec::HighWatermark));
        }
    }
    let mut ends = Vec::new();
    for (partition, listed) in admin.list_offsets(asked).await? {
        ends.push((partition, listed?.offset.unwrap_or(0)));
    }

    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign(ends.iter().map(|(partition, _)| (partition.clone(), Position::Start))).await?;
    while ends.iter().any(|(partition, end)| consumer.position(partition).is_some_and(|at| at < *end)) {
        let record = consumer.next().await?;
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        println!("{}-{}@{}: {value}", record.topic, record.partition, record.offset);
    }
    Ok(())
}
