//! Creates a topic, unless it is there, and describes it.
//!
//! ```text
//! cargo run -p headwater-client --example admin -- TOPIC [HOST:PORT]
//! ```

use std::error::Error;

use headwater_client::{Client, ClientConfig, ErrorCode, NewTopic};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: admin TOPIC [HOST:PORT]")?;
    let broker = arguments.next().unwrap_or_else(|| "127.0.0.1:9093".to_owned());

    let client = Client::connect(ClientConfig::new([broker])).await?;
    let admin = client.admin();
    let cluster = admin.cluster().await?;
    println!("cluster {} of {} broker(s)", cluster.cluster_id, cluster.brokers.len());

    let new = NewTopic::new(topic.as_str()).partitions(3).config("retention.ms", "86400000");
    for (name, created) in admin.create_topics(vec![new], false).await? {
        match created {
            Ok(created) => println!("created {name} with {} partitions", created.partitions),
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => println!("{name} exists"),
            Err(error) => return Err(error.into()),
        }
    }
    for partition in admin.describe_partitions([topic]).await? {
        let (start, end) = (partition.log_start_offset, partition.high_watermark);
        println!(
            "partition {}: offsets {start} to {end}, {} bytes",
            partition.partition, partition.size_bytes
        );
    }
    Ok(())
}
