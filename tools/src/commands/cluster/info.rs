//! `streamctl cluster info`: who is there, as every broker knows it.

use serde_json::json;

use crate::connect::connect;
use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

pub async fn run(settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let cluster = admin.cluster().await?;
    let topics = admin.list_topics().await?;
    let led = |broker: i32| {
        topics.iter().flat_map(|t| &t.partitions).filter(|p| p.leader_id == Some(broker)).count()
    };
    let brokers: Vec<_> = cluster
        .brokers
        .iter()
        .map(|b| {
            json!({
                "id": b.id,
                "grpc_address": b.grpc_address,
                "kafka_address": b.kafka_address,
                "rack": b.rack,
                "version": b.version,
                "partitions_led": led(b.id),
            })
        })
        .collect();
    let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
    let data = json!({
        "cluster_id": cluster.cluster_id,
        "controller_id": cluster.controller_id,
        "topics": topics.len(),
        "partitions": partitions,
        "brokers": brokers,
    });
    output.report(&data, |page| {
        let controller =
            if cluster.controller_id < 0 { "none".into() } else { cluster.controller_id.to_string() };
        page.fields(&[
            ("cluster", cluster.cluster_id.clone()),
            ("controller", controller),
            ("topics", topics.len().to_string()),
            ("partitions", partitions.to_string()),
        ]);
        page.line("");
        let rows = cluster.brokers.iter().map(|b| {
            vec![
                b.id.to_string(),
                b.grpc_address.clone(),
                b.kafka_address.clone(),
                b.version.clone(),
                led(b.id).to_string(),
            ]
        });
        page.table(&[">BROKER", "GRPC", "KAFKA", "VERSION", ">LEADS"], rows);
    })
}
