//! Sends the lines of standard input to a topic, and says where the last one went.
//!
//! ```text
//! seq 1000 | cargo run -p headwater-client --example produce -- TOPIC [HOST:PORT]
//! ```

use std::error::Error;
use std::io::BufRead;

use headwater_client::{Client, ClientConfig, ProducerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: produce TOPIC [HOST:PORT]")?;
    let broker = arguments.next().unwrap_or_else(|| "127.0.0.1:9093".to_owned());

    let client = Client::connect(ClientConfig::new([broker])).await?;
    let producer = client.producer(ProducerConfig::default()).await?;
    let mut last = None;
    for line in std::io::stdin().lock().lines() {
        // Waits while the buffer is full, so memory stays bounded however long the input is.
        let line = line?;
        last = Some(producer.send_parts(&topic, None, None, Some(line.as_bytes()), &[], None).await?);
    }
    producer.close().await;

    let stats = producer.stats();
    println!("{} of {} records acknowledged", stats.records_delivered, stats.records_accepted);
    if let Some(delivery) = last {
        let partition = delivery.partition().clone();
        println!("the last one is at offset {} of {partition}", delivery.await?.offset);
    }
    Ok(())
}
